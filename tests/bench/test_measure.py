"""What a figure says of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.bench.measure import Figure, quantile


@pytest.mark.parametrize(
    ("value", "bound", "better", "met"),
    [(2, 1, "higher", True), (0.99, 1, "higher", False), (1, 1, "lower", True), (1.01, 1, "lower", False)],
)
def test_a_figure_is_never_rounded_into_a_pass(value: float, bound: float, better: str, met: bool) -> None:
    figure = Figure("x", value, "ms", bound, "higher" if better == "higher" else "lower")
    assert figure.met is met


def test_a_figure_without_a_requirement_is_neither_met_nor_missed() -> None:
    assert Figure("x", 1, "ms").met is None


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1), share=st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_with_that_share_below(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values)


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
