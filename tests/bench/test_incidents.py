"""The bench tells of an incident as everybody does."""

from lmx_ledger.bench.incidents import measure_incidents


def test_timeline_and_hypotheses_of_a_busy_window_are_measured() -> None:
    (figure,) = measure_incidents(2_000)
    assert (figure.bound, figure.unit) == (1_000.0, "ms")
    assert figure.value > 0
    assert "2,000 events" in figure.baseline
    assert "0 hypotheses" not in figure.baseline
