"""The figures that trouble shows in, over time, so that what was done can be held against them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.requests import percentile

_FULL: Final = ("kv.reserved", "guard.threshold_breached", "guard.threshold_cleared")


class Symptom(NamedTuple):
    """A figure: its name for people, its unit, whether the 95th percentile or the mean tells, and which way is good."""

    name: str
    unit: str
    by_p95: bool = False
    falls: bool = True


WAIT: Final = Symptom("wait in line, p95", "ms", by_p95=True)
FIRST: Final = Symptom("time to first token, p95", "ms", by_p95=True)
FULL: Final = Symptom("share of the memory limit in use", "share")
SWAP: Final = Symptom("written to swap", "bytes/s")
CLOCK: Final = Symptom("clock of the GPU", "MHz", falls=False)
BUSY: Final = Symptom("share of time in which the GPU is busy", "share")
OF_SIGNAL: Final = {
    "queue_wait": WAIT,
    "memory_full": FULL,
    "memory": FULL,
    "swap": SWAP,
    "thermal": CLOCK,
    "gpu": BUSY,
    "burn": FIRST,
}
"""By the guard's signals."""
_SAYS: Final = {"queue_wait": 1000.0, "memory_full": 1.0, "gpu": 1.0}
"""Readings of a signal that are its symptom's own figure, and by what they are to be multiplied."""


class Symptoms:
    """All of them of a window. Values count by the time that their events have, not by their order."""

    def __init__(self, events: Iterable[Recorded]) -> None:
        found: dict[Symptom, list[tuple[int, float]]] = defaultdict(list)
        swapped: tuple[int, int] | None = None
        for event in events:
            data, at = event.data, event.time_us
            match event.type:
                case "request.admitted" if (wait := data.get("queue_ms")) is not None:
                    found[WAIT].append((at, wait))
                case "request.first_token" if (ttft := data.get("ttft_ms")) is not None:
                    found[FIRST].append((at, ttft))
                case kind if kind in _FULL and data.get("limit_bytes") and data.get("used_bytes") is not None:
                    found[FULL].append((at, data["used_bytes"] / data["limit_bytes"]))
                case "sensor.swap_thrash" | "sensor.swap_recovered":
                    found[SWAP].append((at, data.get("bytes_per_s", 0)))
                case "sensor.thermal_throttled" | "sensor.thermal_recovered" if data.get("gpu_mhz") is not None:
                    found[CLOCK].append((at, data["gpu_mhz"]))
                case "sensor.sampled":
                    if data.get("gpu_mhz") is not None:
                        found[CLOCK].append((at, data["gpu_mhz"]))
                    if data.get("gpu_busy") is not None:
                        found[BUSY].append((at, data["gpu_busy"]))
                    if (out := data.get("swap_out_bytes")) is not None:
                        if swapped is not None and at > swapped[0] and out >= swapped[1]:
                            found[SWAP].append((at, (out - swapped[1]) / (at - swapped[0]) * 1e6))
                        swapped = at, out
        self._values = {symptom: sorted(values) for symptom, values in found.items()}

    def known(self, symptom: Symptom) -> bool:
        """Whether anything tells of it."""
        return symptom in self._values

    def between(self, symptom: Symptom, from_us: int, until_us: int) -> float | None:
        """The figure of that time; None where nothing tells."""
        values = self._values.get(symptom, [])
        within = [v for _, v in values[bisect_left(values, (from_us,)) : bisect_left(values, (until_us,))]]
        if not within:
            return None
        return percentile(within, 0.95) if symptom.by_p95 else sum(within) / len(within)


def reading_of(signal: str, readings: dict[str, object]) -> float | None:
    """The symptom's figure as the guard itself read it; None where its reading is another one."""
    value = readings.get(signal)
    return value * _SAYS[signal] if signal in _SAYS and isinstance(value, int | float) else None
