"""How fast it goes just now: tokens per second and time to the first token, over the recent past."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from lmx_ledger.core.clock import mono_ns

_WINDOW_NS: Final = 10_000_000_000
_RECENT: Final = 256
_RECENT_GAPS: Final = 8_192
_OLD_NS: Final = 600_000_000_000
"""What is older says nothing of how fast it goes just now."""


class Rates:
    """Sliding counts, in memory only; the ledger has what happened, this is what a status page shows."""

    def __init__(self) -> None:
        self._decoded: deque[tuple[int, int]] = deque()
        self._first: deque[tuple[int, float, float, int]] = deque(maxlen=_RECENT)
        self._gaps: deque[tuple[int, float]] = deque(maxlen=_RECENT_GAPS)
        self.on_gaps: Callable[[str, Sequence[float]], None] | None = None
        """Told of the pauses between the tokens of each request that has ended."""

    def decoded(self, tokens: int) -> None:
        """Some tokens were drawn."""
        now = mono_ns()
        self._decoded.append((now, tokens))
        self._forget(now)

    def first_token(self, ttft_ms: float, prefill_ms: float, prompt_tokens: int) -> None:
        """A request had its first token."""
        self._first.append((mono_ns(), ttft_ms, prefill_ms, prompt_tokens))

    def ended(self, model: str, gaps_ms: Sequence[float]) -> None:
        """A request has ended, between whose tokens were these pauses."""
        now = mono_ns()
        self._gaps.extend((now, gap) for gap in gaps_ms)
        if self.on_gaps is not None and gaps_ms:
            self.on_gaps(model, gaps_ms)

    @property
    def itl_p95_ms(self) -> float | None:
        """95th percentile of the pause between two tokens, over the last 8,192 of ten minutes; None without any."""
        since = mono_ns() - _OLD_NS
        return percentile_95([gap for at, gap in self._gaps if at > since])

    @property
    def decode_tps(self) -> float:
        """Tokens drawn per second over the last ten seconds, all streams together."""
        self._forget(mono_ns())
        return round(sum(tokens for _, tokens in self._decoded) / (_WINDOW_NS / 1e9), 1)

    @property
    def prefill_tps(self) -> float | None:
        """Prompt tokens per second of prefill over recent requests; None before the first."""
        ms = sum(prefill for _, _, prefill, _ in self._first)
        return round(sum(tokens for _, _, _, tokens in self._first) / (ms / 1e3), 1) if ms else None

    @property
    def ttft_p95_ms(self) -> float | None:
        """95th percentile of the time to the first token, over the requests of ten minutes; None without any."""
        since = mono_ns() - _OLD_NS
        return percentile_95([ttft for at, ttft, _, _ in self._first if at > since])

    def _forget(self, now: int) -> None:
        while self._decoded and now - self._decoded[0][0] > _WINDOW_NS:
            self._decoded.popleft()


def percentile_95(values: list[float]) -> float | None:
    """The nearest-rank 95th percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)], 3)
