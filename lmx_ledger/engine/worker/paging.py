"""Orders to let weights go and to bring them back, as the step loop carries them out between its steps."""

import time

from lmx_ledger.engine.protocol import Paged, PageIn, PageOut
from lmx_ledger.engine.worker.pace import Pace
from lmx_ledger.engine.worker.weights import Moved, Weights


def page_out(weights: Weights, order: PageOut, *, has_streams: bool) -> Paged:
    """All of it at once: nothing is read for it, and seldom anything written."""
    if has_streams:
        return _told(weights, order.call, Moved(0, 0, 0, 0.0), "it has streams")
    try:
        return _told(weights, order.call, weights.page_out(order.bytes), None)
    except (OSError, RuntimeError) as failure:
        return _told(weights, order.call, Moved(0, 0, 0, 0.0), f"{type(failure).__name__}: {failure}")


class Returning:
    """A page-in that is under way, a layer at a time."""

    def __init__(self, weights: Weights, order: PageIn, pace: Pace) -> None:
        self._weights, self._call, self._pace = weights, order.call, pace
        self._began_s = time.monotonic()
        self._layers = self._bytes = 0

    def step(self) -> Paged | None:
        """One layer; what to answer once there is none left, or one cannot be read."""
        error, size = None, 0
        try:
            size = self._weights.page_in()
            self._pace.spend(size)
        except (OSError, RuntimeError, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._layers, self._bytes = self._layers + bool(size), self._bytes + size
        if size and self._weights.layers_out:
            return None
        ms = (time.monotonic() - self._began_s) * 1e3
        return _told(self._weights, self._call, Moved(self._layers, self._bytes, 0, ms), error)


def _told(weights: Weights, call: int, moved: Moved, error: str | None) -> Paged:
    return Paged(
        call=call,
        layers=moved.layers,
        bytes=moved.bytes,
        written_bytes=moved.written_bytes,
        ms=moved.ms,
        resident_bytes=weights.resident_bytes,
        layers_out=weights.layers_out,
        error=error,
    )
