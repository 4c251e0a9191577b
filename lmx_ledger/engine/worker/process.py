"""What this process takes of the machine's memory, and how it gives back what it does not use."""

import ctypes
import functools
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from lmx_ledger.engine.worker.footprint import phys_footprint

_FAILED: Final = ("allocate", "bad_alloc", "alloc]")
_STATM: Final = Path("/proc/self/statm")


def process_bytes() -> int:
    """Its memory, by the cheapest of the ways that there are: on macOS with what Metal holds for it."""
    if sys.platform == "linux":
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    if (footprint := phys_footprint(os.getpid())) is not None:
        return footprint
    import psutil  # noqa: PLC0415 - only where there is no /proc

    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Have the C library return what was freed: of arrays too small for a mapping of their own it keeps the pages."""
    _trim()()


@functools.cache
def _trim() -> Callable[[], object]:
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        return lambda: library.malloc_trim(0)
    return lambda: None


def is_allocation(error: Exception) -> bool:
    """Whether memory was what it lacked: MLX says so in words only."""
    return isinstance(error, MemoryError) or any(word in str(error) for word in _FAILED)
