"""`lmx bench incidents`: whether the parts of requests add up, and what it costs to tell of an incident."""

import enum
from collections.abc import Callable, Collection
from pathlib import Path

from lmx_ledger.bench.incidents import EVENTS, measure_incidents
from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.mixed import REQUESTS, measure_parts
from lmx_ledger.bench.postmortem import measure_postmortem


class Part(enum.StrEnum):
    """Of what is measured, in this order."""

    PARTS = "parts"
    INCIDENT = "incident"
    WHAT_IF = "what-if"


def measure(
    folder: Path,
    *,
    say: Callable[[str], None],
    requests: int = REQUESTS,
    events: int = EVENTS,
    only: Collection[Part] = tuple(Part),
) -> list[Figure]:
    """All figures, or those of some parts; works in an empty folder; `say` gets progress.

    Raises:
        OSError, sqlite3.Error: a process that is measured could not be started, or the disk cannot be used.
    """
    figures: list[Figure] = []
    if Part.PARTS in only:
        say(f"{requests:,} requests of every kind, while workers are killed and weights are put out")
        figures += measure_parts(folder, requests)
    if Part.INCIDENT in only:
        say(f"an incident of {events:,} events")
        figures += measure_incidents(events)
    if Part.WHAT_IF in only:
        say(f"a paging storm of {events:,} events, and what other settings would have done")
        place = folder / "storm"
        place.mkdir()
        figures += measure_postmortem(place, events)
    return figures
