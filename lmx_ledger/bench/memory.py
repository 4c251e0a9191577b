"""`lmx bench memory`: models that share a limit, weights that move, floods and failures, each with a real daemon.

All of it under small limits, with models that are written for it; what is compared is measured in turns.
"""

import enum
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.moving import moving
from lmx_ledger.bench.sharing import scene, turns
from lmx_ledger.bench.shortage import failing, flood
from lmx_ledger.bench.sizes import MemorySizes


class Part(enum.StrEnum):
    """Of what is measured, in this order."""

    TURNS = "turns"
    SCENE = "scene"
    PAGING = "paging"
    FLOOD = "flood"
    FAILURE = "failure"


_PARTS: Final[dict[Part, tuple[Callable[[Path, MemorySizes], Iterator[Figure]], str]]] = {
    Part.TURNS: (turns, "three models take turns for {minutes:g} minutes"),
    Part.SCENE: (scene, "a small model makes room for a large one's context"),
    Part.PAGING: (moving, "weights go and come back"),
    Part.FLOOD: (flood, "{requests} prompts of up to {longest:,} tokens at once"),
    Part.FAILURE: (failing, "a worker gets no more memory"),
}


def measure(
    folder: Path, sizes: MemorySizes, *, say: Callable[[str], None], only: Collection[Part] = tuple(Part)
) -> list[Figure]:
    """All figures, or those of some parts; works in an empty folder; `say` gets progress.

    Raises:
        OSError: a process that is measured could not be started, or has ended.
    """
    figures: list[Figure] = []
    for part, (figures_of, about) in _PARTS.items():
        if part in only:
            say(about.format(**sizes._asdict()))
            figures.extend(figures_of(folder, sizes))
    return figures
