"""What the step loop decides, as plain functions and small states without MLX and without a clock."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Final

ALWAYS_TOGETHER: Final = 512
"""Rows of so many tokens or fewer share a batch: what padding costs there is less than a step of their own."""
UNLIKE: Final = 3
"""Of two longer rows that share a batch, one is at most so many times as long as the other."""
MOST_GROUPS: Final = 4
SLOWEST: Final = 8
"""However slow a group's step is, the others take at most so many in between."""
LEAST_CHUNK: Final = 8
_GRAIN: Final = 4
FIRST_CHUNK: Final = 64
"""Tokens of the first chunk, while nobody knows how fast the model reads."""
ALONE_S: Final = 0.3
"""What one chunk may take while nobody decodes: commands are heard between two chunks."""
_RECENT: Final = 0.3


def alike(lengths: Iterable[int], others: Iterable[int]) -> bool:
    """Whether rows of these lengths and of those may share a batch, in which all are padded to the longest."""
    together = [*lengths, *others]
    longest = max(together)
    return longest <= ALWAYS_TOGETHER or longest <= UNLIKE * min(together)


def to_join(groups: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """Two groups (by the lengths of their rows) that should be one from now on; None when all may stay as they are.

    Like ones go together, and of more than `MOST_GROUPS` the two that are least unlike: each group costs a step.
    """
    pairs = list(combinations(range(len(groups)), 2))
    fitting = [(a, b) for a, b in pairs if alike(groups[a], groups[b])]
    if not fitting and len(groups) > MOST_GROUPS:
        fitting = pairs
    return min(fitting, key=lambda pair: _ratio(groups[pair[0]], groups[pair[1]]), default=None)


def _ratio(lengths: Sequence[int], others: Sequence[int]) -> float:
    longest, other = sorted((max(lengths), max(others)), reverse=True)
    return longest / max(other, 1)


def due(steps_s: Sequence[float], waited: Sequence[int]) -> list[int]:
    """The groups that step now, by what their steps take and how many rounds each has waited; the fastest always.

    A slow group steps once while the fastest has taken as much time as it: so it costs the others at most half.
    """
    fastest = min(steps_s)
    return [
        number
        for number, (step_s, rounds) in enumerate(zip(steps_s, waited, strict=True))
        if rounds + 1 >= min(round(step_s / fastest), SLOWEST)
    ]


class Speed:
    """How many prompt tokens are read in a second; forgets, for it falls as a prompt gets longer."""

    def __init__(self) -> None:
        self._per_token_s: float | None = None

    def seen(self, tokens: int, took_s: float) -> None:
        """One chunk of so many tokens took so long."""
        each = max(took_s, 1e-6) / tokens
        if self._per_token_s is None:
            self._per_token_s = each
            return
        # Sooner too careful than too bold: it is the streams that decode who wait for a chunk that is too long.
        weight = 0.7 if each > self._per_token_s else 0.4
        self._per_token_s += weight * (each - self._per_token_s)

    def chunk(self, room_s: float, most: int) -> int:
        """Tokens that should take no longer than `room_s`; at least `LEAST_CHUNK`, or nothing would ever be read."""
        if self._per_token_s is None:
            return min(FIRST_CHUNK, most)
        tokens = int(room_s / self._per_token_s) // _GRAIN * _GRAIN
        return max(LEAST_CHUNK, min(tokens, most))


class Mean:
    """A mean of recent values; slower ones count less, for a machine that is disturbed is not slow."""

    def __init__(self) -> None:
        self.value: float | None = None

    def seen(self, value: float) -> None:
        """One more."""
        if self.value is None:
            self.value = value
        else:
            self.value += (_RECENT if value < self.value else _RECENT / 6) * (value - self.value)


class Queued:
    """What the device has been given and nobody has waited for yet, in order: so that a wait is put to its cause."""

    def __init__(self) -> None:
        self._steps: dict[int, Mean] = {}
        self._tickets = 0
        self._since_s = 0.0

    def give(self, step: Mean, now_s: float) -> int:
        """A step begins behind all that is queued; the ticket is for whoever waits for it."""
        if not self._steps:
            self._since_s = now_s
        self._tickets += 1
        self._steps[self._tickets] = step
        return self._tickets

    def forget(self, ticket: int) -> None:
        """It was never begun, or nobody will wait for it."""
        self._steps.pop(ticket, None)

    def waited(self, ticket: int, now_s: float) -> None:
        """That one is done, and all before it; what it took by itself is known then, unless it was known to be done."""
        step = self._steps.get(ticket)
        if step is None:
            return
        others = self._done([number for number in self._steps if number < ticket])
        del self._steps[ticket]
        took_s = now_s - self._since_s - others
        self._since_s = now_s
        if took_s > 0:
            step.seen(took_s)

    def waited_for_all(self, began_s: float, now_s: float) -> float:
        """Everything is done: how long what began at `began_s` took by itself, in seconds."""
        since_s = self._since_s if self._steps else began_s
        others = self._done(list(self._steps))
        self._since_s = now_s
        return max(now_s - since_s - others, 0.0)

    def _done(self, tickets: list[int]) -> float:
        return sum(self._steps.pop(ticket).value or 0.0 for ticket in tickets)


class Turns:
    """Whose prompt is read next: that of the owner who has had least, by start-time fair queueing.

    A newcomer begins where the least served of those that wait is: it neither waits for a long prompt to be read, nor
    makes up for the time when it asked for nothing.
    """

    def __init__(self) -> None:
        self._served: dict[int, float] = {}

    def next(self, waiting: Mapping[int, int]) -> int:
        """The row to read from, of some rows by their owner (`{row: owner}`, in the order in which they came)."""
        owners = dict.fromkeys(waiting.values())
        least = min((self._served[owner] for owner in owners if owner in self._served), default=0.0)
        self._served = {owner: max(self._served.get(owner, least), least) for owner in owners}
        return min(waiting, key=lambda row: self._served[waiting[row]])

    def read(self, owner: int, tokens: float, weight: float) -> None:
        """So many tokens were read for it; twice the weight, twice the share."""
        self._served[owner] = self._served.get(owner, 0.0) + tokens / weight
