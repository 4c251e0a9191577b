"""Memory on Linux: /proc/meminfo, vmstat and pressure/memory, and the limits of this process's cgroups."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from lmx_ledger.core.sensed import MemoryReading
from lmx_ledger.sensor.reading import SensorError

_LINE: Final = re.compile(r"^(\S+?):?\s+(\d+)", re.MULTILINE)
_STALLED: Final = re.compile(r"^(some|full) avg10=(\d+\.\d+)", re.MULTILINE)
_KB: Final = 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class _Files(NamedTuple):
    """How a version of cgroups names the limit, what counts against it, and its reclaimable part."""

    limit: str
    used: str
    cache: tuple[str, ...]


_V1: Final = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2: Final = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


class LinuxMemory:
    """A sensor of `MemoryReading`. Without pressure: Linux has no such level."""

    name: Final = "linux"

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        page_bytes: int = _PAGE_BYTES,
    ) -> None:
        self._proc = proc
        self._cgroup = cgroup
        self._page_bytes = page_bytes

    def read(self) -> MemoryReading:
        """See `reading.Sensor`."""
        file = self._proc / "meminfo"
        try:
            memory = _figures(file)
            total, available = memory["MemTotal"] * _KB, memory["MemAvailable"] * _KB
        except (OSError, ValueError) as error:
            raise SensorError(f"{file} cannot be read: {error}") from None
        except KeyError as error:
            raise SensorError(f"{file} has no {error.args[0]}") from None
        if not total:
            raise SensorError(f"{file} says that there is no memory")
        swap = self._swap()
        limit, used = self._tightest_cgroup(total)
        stalled = self._stalled()
        return MemoryReading(
            total_bytes=total,
            available_bytes=min(available, total),
            cgroup_limit_bytes=limit,
            cgroup_used_bytes=used,
            swap_used_bytes=max((memory["SwapTotal"] - memory["SwapFree"]) * _KB, 0)
            if {"SwapTotal", "SwapFree"} <= memory.keys()
            else None,
            swap_in_bytes=self._pages(swap, "pswpin"),
            swap_out_bytes=self._pages(swap, "pswpout"),
            stalled_some=stalled.get("some"),
            stalled_full=stalled.get("full"),
        )

    def _swap(self) -> dict[str, int]:
        try:
            return _figures(self._proc / "vmstat")
        except (OSError, ValueError):
            # A container may hide it: swap is then not known, the rest is.
            return {}

    def _stalled(self) -> dict[str, float]:
        """Shares of the last ten seconds: https://docs.kernel.org/accounting/psi.html."""
        try:
            text = (self._proc / "pressure" / "memory").read_text()
        except (OSError, ValueError):
            # A kernel without PSI, or one that was told not to keep it.
            return {}
        return {who: min(float(percent), 100.0) / 100 for who, percent in _STALLED.findall(text)}

    def _pages(self, swap: dict[str, int], name: str) -> int | None:
        return swap[name] * self._page_bytes if name in swap else None

    def _tightest_cgroup(self, total: int) -> tuple[int | None, int | None]:
        """Limit and use where the least is left: a wide limit that neighbours fill binds before a narrow empty one."""
        found: list[tuple[int, int, int]] = []
        for folder, files in self._cgroups():
            try:
                limit = int((folder / files.limit).read_text())
                used = int((folder / files.used).read_text())
                cache = _figures(folder / "memory.stat")
            except (OSError, ValueError):
                # "max" is no limit; a container shows some levels of the tree only, and the root has no limit.
                continue
            # v1 has no word for "none": its highest number is beyond any machine.
            if limit < total:
                # Pages of files go before anything else has to: MemAvailable counts them as available too.
                used = max(used - sum(cache.get(name, 0) for name in files.cache), 0)
                found.append((limit - used, limit, used))
        if not found:
            return None, None
        _, limit, used = min(found)
        return limit, used

    def _cgroups(self) -> Iterator[tuple[Path, _Files]]:
        """From this process's own cgroup up to the root, as far as they can be seen from here."""
        try:
            lines = (self._proc / "self" / "cgroup").read_text().splitlines()
        except (OSError, ValueError):
            return
        root, files, own = self._cgroup, _V2, None
        for line in lines:
            controllers, _, path = line.partition(":")[2].partition(":")
            if "memory" in controllers.split(","):
                root, files, own = self._cgroup / "memory", _V1, path
                break
            if line.startswith("0::"):
                own = path
        if own is None:
            return
        # A process from outside a cgroup namespace has its path begin with "..".
        inside = () if ".." in (parts := PurePosixPath(own).parts[1:]) else parts
        for depth in range(len(inside), -1, -1):
            yield root.joinpath(*inside[:depth]), files


def _figures(file: Path) -> dict[str, int]:
    """`name value` or `name: value`, a line each."""
    return {name: int(value) for name, value in _LINE.findall(file.read_text())}
