"""What a pass takes is foretold a little too high, and never forgets at once what it has seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.engine.worker.estimate import Estimate, Pass

passes = st.builds(Pass, st.integers(1, 16), st.integers(1, 2_048), st.integers(1, 131_072))


@given(passes, st.floats(1, 1e6), st.floats(0, 1e3), st.floats(0.01, 50))
def test_a_pass_that_took_more_is_not_underrated_again(one: Pass, token: float, pair: float, times: float) -> None:
    estimate = Estimate(token, pair)
    took = int(estimate.bytes(one) * times)
    estimate.seen(one, took)
    assert estimate.bytes(one) >= took


def test_one_that_took_less_brings_it_down_by_and_by_and_not_beneath_it() -> None:
    estimate, one, took = Estimate(10_000, 0), Pass(1, 512, 512), 2_000_000
    estimate.seen(one, 20_000_000)
    before = estimate.bytes(one)
    for _ in range(500):
        estimate.seen(one, took)
    assert took <= estimate.bytes(one) < before / 5


def test_sizes_are_learned_apart() -> None:
    estimate = Estimate(10_000, 0)
    small, large = Pass(1, 1, 600), Pass(1, 2_048, 2_048)
    known = estimate.bytes(large)
    estimate.seen(small, 50_000_000)
    assert estimate.bytes(small) >= 50_000_000
    assert estimate.bytes(large) == known


@given(st.integers(0, 10**9), st.integers(0, 100_000), st.integers(1, 4_096))
def test_a_piece_that_is_said_to_fit_does(room: int, length: int, most: int) -> None:
    estimate = Estimate(20_000, 16)
    tokens = estimate.tokens(room, length, most)
    assert 0 <= tokens <= most
    if tokens:
        # Sizes are rounded to a grain, so the whole may be a grain more than what was looked at.
        assert estimate.bytes(Pass(1, max(tokens - 3, 1), length + tokens - 3)) <= room


def test_copies_take_as_much_as_they_are_until_less_was_seen() -> None:
    estimate = Estimate(1, 0)
    assert estimate.copies(1_000) == 1_000
    for _ in range(300):
        estimate.copied(1_000, 100)
    assert estimate.copies(1_000) == pytest.approx(500, rel=0.01)
    estimate.copied(1_000, 900)
    assert estimate.copies(1_000) == 900


def test_what_earlier_workers_lacked_is_reckoned_in() -> None:
    one = Pass(1, 512, 512)
    assert Estimate(10_000, 0, scale=2.0).bytes(one) > 1.9 * Estimate(10_000, 0).bytes(one) - 500_000
