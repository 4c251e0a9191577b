"""Who folds a ledger sees all of it, however much of it is sealed."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx_ledger.bench.served import served_requests
from lmx_ledger.core.events import Severity
from lmx_ledger.ledger import history as history_module
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import Follower
from lmx_ledger.ledger.history import History, Whole
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place

COUNT = 5 * BLOCK
BEGIN_US = 1_700_000_000_000_000
TYPES = [("request.*",), ("request.finished",), ("request.q*", "request.received"), ("guard.*",)]


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same events in a database, and for the most part in two segments."""
    paths = [tmp_path_factory.mktemp(name) / "ledger.db" for name in ("live", "sealed")]
    load = list(islice(served_requests(), COUNT))
    for path in paths:
        migrate(path)
        file = LedgerFile(path, "NORMAL", "boot-a")
        file.append([draft(Place(), event, BEGIN_US + n) for n, event in enumerate(load)])
        file.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "KEPT", 100)
        patch.setattr(sealing, "LARGEST", 2 * BLOCK)
        assert len(list(seal_through(paths[1], 4 * BLOCK))) == 2
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def two(ledgers: tuple[Path, Path]) -> tuple[Reader, History]:
    """The first one as it is, and the second one for who folds."""
    live, sealed = ledgers
    return Reader.open(live), History(sealed, Reader.open(sealed))


@pytest.fixture(scope="module")
def whole(ledgers: tuple[Path, Path]) -> Whole:
    """The second one, whatever is asked."""
    return Whole(ledgers[1], Reader.open(ledgers[1]))


@settings(max_examples=60, deadline=None)
@given(
    types=st.sampled_from(TYPES), after=st.integers(0, COUNT + 10), limit=st.integers(1, 700), pages=st.integers(1, 4)
)
def test_pages_of_types_are_the_same_sealed_or_not(
    two: tuple[Reader, History], types: tuple[str, ...], after: int, limit: int, pages: int
) -> None:
    live, history = two
    for _ in range(pages):
        wanted = EventFilter(types=types, after=after, limit=limit)
        expected = live.events(wanted)
        assert list(history.events(wanted)) == expected
        if not expected:
            break
        after = expected[-1].seq


def test_a_follower_sees_everything_from_the_first_event_on(two: tuple[Reader, History]) -> None:
    _, history = two
    follower = Follower(history, EventFilter(types=("request.*",)), 0)
    seen = []
    while page := follower.advance():
        seen += [event.seq for event in page]
    assert seen == list(range(1, COUNT + 1))


def test_a_question_that_is_no_fold_is_one_of_the_database(two: tuple[Reader, History]) -> None:
    _, history = two
    (first,) = history.events(EventFilter(limit=1))
    assert first.seq == 4 * BLOCK
    (last,) = history.events(EventFilter(types=("request.*",), order="desc", limit=1))
    assert last.seq == COUNT


@settings(max_examples=60, deadline=None)
@given(
    types=st.sampled_from([*TYPES, ("*",)]),
    since=st.integers(-10, COUNT + 10),
    count=st.integers(0, COUNT + 20),
    after=st.integers(0, COUNT),
)
def test_a_stretch_of_time_is_the_same_sealed_or_not(
    two: tuple[Reader, History], types: tuple[str, ...], since: int, count: int, after: int
) -> None:
    live, history = two
    bounds = BEGIN_US + since, BEGIN_US + since + count
    wanted = EventFilter(types=types, since_us=bounds[0], until_us=bounds[1], after=after, limit=COUNT)
    assert list(history.within(types, *bounds, after)) == live.events(wanted)


def test_what_is_sealed_while_a_stretch_is_read_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate(path)
    file = LedgerFile(path, "NORMAL", "boot-a")
    file.append([draft(Place(), event, BEGIN_US + n) for n, event in enumerate(islice(served_requests(), COUNT))])
    file.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealing, "KEPT", 100)
        patch.setattr(history_module, "_PAGE", 300)
        walk = History(path, Reader.open(path)).within(("*",), BEGIN_US, BEGIN_US + COUNT)
        seen = [event.seq for event in islice(walk, 450)]
        assert len(list(seal_through(path, 3 * BLOCK))) == 1
        seen += [event.seq for event in walk]
    assert seen == list(range(1, COUNT + 1))


def test_a_segment_of_another_time_is_not_opened(two: tuple[Reader, History], tmp_path: Path) -> None:
    _, history = two
    behind = BEGIN_US + 4 * BLOCK
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_module, "read", lambda *_: pytest.fail("it was opened"))
        found = list(history.within(("*",), behind, BEGIN_US + COUNT))
    assert [event.seq for event in found][:1] == [behind - BEGIN_US + 1]


EDGE = st.integers(0, COUNT + 10).map(lambda n: BEGIN_US + n)


@settings(max_examples=150)
@given(data=st.data())
def test_any_question_has_the_same_answer_sealed_or_not(
    two: tuple[Reader, History], whole: Whole, data: st.DataObject
) -> None:
    live, _ = two
    known = live.events(EventFilter(limit=COUNT))
    some = data.draw(st.sampled_from(known))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "types": st.sampled_from([(), *TYPES]),
        "since_us": EDGE,
        "until_us": EDGE,
        "boot": st.sampled_from(["boot-a", "boot-b"]),
        "request": st.just(some.request),
        "session": st.just(some.session),
        "model": st.just(some.model),
        "cause": st.just(some.cause),
        "severity": st.sampled_from(list(Severity)),
        "after": st.integers(0, COUNT + 10),
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(optional)), max_size=3))
    wanted = EventFilter(limit=data.draw(st.integers(1, COUNT)), **{name: data.draw(optional[name]) for name in chosen})
    assert whole.events(wanted) == live.events(wanted)


def test_a_question_from_the_end_is_one_of_the_database(whole: Whole) -> None:
    found = whole.events(EventFilter(order="desc", limit=COUNT))
    assert [event.seq for event in found] == list(range(COUNT, 4 * BLOCK - 1, -1))
