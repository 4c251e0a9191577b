"""The bench tells of an incident as everybody does."""

from pathlib import Path

from lmx_ledger.bench.incidents import measure_incidents


def test_timeline_hypotheses_and_postmortem_of_a_busy_window_are_measured(tmp_path: Path) -> None:
    figure, page = measure_incidents(tmp_path, 2_000)
    assert (figure.bound, figure.unit) == (1_000.0, "ms")
    assert figure.value > 0
    assert "2,000 events" in figure.baseline
    assert "0 hypotheses" not in figure.baseline
    assert (page.bound, page.unit) == (5.0, "s")
    assert "2,000 events read" in page.baseline
    assert "1 form of it in all" in page.baseline
