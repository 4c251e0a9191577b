"""What a worker gives a stream, and how it ends: the part of the daemon's end that serving sees."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from lmx_ledger.engine import protocol as wire

Item: TypeAlias = wire.Token | wire.Prefill | wire.Restored | wire.Recovered
"""What a stream is given."""


class EngineError(Exception):
    """The worker cannot do what it was asked; the message says why."""


class WorkerDied(EngineError):
    """The process is gone, and with it everything it had in flight.

    `suspect`: this stream was among those that it was busy with.
    """

    def __init__(self, message: str, *, suspect: bool = False) -> None:
        super().__init__(message)
        self.suspect = suspect


class LoadTimedOut(EngineError):
    """The model was not loaded in the time that it was given; the process is gone too."""


class Spent:
    """How a worker's time has gone, in nanoseconds: to the reading of prompts, and to steps of those who decode.

    It does one thing at a time and says so at once, so what lies between two of its reports went to the later one.
    """

    __slots__ = ("read", "reports", "since", "stepped")

    def __init__(self) -> None:
        self.read = self.stepped = self.reports = self.since = 0

    def begin(self, now: int) -> None:
        """It had nothing to do until now."""
        self.since = now

    def report(self, step: wire.Step, shares: "dict[int, EngineStream]", now: int) -> None:
        """Take in what a step says."""
        # Reports may arrive several at once: when each was done the worker knows.
        at = step.at_ns or now
        took, self.since = max(at - self.since, 0), max(at, self.since)
        self.reports += 1
        if step.prefill:
            self.read += took
            for progress in step.prefill:
                if stream := shares.get(progress.stream):
                    stream.share.read += took
            return
        self.stepped += took
        for token in step.tokens:
            if stream := shares.get(token.stream):
                share = stream.share
                if share.counted != self.reports:
                    share.counted = self.reports
                    share.stepped += took


class Share:
    """What of a worker's time one request had, with all of its streams; see `Spent`.

    `restored` is how long the fetching of its kept KV took, beside what the worker did meanwhile.
    """

    __slots__ = ("counted", "read", "restored", "stepped")

    def __init__(self) -> None:
        self.read = self.stepped = self.restored = self.counted = 0


class EngineStream:
    """One stream's side in the daemon: iterate over lists of what came since the last look, until it has finished.

    `on_left` is called once, when the worker has no more to do for it: that may be long before it is read to its end.
    What waits to be read is bounded by the stream's `max_tokens`, some hundred bytes a token (two thousand with the
    log-probabilities of 20 others).

    Raises, while iterating:
        WorkerDied: the worker is gone.
        EngineError: the worker refused the stream.
    """

    def __init__(
        self, number: int, on_left: Callable[["EngineStream"], None] | None = None, share: Share | None = None
    ) -> None:
        self.number = number
        self.share = share or Share()
        self.finished = False
        self.error: EngineError | None = None
        self._on_left = on_left
        self._arrived: deque[Item] = deque()
        self._wake = asyncio.Event()

    def deliver(self, item: Item) -> None:
        """Add what a step gave this stream."""
        self._arrived.append(item)
        self._wake.set()
        if isinstance(item, wire.Token) and item.finish is not None:
            self.leave()

    def leave(self) -> None:
        """The worker has no more to do for it; harmless when repeated."""
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left(self)

    def fail(self, error: EngineError) -> None:
        """End the stream with an error, behind what has arrived already."""
        self.error = error
        self._wake.set()
        self.leave()

    async def take(self) -> list[Item]:
        """All that has arrived; waits for at least one item."""
        while not self._arrived:
            if self.error is not None:
                raise self.error
            self._wake.clear()
            await self._wake.wait()
        items = list(self._arrived)
        self._arrived.clear()
        return items

    async def __aiter__(self) -> AsyncIterator[list[Item]]:
        while not self.finished:
            items = await self.take()
            last = items[-1]
            self.finished = isinstance(last, wire.Token) and last.finish is not None
            yield items
