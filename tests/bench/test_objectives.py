"""The bench judges what the daemon judges."""

from pathlib import Path

from lmx_ledger.bench.objectives import measure_objectives


def test_both_figures_are_measured_over_real_rollups(tmp_path: Path) -> None:
    steady, first = measure_objectives(tmp_path, days=1)
    assert (steady.bound, steady.unit, first.unit) == (20.0, "ms", "ms")
    assert steady.value > 0 < first.value
    assert "9 objectives" in steady.baseline
