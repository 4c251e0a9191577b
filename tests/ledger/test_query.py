"""Every filter, alone and together, against a plain list."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.ids import new_request_id, request_id_of
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.filter import EventFilter, Order
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued, started, stopped, write, writing

REQUESTS: Final = [new_request_id() for _ in range(3)]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Reader, list[Recorded]]]:
    """240 events of two boots, and the same as a list."""
    path = tmp_path_factory.mktemp("history") / "ledger.db"
    with ExitStack() as stack:
        ledgers = [stack.enter_context(writing(path, boot)) for boot in ("boot-a", "boot-b")]
        for i in range(240):
            data: ev.EventData = (
                ev.RequestQueued(position=i, running=1),
                ev.ModelUnloaded(reason="x"),
                ev.RequestFirstToken(ttft_ms=1.0, prefill_ms=1.0),
                ev.DaemonStopped(reason="x", uptime_s=1.0),
            )[i % 4]
            ledger = ledgers[i % 7 < 2]
            ledger.emit(
                ev.Event(
                    data=data,
                    stream="guard",
                    request=(*REQUESTS, None)[i % 5 % 4],
                    session=("s1", "s2", None)[i % 3],
                    model=("m0", "m1", None)[i // 3 % 3],
                    incident=(None, None, None, "inc")[i // 5 % 4],
                    cause=i % 4 or None,
                    severity=(None, Severity.ERROR, Severity.WARNING)[i // 7 % 3],
                )
            )
            assert ledger.flush(30)
    reader = Reader.open(path)
    whole = reader.events(EventFilter(limit=1_000))
    assert [e.seq for e in whole] == list(range(1, 241))
    yield reader, whole
    reader.close()


def expected(whole: list[Recorded], f: EventFilter) -> list[Recorded]:
    def wanted_type(type_: str) -> bool:
        return any(type_.startswith(t[:-1]) if t.endswith("*") else type_ == t for t in f.types)

    found = [
        e
        for e in whole
        if (not f.types or wanted_type(e.type))
        and (f.request is None or e.request == (request_id_of(f.request) or f.request))
        and (f.session is None or e.session == f.session)
        and (f.model is None or e.model == f.model)
        and (f.incident is None or e.incident == f.incident)
        and (f.severity is None or e.severity >= f.severity)
        and (f.cause is None or e.cause == f.cause)
        and (f.since_us is None or e.time_us >= f.since_us)
        and (f.until_us is None or e.time_us < f.until_us)
        and (f.boot is None or e.boot == f.boot)
        and (f.after is None or (e.seq > f.after if f.order == "asc" else e.seq < f.after))
    ]
    return (found if f.order == "asc" else found[::-1])[: f.limit]


TYPES = st.sampled_from(
    ["request.*", "request.queued", "model.unloaded", "daemon.*", "*", "re*", "request_*", "nope", ""]
)
ORDERS: st.SearchStrategy[Order] = st.sampled_from(["asc", "desc"])


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_filters_in_any_combination_find_what_a_list_finds(
    history: tuple[Reader, list[Recorded]], data: st.DataObject
) -> None:
    reader, whole = history
    moments = st.sampled_from(whole).map(lambda e: e.time_us)
    wanted = EventFilter(
        types=tuple(data.draw(st.lists(TYPES, max_size=3), "types")),
        request=data.draw(st.none() | st.sampled_from([*REQUESTS, REQUESTS[0].replace("req_", "chatcmpl-"), "x"])),
        session=data.draw(st.none() | st.sampled_from(["s1", "s2", "s3"])),
        model=data.draw(st.none() | st.sampled_from(["m0", "m1", "m2"])),
        incident=data.draw(st.none() | st.sampled_from(["inc", "other"])),
        severity=data.draw(st.none() | st.sampled_from(Severity)),
        cause=data.draw(st.none() | st.integers(0, 4)),
        since_us=data.draw(st.none() | moments),
        until_us=data.draw(st.none() | moments),
        boot=data.draw(st.none() | st.sampled_from(["boot-a", "boot-b", "boot-c"])),
        after=data.draw(st.none() | st.integers(0, 241)),
        order=data.draw(ORDERS),
        limit=data.draw(st.integers(1, 300)),
    )
    assert reader.events(wanted) == expected(whole, wanted)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_join_without_gap_or_repeat(history: tuple[Reader, list[Recorded]], order: Order) -> None:
    reader, whole = history
    pages: list[Recorded] = []
    after = None
    while page := reader.events(EventFilter(types=("request.*",), after=after, order=order, limit=7)):
        pages += page
        after = page[-1].seq
    assert pages == expected(whole, EventFilter(types=("request.*",), order=order, limit=1_000))


def test_the_head_is_zero_in_an_empty_ledger_and_follows_the_writer(ledger: Ledger, reader: Reader) -> None:
    assert reader.head() == 0
    assert reader.events(EventFilter()) == []
    ledger.emit(queued(model="a model that came later"))
    assert ledger.flush(30)
    assert reader.head() == 1
    assert reader.events(EventFilter())[0].model == "a model that came later"


def last_run(path: Path, boot: str = "now") -> tuple[str, int, int] | None:
    reader = Reader.open(path)
    found = reader.last_run_without_end(boot)
    reader.close()
    return None if found is None else (found.boot, found.pid, found.last_seq)


def test_a_first_run_and_a_run_after_a_good_end_find_nothing(path: Path) -> None:
    write(path)
    assert last_run(path) is None
    write(path, started(), stopped(), boot="old")
    assert last_run(path) is None
    write(path, started(), boot="now")
    assert last_run(path) is None


def test_a_run_without_an_end_is_found_with_its_last_acts(path: Path) -> None:
    write(path, started(), stopped(), boot="older")
    write(path, started(77), *(queued(i) for i in range(30)), boot="old")
    write(path, queued(), boot="now")
    reader = Reader.open(path)
    found = reader.last_run_without_end("now")
    reader.close()
    assert found is not None
    assert (found.boot, found.pid, found.last_seq, found.last_daemon) == ("old", 77, 33, "daemon.started")
    assert found.started_us <= found.last_time_us
    assert len(found.last_acts) == 20
    assert found.last_acts[-1] == "33 request.queued request:req_a"


def test_a_crash_that_was_noticed_once_is_not_found_again(path: Path) -> None:
    write(path, started(77), boot="old")
    assert last_run(path) == ("old", 77, 1)
    crash = ev.DaemonCrashDetected(boot="old", pid=77, last_seq=1, last_time="", last_acts=[])
    write(path, ev.Event(data=crash, stream="daemon"), boot="failed to start")
    assert last_run(path) is None


@settings(max_examples=20, deadline=None)
@given(
    jumps=st.lists(st.integers(-3_000, 3_000), min_size=1, max_size=8),
    since=st.integers(-5_000, 12_000) | st.none(),
    until=st.integers(-5_000, 12_000) | st.none(),
)
def test_time_is_found_across_blocks_and_jumps_of_the_clock(
    tmp_path_factory: pytest.TempPathFactory, jumps: list[int], since: int | None, until: int | None
) -> None:
    path = tmp_path_factory.mktemp("clock") / "ledger.db"
    migrate(path)
    now, times = 1_000_000, []
    file = LedgerFile(path, "NORMAL", "boot-a")
    for at, jump in enumerate(jumps):
        now += jump
        group = [now + step for step in range(100 + 211 * (at % 3))]
        file.append([draft(Place(), queued(), time_us) for time_us in group])
        times += group
    file.close()
    base = 1_000_000
    wanted = EventFilter(
        since_us=None if since is None else base + since, until_us=None if until is None else base + until, limit=10_000
    )
    found = [event.seq for event in Reader.open(path).events(wanted)]
    low, high = wanted.since_us or 0, wanted.until_us or 1 << 60
    assert found == [seq for seq, time_us in enumerate(times, 1) if low <= time_us < high]
