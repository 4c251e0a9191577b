"""A postmortem of a storm that is made up is written, and tries settings, whatever its size."""

import re
from pathlib import Path

from lmx_ledger.bench.postmortem import BOUND_MS, measure_postmortem


def test_a_storm_of_some_thousand_events_is_written_of(tmp_path: Path) -> None:
    (figure,) = measure_postmortem(tmp_path, 4_000)
    assert (figure.unit, figure.bound) == ("ms", BOUND_MS)
    assert figure.value > 0
    assert re.match(r"4,000 events, [1-9] settings tried, [\d,]+ bytes", figure.baseline)
