"""`lmx bench guard`: a flood with the guard and without it, and what it costs to judge the objectives."""

import enum
from collections.abc import Callable, Collection
from pathlib import Path

from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.objectives import measure_objectives
from lmx_ledger.bench.overload import overload
from lmx_ledger.bench.sizes import GuardSizes


class Part(enum.StrEnum):
    """Of what is measured, in this order."""

    FLOOD = "flood"
    OBJECTIVES = "objectives"


def measure(
    folder: Path, sizes: GuardSizes, *, say: Callable[[str], None], only: Collection[Part] = tuple(Part)
) -> list[Figure]:
    """All figures, or those of some parts; works in an empty folder; `say` gets progress.

    Raises:
        OSError, sqlite3.Error: a process that is measured could not be started, or the disk cannot be used.
    """
    figures: list[Figure] = []
    if Part.FLOOD in only:
        say(f"{sizes.sessions} new sessions over {sizes.slots} slots, with the guard and without")
        figures += overload(folder, sizes)
    if Part.OBJECTIVES in only:
        say(f"objectives over {sizes.days} days")
        figures += measure_objectives(folder, sizes.days)
    return figures
