"""Which values a sweep has, however it is written, and what of each is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.incident.estimate import Estimator
from lmx_ledger.incident.replayed import TYPES, Stretch
from lmx_ledger.incident.rules import BadRule, show_value, value_of
from lmx_ledger.incident.sweep import MOST, swept, values_of
from tests.incident.parts import scenario

EVER = 2**60


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("memory.page_at=0.7,0.8, 0.9", [0.7, 0.8, 0.9]),
        ("memory.limit=8GB..24GB/5", [8e9, 12e9, 16e9, 20e9, 24e9]),
        ("guard.queue_wait=500ms..2s/4", [0.5, 1.0, 1.5, 2.0]),
        ("queue.max_running=1..16/4", [1, 6, 11, 16]),
        ("memory.page_at=0.9..0.5/3", [0.9, 0.7, 0.5]),
        ("queue.max_waiting=0", [0]),
    ],
)
def test_values_are_listed_or_lie_evenly_between_two(text: str, values: list[float]) -> None:
    key, found = values_of(text)
    assert [value_of(key, one) for one in found] == values


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(2, MOST))
def test_a_range_begins_and_ends_where_it_says_and_has_as_many_values(first: int, last: int, steps: int) -> None:
    key, found = values_of(f"memory.limit={first}..{last}/{steps}")
    assert len(found) == steps
    assert (value_of(key, found[0]), value_of(key, found[-1])) == (first, last)


@pytest.mark.parametrize(
    "text",
    ["", "memory.limit", "memory.limit=", "=1", "memory.limit=1GB..2GB", "memory.limit=1GB..2GB/1",
     "memory.limit=a..b/3", "memory.limit=1GB..2GB/x", "kv.ram=1GB,2GB", "queue.max_running=1.5",
     f"memory.page_at={'0.8,' * 33}"],
)  # fmt: skip
def test_what_is_no_sweep_is_said(text: str) -> None:
    with pytest.raises(BadRule):
        values_of(text)


def test_each_value_has_a_row_once_beside_what_else_is_set() -> None:
    events, _ = scenario("swap")
    stretch = Stretch(0, EVER, [[event for event in events if event.type in TYPES]])
    found = swept(stretch, Estimator(events, 0, EVER), {"guard.dwell": "2s"}, "guard.exit_after", ["1s", "3s", "1s"])
    assert (found.key, found.in_force) == ("guard.exit_after", 3.0)
    assert [row.value for row in found.rows] == [1.0, 3.0]
    assert all(row.replayed.given == {"guard.dwell": 2.0, "guard.exit_after": row.value} for row in found.rows)
    public = found.public()
    assert [row["decisions"] >= row["different"] for row in public["rows"]] == [True, True]
    with pytest.raises(BadRule, match=r"cannot be above page_at"):
        swept(stretch, Estimator(events, 0, EVER), {}, "memory.page_at", ["0.1"])


def test_values_are_shown_as_people_write_them() -> None:
    shown = {"memory.limit": 190_000_000, "guard.queue_wait": 4.0, "memory.page_at": 0.85, "context.max_tokens": 64_000}
    assert [show_value(key, value) for key, value in shown.items()] == ["190 MB", "4.0 s", "0.85", "64,000"]
