"""The circuit breaker: closed, open, half-open (https://martinfowler.com/bliki/CircuitBreaker.html), as pure functions.

Closed: failures in a row are counted, and what fails is tried again soon. Open: it is not tried, and whoever asks is
told at once. Half-open: it is tried once; one success closes the breaker, one failure opens it for longer.
"""

import enum
from typing import Final, NamedTuple

SOON_S: Final = (0.0, 0.0, 0.5)
"""Pauses behind the first failures in a row; one more opens the breaker."""
OPEN_S: Final = (2.0, 5.0, 15.0, 30.0)
"""How long it stays open: the first time, the second, ... and from then on the last."""


class State(enum.Enum):
    """Of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker(NamedTuple):
    """`failures` in a row, of which `opened` times it opened."""

    state: State = State.CLOSED
    failures: int = 0
    opened: int = 0

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try."""
        if self.state is State.OPEN:
            return OPEN_S[min(self.opened, len(OPEN_S)) - 1]
        return SOON_S[self.failures - 1] if self.failures else 0.0

    def failed(self) -> "Breaker":
        """After one more failure."""
        failures = self.failures + 1
        if self.state is State.CLOSED and failures <= len(SOON_S):
            return Breaker(State.CLOSED, failures, self.opened)
        return Breaker(State.OPEN, failures, self.opened + 1)

    def tried(self) -> "Breaker":
        """When the pause is over."""
        return self._replace(state=State.HALF_OPEN) if self.state is State.OPEN else self

    def succeeded(self) -> "Breaker":
        """After a success: closed, and nothing is remembered."""
        return Breaker()
