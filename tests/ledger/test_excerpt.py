"""Some events of a ledger in a file of their own."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.ids import new_request_id
from lmx_ledger.ledger.event_id import digest_of, event_id
from lmx_ledger.ledger.excerpt import write_excerpt
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import migrate

REQUESTS = [new_request_id(), new_request_id(), "of another form", None]
NAMES = st.sampled_from(["a", "b", "c", None])


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A ledger without events; to make one costs a tenth of a second."""
    path = tmp_path_factory.mktemp("empty") / "ledger.db"
    migrate(path)
    yield path


@st.composite
def excerpts(draw: st.DrawFn) -> list[Recorded]:
    events, seq = [], 0
    for gap in draw(st.lists(st.sampled_from([1, 2, 300, 2_000]), max_size=40)):
        seq += gap
        time_us = 1_773_480_000_000_000 + draw(st.integers(-5, 200)) * 1_000_000
        request, session, model = draw(st.sampled_from(REQUESTS)), draw(NAMES), draw(NAMES)
        streams = ["guard", f"model:{model}", f"session:{session}", f"request:{request}"]
        events.append(
            Recorded(
                seq=seq,
                id=event_id(time_us, draw(st.binary(min_size=10, max_size=32))),
                time_us=time_us,
                boot=draw(st.sampled_from(["b1", "b2"])),
                type=draw(st.sampled_from(["request.received", "kv.hit", "guard.stage_changed"])),
                v=1,
                severity=draw(st.sampled_from(list(Severity))),
                stream=draw(st.sampled_from(streams)),
                request=request,
                session=session,
                model=model,
                incident=draw(NAMES),
                cause=draw(st.one_of(st.none(), st.integers(1, seq))),
                data=draw(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-9, 9), st.text(max_size=9)))),
            )
        )
    return events


@given(events=excerpts(), model=NAMES, boot=st.sampled_from(["b1", "b2"]), since=st.integers(-5, 200))
@settings(max_examples=60)
def test_what_was_put_in_is_read_again_whatever_is_asked(
    empty: Path, events: list[Recorded], model: str | None, boot: str, since: int
) -> None:
    since_us = 1_773_480_000_000_000 + since * 1_000_000
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        shutil.copy(empty, path)
        write_excerpt(path, iter(events))
        reader = Reader.open(path)
        assert reader.events(EventFilter(limit=1_000)) == events
        assert reader.head() == max((event.seq for event in events), default=0)
        later = [event for event in events if event.time_us >= since_us]
        assert reader.events(EventFilter(since_us=since_us, limit=1_000)) == later
        mine = [event for event in events if event.boot == boot and model in {event.model, None}]
        assert reader.events(EventFilter(boot=boot, model=model, limit=1_000)) == mine
        reader.close()


def an_event(seq: int, **fields: object) -> Recorded:
    event = Recorded(
        seq=seq,
        id=event_id(1, b"0123456789"),
        time_us=1,
        boot="b",
        type="kv.hit",
        v=1,
        severity=Severity.INFO,
        stream="s",
        request=None,
        session=None,
        model=None,
        incident=None,
        cause=None,
        data={},
    )
    return msgspec.structs.replace(event, **fields)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([an_event(2), an_event(2)], "event 2 comes behind event 2"),
        ([an_event(2), an_event(1)], "event 1 comes behind event 2"),
        ([an_event(1, id="evt_1")], "is no id of an event"),
        ([an_event(1, cause=2**63)], "beyond 64 bits"),
    ],
)
def test_what_is_no_ledgers_is_refused(tmp_path: Path, events: list[Recorded], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        write_excerpt(tmp_path / "ledger.db", events)


@given(time_us=st.integers(0, 2**50), digest=st.binary(min_size=10, max_size=32))
def test_an_id_has_the_beginning_of_the_hash(time_us: int, digest: bytes) -> None:
    assert digest_of(event_id(time_us, digest)) == digest[:10]


@pytest.mark.parametrize(
    "text", ["", "evt_", "evt_1", "req_01KD3Y9A5S6D7F8G9H0J1K2L3M", "evt_01KD3Y9A5S6D7F8G9H0J1K2L3I"]
)
def test_what_is_no_id_has_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no id of an event"):
        digest_of(text)
