"""`/lmx/events/stream`: every wanted event once, in order, whoever wrote it, however often the client comes back."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import RunningDaemon
from tests.ledger.parts import queued, stopped


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that nobody else asks anything."""
    running = RunningDaemon(tmp_path_factory.mktemp("stream") / "home", "")
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture
def other(quiet: RunningDaemon) -> Iterator[Ledger]:
    """Another daemon's ledger: the same file."""
    ledger = Ledger.open(quiet.home / "ledger.db", boot="boot-other", synchronous="NORMAL")
    yield ledger
    ledger.close()


class Following:
    """One connection to the stream, read message by message."""

    def __init__(self, daemon: RunningDaemon, last: int | None = None, **filters: Any) -> None:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        self._client = httpx.Client(base_url=daemon.url, timeout=30)
        request = self._client.build_request("GET", "/lmx/events/stream", params=filters, headers=headers)
        self.response = self._client.send(request, stream=True)
        self._lines = self.response.iter_lines()
        # The first comment says that the place in the ledger is taken.
        assert next(self._lines) == ": lmx"

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self._client.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        fields: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                continue
            if not line:
                if fields:
                    event = json.loads(fields["data"])
                    assert (fields["id"], fields["event"]) == (str(event["seq"]), event["type"])
                    yield event
                fields = {}
                continue
            name, _, value = line.partition(": ")
            fields[name] = value


def head(daemon: RunningDaemon) -> int:
    return int(daemon.get("/lmx/events", params={"order": "desc", "limit": 1})["events"][0]["seq"])


def test_what_comes_is_told_whoever_wrote_it(quiet: RunningDaemon, other: Ledger) -> None:
    with Following(quiet) as stream:
        assert stream.response.headers["Content-Type"].startswith("text/event-stream")
        other.emit(queued(7, model="m0"))
        assert quiet.chat(model="nobody").status_code == 404
        first, second = islice(stream.messages(), 2)
        told = {first["type"], second["type"]}
    assert told == {"request.queued", "request.rejected"}
    assert second["seq"] == first["seq"] + 1


@pytest.mark.parametrize("seed", range(4))
def test_a_client_that_is_cut_off_and_comes_back_gets_each_wanted_event_once(
    quiet: RunningDaemon, other: Ledger, seed: int
) -> None:
    rng = random.Random(seed)
    begin = head(quiet)
    for i in range(1_200):
        session = f"s-{seed}" if rng.random() < 0.5 else "another"
        other.emit(queued(i, session=session))
    seen: list[dict[str, Any]] = []
    last: int | None = begin
    while len(seen) < 300:
        with Following(quiet, last=last, session=f"s-{seed}", after=0) as stream:
            for event in islice(stream.messages(), rng.randint(1, 90)):
                seen.append(event)
                last = event["seq"]
    assert other.flush(30)
    answer = quiet.get("/lmx/events", params={"session": f"s-{seed}", "after": begin, "limit": 1000})
    wanted = [event["seq"] for event in answer["events"]]
    assert [event["seq"] for event in seen] == wanted[: len(seen)]


def test_more_than_a_page_is_told_without_waiting_for_the_next_event(quiet: RunningDaemon, other: Ledger) -> None:
    begin = head(quiet)
    for i in range(1_700):
        other.emit(queued(i))
    assert other.flush(30)
    with Following(quiet, after=begin) as stream:
        told = [event["seq"] for event in islice(stream.messages(), 1_700)]
    assert told == list(range(begin + 1, begin + 1_701))


@pytest.mark.parametrize(
    ("params", "headers", "param"),
    [
        ({"order": "desc"}, {}, "order"),
        ({"limit": "5"}, {}, "limit"),
        ({"until": "2026-01-01T00:00:00Z"}, {}, "until"),
        ({}, {"Last-Event-ID": "yesterday"}, "Last-Event-ID"),
        ({}, {"Last-Event-ID": "9" * 30}, "Last-Event-ID"),
        ({"colour": "red"}, {}, "colour"),
    ],
)
def test_what_a_stream_cannot_be_asked_is_refused(
    quiet: RunningDaemon, params: dict[str, str], headers: dict[str, str], param: str
) -> None:
    answer = httpx.get(f"{quiet.url}/lmx/events/stream", params=params, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_an_event_is_told_with_its_causes_and_its_effects(quiet: RunningDaemon, other: Ledger) -> None:
    first = other.emit(stopped("a reason"))
    second = other.emit(queued(1, cause=first))
    third = other.emit(queued(2, cause=second))
    other.emit(queued(3, cause=second))
    assert other.flush(30)
    assert isinstance(second.seq, int)
    told = quiet.get(f"/lmx/events/{second.seq}")
    assert told["event"]["seq"] == second.seq
    assert [event["seq"] for event in told["causes"]] == [first.seq]
    assert [event["data"]["position"] for event in told["effects"]] == [2, 3]
    last = quiet.get(f"/lmx/events/{third.seq}")
    assert [event["seq"] for event in last["causes"]] == [first.seq, second.seq]
    assert [event["seq"] for event in quiet.get(f"/lmx/events/{first.seq}")["effects"]] == [
        second.seq,
        third.seq,
        third.seq + 1 if third.seq else 0,
    ]


@pytest.mark.parametrize(("seq", "status"), [("999999999", 404), ("0", 404), ("x", 400)])
def test_an_event_that_is_not_there_is_a_typed_error(quiet: RunningDaemon, seq: str, status: int) -> None:
    answer = httpx.get(f"{quiet.url}/lmx/events/{seq}", timeout=30)
    assert answer.status_code == status
    assert answer.json()["error"]["code"]


def test_a_stream_does_not_hold_up_a_stop_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path / "home", "")
    daemon.wait_ready()
    ready = daemon.wait_event("daemon.ready")["seq"]
    with Following(daemon, type="daemon.*") as stream:
        assert daemon.stop() == 0
        told = [(event["seq"], event["type"]) for event in stream.messages()]
    last = told[-1][0] if told else ready
    daemon.restart()
    with Following(daemon, last=last, type="daemon.*") as stream:
        for event in stream.messages():
            told.append((event["seq"], event["type"]))
            if event["type"] == "daemon.ready":
                break
    daemon.stop()
    kinds = [kind for _, kind in told]
    assert kinds[-2:] == ["daemon.started", "daemon.ready"]
    assert [seq for seq, _ in told] == sorted({seq for seq, _ in told})
    assert "daemon.draining" in kinds
    assert "daemon.stopped" in kinds


def test_the_data_of_every_message_is_the_events_public_form(quiet: RunningDaemon, other: Ledger) -> None:
    with Following(quiet, type="request.queued") as stream:
        other.emit(ev.Event(data=ev.RequestQueued(position=1, running=1), stream="odd\nname\r", model="模型"))
        event = next(stream.messages())
    assert (event["stream"], event["model"]) == ("odd\nname\r", "模型")
    assert event == quiet.get("/lmx/events", params={"after": event["seq"] - 1, "limit": 1})["events"][0]
