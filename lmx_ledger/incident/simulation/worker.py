"""One worker's time, as it is shared: one prompt is read at a time, all answers are drawn together; pure.

What the step loop does token by token is here a rate between two events: while somebody draws, a piece of a prompt
lasts so many of their steps, and whose piece is next the loop's own `Turns` say.
"""

import math
from typing import Final, NamedTuple

from lmx_ledger.engine.worker.schedule import ALONE_S, Turns

_NOTHING: Final = 1e-9
"""Seconds of work that are none: what floating point leaves over."""
_LEAST_PIECE_S: Final = 0.01


class Stream:
    """What one request still wants of the worker, in seconds of its own time. Prompts of one `owner` are read one after
    the other; twice the `weight`, twice the share.
    """

    __slots__ = ("draw_s", "owner", "read_s", "weight")

    def __init__(self, read_s: float, draw_s: float, owner: int = 0, weight: float = 1.0) -> None:
        self.read_s, self.draw_s, self.owner, self.weight = read_s, draw_s, owner, weight


class Done(NamedTuple):
    """Whose prompts have been read, and whose answers have been drawn."""

    read: tuple[Stream, ...] = ()
    drawn: tuple[Stream, ...] = ()


_NOBODY: Final = Done()


class WorkerTime:
    """`company`: by which share of its own time each other answer beside it makes one slower; `gap`: steps that
    a piece of a prompt lasts while somebody draws, `step_s` each.
    """

    def __init__(self, company: float, gap: int, step_s: float) -> None:
        self.company, self.gap, self.step_s = company, gap, step_s
        self.at_s = 0.0
        self.away = False
        self._reading: list[Stream] = []
        self._drawing: dict[Stream, None] = {}
        self._turns = Turns()
        self._read: Stream | None = None
        self._piece_s = 0.0

    def take(self, stream: Stream, now_s: float) -> Done:
        """One more, from now on; who came to an end until then."""
        done = self.advance(now_s)
        self._reading.append(stream)
        self._read = self._read or self._next()
        return done

    def drop(self, stream: Stream, now_s: float) -> Done:
        """It wants nothing any more."""
        done = self.advance(now_s)
        if stream in self._reading:
            self._reading.remove(stream)
            if stream is self._read:
                self._turn(stream)
        self._drawing.pop(stream, None)
        return done

    def leave(self, now_s: float) -> Done:
        """The worker is away from now on: nothing goes on."""
        done = self.advance(now_s)
        self.away = True
        return done

    def come(self, now_s: float) -> None:
        """It is there again, and goes on where it was."""
        self.at_s, self.away = now_s, False

    def next_s(self) -> float:
        """When the first of them comes to an end, of reading or of drawing, or another prompt has its turn."""
        if self.away:
            return math.inf
        reading, drawing = self._rates()
        found = math.inf
        if self._read is not None:
            left_s = self._read.read_s
            if len(self._reading) > 1:
                left_s = min(left_s, self._piece_left_s())
            found = left_s / reading
        if self._drawing and drawing:
            found = min(found, min(one.draw_s for one in self._drawing) / drawing)
        return self.at_s + found

    def advance(self, now_s: float) -> Done:
        """Up to `now_s`, which is not behind `next_s`."""
        spent_s = now_s - self.at_s
        self.at_s = now_s
        if self.away:
            return _NOBODY
        reading, drawing = self._rates()
        for one in self._drawing:
            one.draw_s -= spent_s * drawing
        drawn = tuple(one for one in self._drawing if one.draw_s <= _NOTHING)
        for one in drawn:
            del self._drawing[one]
        one_read = self._read
        if one_read is None:
            return Done(drawn=drawn) if drawn else _NOBODY
        one_read.read_s -= spent_s * reading
        self._piece_s += spent_s * reading
        if one_read.read_s <= _NOTHING:
            self._reading.remove(one_read)
            self._drawing[one_read] = None
            self._turn(one_read)
            return Done((one_read,), drawn)
        if len(self._reading) > 1 and self._piece_left_s() <= _NOTHING:
            self._turn(one_read)
        return Done(drawn=drawn) if drawn else _NOBODY

    def _turn(self, last: Stream) -> None:
        """A piece of `last` has been read, and now one of whose turn it is."""
        self._turns.read(last.owner, self._piece_s, last.weight)
        self._piece_s = 0.0
        self._read = self._next()

    def _next(self) -> Stream | None:
        waiting = {number: one.owner for number, one in enumerate(self._reading)}
        return self._reading[self._turns.next(waiting)] if waiting else None

    def _piece_left_s(self) -> float:
        whole_s = max(self.gap * self.step_s, _LEAST_PIECE_S) if self._drawing else ALONE_S
        return max(whole_s - self._piece_s, 0.0)

    def _rates(self) -> tuple[float, float]:
        """Seconds of reading, and of drawing for each of those who draw, in one second."""
        share = 1 / (1 + self.company * (len(self._drawing) - 1)) if self._drawing else 0.0
        if self._read is None:
            return 0.0, share
        if not self._drawing:
            return 1.0, 0.0
        return self.gap / (self.gap + 1), share / (self.gap + 1)
