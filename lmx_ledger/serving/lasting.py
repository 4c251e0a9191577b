"""One choice's tokens, whichever worker gives them: when one dies, its successor goes on behind the last token."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.protocol import Prefill, Recovered, Restored, Sampling, Token, first_room
from lmx_ledger.engine.stream import EngineError, EngineStream, Item, WorkerDied
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.parts import DECODE, LOAD, MEMORY, PREFILL, RESUME, Parts

FRUITLESS: Final = 3
"""Workers that may die while busy with a stream, without a token in between: then it is taken for what kills them."""


NEARLY_FULL: Final = 128
"""Tokens before its cache is full at which a stream asks for more memory."""


class Parked(EngineError):
    """The stream is out of the engine for lack of memory, and goes on when there is some."""


class Work(NamedTuple):
    """What is asked of the engine for one choice."""

    prompt: list[int]
    max_tokens: int
    eos: list[int]
    sampling: Sampling
    owner: int
    weight: float
    label: str = ""
    known: int = 0
    boundary: int = 0


class Resumed(NamedTuple):
    """A stream goes on: why it had stopped, behind how many tokens, how many were read again, and for how long."""

    reason: str
    error: str
    tokens: int
    reread_tokens: int
    gap_ms: float


class LastingStream:
    """Iterate over lists of what came, until it has finished.

    The daemon holds the ids that were given; position i of the answer is drawn with the same key wherever that is done,
    so nothing is lost, repeated or taken back. `on_left` is called once, when no worker has more to do for it;
    `on_resumed` with the first token behind each interruption; `grow` with the tokens that its cache has room for and
    how many of them are left, for the room from then on. `parts` is told what its time goes to.

    Raises, while iterating:
        WorkerDied: three workers died while they were busy with it, and none of them gave a token.
        EngineError: it was refused, failed by itself, or was ended.
        ModelUnavailable: there is no worker to be had.
    """

    def __init__(
        self,
        model: ServedModel,
        work: Work,
        on_left: Callable[["LastingStream"], None],
        on_resumed: Callable[["LastingStream", Resumed], None],
        grow: Callable[[int, int], int],
        parts: Parts,
    ) -> None:
        self._parts = parts
        self._model = model
        self._work = work
        self._on_left = on_left
        self._on_resumed = on_resumed
        self._grow = grow
        self._room = 0
        self._parked: Callable[[], Awaitable[None]] | None = None
        self._ids: list[int] = []
        self._worker: Worker | None = None
        self._stream: EngineStream | None = None
        self._waiting: asyncio.Future[Worker] | None = None
        self._ended: EngineError | None = None
        self._fruitless = 0
        self._last_ns = mono_ns()
        self._read = 0
        self._reused = 0
        self._interrupted: tuple[str, str] | None = None

    async def begin(self) -> None:
        """Give it to the model's worker, as soon as there is one.

        Raises:
            EngineError: it was ended meanwhile.
            ModelUnavailable: there is no worker to be had.
        """
        while True:
            if self._ended is not None:
                raise self._ended
            self._waiting = self._model.next_worker()
            if self._interrupted is None and not self._waiting.done():
                self._parts.look(mono_ns())
                self._parts.rest = LOAD
            worker = await self._waiting
            self._waiting = None
            try:
                self._stream = worker.insert(
                    self._work.prompt + self._ids,
                    prompt_len=len(self._work.prompt),
                    max_tokens=self._work.max_tokens - len(self._ids),
                    eos=self._work.eos,
                    sampling=self._work.sampling,
                    owner=self._work.owner,
                    weight=self._work.weight,
                    label=self._work.label,
                    known=self._work.known,
                    boundary=self._work.boundary,
                    on_left=self._left,
                    share=self._parts.share,
                )
            except WorkerDied:
                continue
            if self._interrupted is None:
                self._parts.look(mono_ns())
                self._parts.rest = PREFILL
            self._parts.begin_in(worker.spent)
            self._worker = worker
            self._room = first_room(len(self._work.prompt) + len(self._ids), self.left)
            return

    async def __aiter__(self) -> AsyncIterator[list[Item]]:
        while True:
            assert self._stream is not None  # noqa: S101 - begin() comes first
            try:
                async for items in self._stream:
                    self._note(items)
                    yield items
                return
            except WorkerDied as died:
                self._fruitless += died.suspect
                if self._ended is not None or self._fruitless >= FRUITLESS:
                    raise
                self._interrupt("worker_died", str(died))
            except Parked as parked:
                wait, self._parked = self._parked, None
                if self._ended is not None or wait is None:
                    raise
                self._interrupt("memory", str(parked))
                await wait()
            await self.begin()

    def _interrupt(self, reason: str, error: str) -> None:
        """Nothing comes for now: until the next token, time goes to that, or to the memory that is waited for."""
        self._interrupted = reason, error
        if reason != "worker_died":
            self._parts.look(mono_ns())
        # The last token of one that has died may have been long ago: it hung.
        self._parts.rest = MEMORY if reason == "memory" else RESUME

    def park(self, until: Callable[[], Awaitable[None]]) -> None:
        """Leave the engine behind the last token, and go on when that has been waited for."""
        if self._stream is None or self._worker is None or self._stream.finished or self._ended is not None:
            return
        self._parked = until
        # What has arrived is given out first; it is the engine's alone that ends here.
        self._worker.park(self._stream, Parked("there was no memory for more of it"))

    @property
    def left(self) -> int:
        """Tokens that it may still be given."""
        return self._work.max_tokens - len(self._ids)

    @property
    def tokens(self) -> int:
        """Of prompt and answer."""
        return len(self._work.prompt) + len(self._ids)

    @property
    def read_ids(self) -> list[int]:
        """What a worker has read of it, as far as is known."""
        return [*self._work.prompt, *self._ids[:-1]] if self._ids else self._work.prompt[: self._read]

    @property
    def worker_pid(self) -> int:
        """Of the worker that has it, or had it last; 0: none had."""
        return self._worker.pid if self._worker is not None else 0

    def cancel(self) -> None:
        """No more of it; harmless when repeated."""
        self.fail(EngineError("the stream was ended"))

    def fail(self, error: EngineError) -> None:
        """End it; whoever iterates gets the error."""
        if self._ended is None:
            self._ended = error
        if self._worker is not None and self._stream is not None:
            self._worker.cancel(self._stream)
            self._stream.fail(error)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self._on_left(self)

    def _note(self, items: list[Item]) -> None:
        tokens = [item for item in items if isinstance(item, Token)]
        now = mono_ns()
        for item in items:
            if isinstance(item, Restored):
                self._read = self._reused = item.tokens
            elif isinstance(item, Prefill):
                self._read = item.done
        self._parts.look(now)
        if failed := [item for item in items if isinstance(item, Recovered)]:
            self._interrupt("step_failed", failed[-1].error)
        if not tokens:
            return
        if self._parts.rest in {PREFILL, RESUME}:
            self._parts.rest = DECODE
        if self._interrupted is not None:
            reason, error = self._interrupted
            reread = len(self._work.prompt) + len(self._ids) - (self._reused if reason == "worker_died" else 0)
            gap_ms = elapsed_ms(self._last_ns, now)
            self._on_resumed(self, Resumed(reason, error, len(self._ids), reread, gap_ms))
        self._interrupted, self._fruitless, self._last_ns = None, 0, now
        self._ids += [token.id for token in tokens]
        if tokens[-1].finish is None and self._parked is None:
            left = self._room - len(self._work.prompt) - len(self._ids)
            # One whose whole answer has room asks for none.
            if left <= NEARLY_FULL and left < self.left:
                self._room = self._grow(self._room, left)

    def _left(self, stream: EngineStream) -> None:
        if not isinstance(stream.error, WorkerDied | Parked):
            self._on_left(self)
