"""How many bytes the daemon may plan with."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

import psutil

_RESERVE_FRACTION: Final = 0.1
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


@functools.cache
def limit_bytes(configured: int | Literal["auto"], recommended_bytes: int) -> int:
    """The limit on weights + KV + working memory, read once for each pair of arguments.

    `auto` is, on macOS, iogpu.wired_limit_mb when set, else Metal's recommended working set as the worker read it;
    elsewhere the cgroup's limit or the physical memory, less a tenth for everybody else.
    """
    if configured != "auto":
        return configured
    if sys.platform == "darwin" and (wired := _wired_limit_bytes() or recommended_bytes):
        return wired
    total = psutil.virtual_memory().total
    if _CGROUP.exists() and (text := _CGROUP.read_text().strip()).isdigit():
        total = min(total, int(text))
    return int(total * (1 - _RESERVE_FRACTION))


def _wired_limit_bytes() -> int:
    """0 when the operator has not raised it."""
    done = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb"], capture_output=True, text=True, check=False
    )
    text = done.stdout.strip()
    return int(text) * 1024**2 if done.returncode == 0 and text.isdigit() else 0
