"""A request under way: from its place in line to its last token, and the one place where its end is recorded."""

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple, Protocol
from zlib import crc32

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns, utc_us
from lmx_ledger.core.errors import EngineFailed, LmxError
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.engine.protocol import Prefill, Restored, Sampling, Token, ToolParsed
from lmx_ledger.engine.stream import EngineError, Item, WorkerDied
from lmx_ledger.serving.choice import ChoiceText, Shown
from lmx_ledger.serving.kept import KvNote, note
from lmx_ledger.serving.lasting import FRUITLESS, LastingStream, Resumed, Work
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.parts import CLIENT, RESUME, TOOLS, Parts
from lmx_ledger.serving.prompt import Prepared
from lmx_ledger.serving.queue import Extent, Place
from lmx_ledger.serving.rates import Rates, percentile_95
from lmx_ledger.serving.request import (
    Chat,
    ChoiceEnd,
    GenerationRequest,
    Output,
    Piece,
    Progress,
    ToolCall,
    Usage,
    drawn_by,
)
from lmx_ledger.serving.structure import Stretch
from lmx_ledger.serving.text import TextModel
from lmx_ledger.session.table import Turn

_WORTH_TELLING_MS: Final = 10.0
"""A wait for others' kept KV that is as long as this is an event."""


class Recorder(Protocol):
    """Where events go; the ledger."""

    def emit(self, event: ev.Event) -> ev.Ticket:
        """Record without waiting."""

    async def seq_of(self, ticket: ev.Ticket) -> int | None:
        """The seq of an emitted event, waiting a moment for it; None if that was not enough."""


class Phase(enum.Enum):
    """Where a request is. SEND: the engine is done with it, and the client has not read it to its end."""

    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    SEND = "send"
    ENDED = "ended"


class Accepted(NamedTuple):
    """A request that passed every check, the place it waits for, as which event it came in, and its time so far."""

    request: GenerationRequest
    model: ServedModel
    text: TextModel
    prepared: Prepared
    place: Place
    parts: Parts
    received: ev.Ticket
    turn: Turn


class Answer:
    """Iterate over it for what to show. `end` releases everything it holds and records how it ended, once.

    Its place goes to the next in line as soon as the engine is done with it, however slowly the client reads.

    Raises, while iterating:
        LmxError: the request cannot be answered; it is recorded as failed.
    """

    def __init__(
        self,
        accepted: Accepted,
        ledger: Recorder,
        rates: Rates,
        progress_every_s: float,
        grow: Callable[[ServedModel, Place, int, int], int],
    ) -> None:
        self.request = accepted.request
        self.model = accepted.model
        self.created_s = utc_us() // 1_000_000
        self.usage = Usage(prompt_tokens=accepted.prepared.tokens)
        self._text = accepted.text
        self._prepared = accepted.prepared
        self._place = accepted.place
        self._turn = accepted.turn
        self._kv: KvNote | None = None
        self._parts = accepted.parts
        self._received_ns = accepted.parts.began_ns
        self._cause = accepted.received
        self._ledger = ledger
        self._rates = rates
        self._progress_every_s = progress_every_s
        self._grow = grow
        self._phase = Phase.QUEUE
        self._streams: list[LastingStream] = []
        self._in_engine: set[LastingStream] = set()
        self._have_begun: set[LastingStream] = set()
        self._admitted_ns = accepted.parts.began_ns
        self._left_ns: int | None = None
        self._queue_ms = 0.0
        self._ttft_ms: float | None = None
        self._gaps_ms: list[float] = []
        self._finish_reasons: list[str] = []
        self._shown_progress_ns = mono_ns()
        self._ended_with: LmxError | None = None

    async def __aiter__(self) -> AsyncIterator[Output]:
        try:
            async for progress in self._wait_for_place():
                yield progress
            streams = await self._begin_streams()
            if len(streams) == 1:
                async for output in self._follow(0, streams[0]):
                    yield output
            else:
                async for output in self._follow_all(streams):
                    yield output
        except LmxError as error:
            if self._phase is not Phase.ENDED:
                self._fail(error)
            raise
        except EngineError as error:
            if self._ended_with is not None:
                raise self._ended_with from error
            failure = await self._engine_failure(error)
            self._fail(failure)
            raise failure from error
        self._finish()

    @property
    def in_engine(self) -> bool:
        """Whether the worker has streams of it."""
        return bool(self._in_engine)

    @property
    def session(self) -> str:
        """The conversation that it belongs to."""
        return self._turn.session

    @property
    def cache(self) -> str | None:
        """What `X-LMX-Cache` says; None before the worker has begun, and where no KV is kept."""
        return self._kv.header if self._kv is not None else None

    def end(self, reason: str) -> None:
        """Let go of place and streams. A request that had not ended by itself is recorded as cancelled for `reason`.

        Whoever still iterates gets a typed error.
        """
        if self._phase is Phase.ENDED:
            return
        phase = self._phase.value
        wall_ms = self._close_account()
        self._ended_with = EngineFailed(f"the answer was cut off: {reason}; send the request again")
        self._place.refuse(self._ended_with)
        self._release()
        for stream in self._streams:
            stream.fail(EngineError(reason))
        self._record(
            ev.RequestCancelled(
                phase=phase,
                reason=reason,
                prompt_tokens=self.usage.prompt_tokens,
                completion_tokens=self.usage.completion_tokens,
                wall_ms=wall_ms,
                parts_ms=self._parts.told(),
            )
        )

    # --- the way through ---------------------------------------------------------------------------------------------

    async def _wait_for_place(self) -> AsyncIterator[Progress]:
        if not self._place.admitted.done():
            position = self._place.position
            queued = ev.RequestQueued(position=position, running=self.model.queue.running)
            self._cause = self._record(queued)
            while True:
                try:
                    await asyncio.wait_for(asyncio.shield(self._place.admitted), self._progress_every_s)
                    break
                except TimeoutError:
                    yield Progress("queued", self._place.position, position)
        await self._place.admitted
        self._admitted_ns = mono_ns()
        self._queue_ms = elapsed_ms(self._received_ns, self._admitted_ns)
        self._parts.divide(self._admitted_ns, self._place.waited)

    async def _begin_streams(self) -> list[LastingStream]:
        request, prepared = self.request, self._prepared
        self._phase = Phase.PREFILL
        self.model.last_used_us = utc_us()
        owner = crc32((request.session or request.id).encode())
        known = self._turn.known(self.model.place, self.model.kv_block)
        for prompt_number, prompt in enumerate(prepared.prompts):
            for number in range(request.n):
                sampling = _with_seed(request.sampling, request.sampling.seed + number)
                work = Work(prompt, prepared.max_tokens, self._text.eos, sampling, owner, 2.0**request.priority)
                if prompt_number == 0:
                    # Of several prompts the first one is the conversation's.
                    work = work._replace(label=self._turn.label(number), known=known, boundary=prepared.boundary)
                stream = LastingStream(self.model, work, self._left_engine, self._resumed, self._room, self._parts)
                self._in_engine.add(stream)
                self._streams.append(stream)
        self._cause = self._record(
            ev.RequestAdmitted(
                prompt_tokens=self.usage.prompt_tokens,
                max_tokens=prepared.max_tokens,
                choices=request.choices,
                queue_ms=self._queue_ms,
                sampling=drawn_by(request.sampling),
            )
        )
        self._turn.cause = self._cause
        self._place.park = self._park
        for stream in self._streams:
            await stream.begin()
        return self._streams

    async def _follow_all(self, streams: list[LastingStream]) -> AsyncIterator[Output]:
        """All choices side by side, their outputs in the order in which they come."""
        outputs: asyncio.Queue[Output | BaseException | None] = asyncio.Queue()

        async def follow(index: int, stream: LastingStream) -> None:
            try:
                async for output in self._follow(index, stream):
                    outputs.put_nowait(output)
                outputs.put_nowait(None)
            except (LmxError, EngineError) as error:
                outputs.put_nowait(error)

        tasks = [asyncio.create_task(follow(index, stream)) for index, stream in enumerate(streams)]
        try:
            running = len(tasks)
            while running:
                output = await outputs.get()
                if isinstance(output, BaseException):
                    raise output
                if output is None:
                    running -= 1
                else:
                    yield output
        finally:
            for task in tasks:
                task.cancel()

    async def _follow(self, index: int, stream: LastingStream) -> AsyncIterator[Output]:
        request = self.request
        text = ChoiceText(
            self.model,
            self._text,
            structured=isinstance(request.prompt, Chat),
            begin=self._prepared.begin,
            tools=bool(self._prepared.tools),
            stop=request.stop,
        )
        called = False
        last_ns: int | None = None
        reason = "stop"
        async for items in stream:
            if restored := [item for item in items if isinstance(item, Restored)]:
                self._begun(index, stream, restored[0])
            tokens = [item for item in items if isinstance(item, Token)]
            if not tokens:
                if progress := self._progress(items[-1]):
                    yield progress
                continue
            last_ns = self._count(len(tokens), last_ns)
            shown = text.feed(tokens)
            if (piece := await self._piece(index, shown)) is not None:
                called = called or bool(piece.tool_calls)
                yield piece
            if shown.stopped:
                stream.cancel()
                break
            reason = tokens[-1].finish or reason
        rest = text.finish()
        if (piece := await self._piece(index, rest)) is not None:
            called = called or bool(piece.tool_calls)
            yield piece
        self.usage.reasoning_tokens += text.reasoning_tokens
        reason = "tool_calls" if called else "stop" if rest.stopped else reason
        self._finish_reasons.append(reason)
        yield ChoiceEnd(index, reason)

    async def _piece(self, index: int, shown: Shown) -> Piece | None:
        content, calls = shown.content, []
        for stretch in shown.tool_texts:
            parsed = await self._parse(stretch)
            calls += parsed
            if not parsed:
                # What the model wrote is not lost because it is no valid call.
                content += self._raw(stretch)
        if not (content or shown.reasoning or calls or shown.logprobs):
            return None
        return Piece(index, content, shown.reasoning, calls, shown.logprobs)

    async def _parse(self, stretch: Stretch) -> list[ToolCall]:
        self._parts.look(mono_ns())
        report = await self._parsed(stretch.text, msgspec.json.encode(self._prepared.tools).decode())
        self._parts.charge(TOOLS, mono_ns())
        if report.calls_json is None:
            self._record(ev.RequestDegraded(reason="tool_call_unparsed", detail=report.error))
            return []
        return [
            ToolCall(f"call_{new_ulid()}", call["name"], msgspec.json.encode(call["arguments"]).decode())
            for call in msgspec.json.decode(report.calls_json)
        ]

    async def _parsed(self, text: str, tools: str) -> ToolParsed:
        """By whichever worker lives; a text that kills one after the other is given up."""
        for _ in range(FRUITLESS - 1):
            worker = await self.model.next_worker()
            with contextlib.suppress(WorkerDied):
                return await worker.parse_tool(text, tools)
        worker = await self.model.next_worker()
        return await worker.parse_tool(text, tools)

    def _raw(self, stretch: Stretch) -> str:
        dialect = self.model.dialect
        return f"{dialect.tool_start}{stretch.text}{dialect.tool_end if stretch.closed else ''}"

    # --- counting and recording --------------------------------------------------------------------------------------

    def _count(self, tokens: int, last_ns: int | None) -> int:
        now = mono_ns()
        self.usage.completion_tokens += tokens
        self._rates.decoded(tokens)
        if last_ns is not None:
            self._gaps_ms += [(now - last_ns) / 1e6 / tokens] * tokens
        if self._ttft_ms is None:
            if self._phase is Phase.PREFILL:
                self._phase = Phase.DECODE
            self._ttft_ms = elapsed_ms(self._received_ns, now)
            prefill_ms = elapsed_ms(self._admitted_ns, now)
            computed = self.usage.prompt_tokens - self.usage.cached_tokens
            self._rates.first_token(self._ttft_ms, prefill_ms, computed)
            self._record(ev.RequestFirstToken(ttft_ms=self._ttft_ms, prefill_ms=prefill_ms))
        return now

    def _begun(self, index: int, stream: LastingStream, restored: Restored) -> None:
        """A worker has begun with a choice; only the first time counts, for this is about the request."""
        if stream in self._have_begun:
            return
        self._have_begun.add(stream)
        if index % self.request.n == 0:
            self.usage.cached_tokens += restored.tokens
        place = self.model.place
        if index == 0 and place is not None and self.model.kv is not None:
            now = place._replace(worker=stream.worker_pid)
            self._kv = note(self.model, self._turn, self._prepared, now, restored, self._rates.prefill_tps)
            cause = self._record(self._kv.corrupt) if self._kv.corrupt is not None else self._kv.cause
            self._record(self._kv.event, cause)
            if restored.read_bytes or restored.waited_ms >= _WORTH_TELLING_MS:
                self._record(
                    ev.KvRestored(
                        tokens=restored.tokens,
                        read_bytes=restored.read_bytes,
                        ms=round(restored.ms, 3),
                        waited_ms=round(restored.waited_ms, 3),
                    )
                )

    def _progress(self, item: Item) -> Progress | None:
        now = mono_ns()
        if not isinstance(item, Prefill) or now - self._shown_progress_ns < self._progress_every_s * 1e9:
            return None
        self._shown_progress_ns = now
        return Progress("prefill", item.done, item.total)

    def _finish(self) -> None:
        wall_ms = self._close_account()
        self._release()
        self.model.queue.finished(elapsed_ms(self._admitted_ns, self._left_ns) / 1e3)
        self._record(
            ev.RequestFinished(
                status=200,
                finish_reason=self._finish_reasons[0],
                prompt_tokens=self.usage.prompt_tokens,
                cached_tokens=self.usage.cached_tokens,
                completion_tokens=self.usage.completion_tokens,
                queue_ms=self._queue_ms,
                ttft_ms=self._ttft_ms,
                itl_p95_ms=percentile_95(self._gaps_ms),
                wall_ms=wall_ms,
                parts_ms=self._parts.told(),
            )
        )

    def _fail(self, error: LmxError) -> None:
        wall_ms = self._close_account()
        self._release()
        self._record(
            ev.RequestFailed(
                status=error.status,
                code=error.code,
                message=error.message,
                prompt_tokens=self.usage.prompt_tokens,
                completion_tokens=self.usage.completion_tokens,
                wall_ms=wall_ms,
                parts_ms=self._parts.told(),
            )
        )

    def _close_account(self) -> float:
        """All of its time up to now is in a part; milliseconds in all."""
        now = mono_ns()
        if self._phase is Phase.QUEUE:
            self._parts.divide(now, self._place.waited)
        self._parts.look(now)
        return elapsed_ms(self._received_ns, now)

    async def _engine_failure(self, error: EngineError) -> EngineFailed:
        ticket = self.model.exit_ticket if isinstance(error, WorkerDied) else None
        self._cause = ticket or self._cause
        return EngineFailed(
            f"{error}; the request is not to blame, send it again",
            cause_seq=await self._ledger.seq_of(ticket) if ticket else None,
        )

    def _left_engine(self, stream: LastingStream) -> None:
        self._in_engine.discard(stream)
        if not self._in_engine and self._phase not in {Phase.SEND, Phase.ENDED}:
            self._phase, self._left_ns = Phase.SEND, mono_ns()
            self._parts.look(self._left_ns)
            self._parts.rest = CLIENT
            self._place.leave()

    def _resumed(self, stream: LastingStream, resumed: Resumed) -> None:
        cause = self.model.exit_ticket if resumed.reason == "worker_died" else None
        data = ev.RequestResumed(**resumed._asdict(), choice=self._streams.index(stream))
        self._record(data, cause)

    def _room(self, room: int, left: int) -> int:
        return self._grow(self.model, self._place, room, left)

    def _park(self) -> None:
        """Out of the engine with all of it, and back to the head of the line."""
        streams = [stream for stream in self._streams if stream in self._in_engine]
        if self._phase is Phase.ENDED or not streams:
            return
        self._place.again([Extent(stream.tokens, stream.left) for stream in streams])
        self._record(ev.RequestQueued(position=self._place.position, running=self.model.queue.running))
        for stream in streams:
            stream.park(self._admitted_again)

    async def _admitted_again(self) -> None:
        await asyncio.shield(self._place.admitted)
        # What it stood in line for says the line; reading it again comes behind that.
        self._parts.divide(mono_ns(), self._place.waited)
        self._parts.rest = RESUME

    def _release(self) -> None:
        self._phase = Phase.ENDED
        self._rates.ended(self.model.id, self._gaps_ms)
        for stream in self._streams:
            stream.cancel()
        self._place.leave()
        place = self.model.place
        for number, stream in enumerate(self._streams[: self.request.n]):
            if place is not None:
                left = place._replace(worker=stream.worker_pid)
                self._turn.left(number, stream.read_ids, left, self.model.kv_block, self._cause)
        self._turn.end()

    def _record(self, data: ev.EventData, cause: ev.Cause = None) -> ev.Ticket:
        return self._ledger.emit(
            ev.Event(
                data=data,
                stream=f"request:{self.request.id}",
                request=self.request.id,
                session=self.request.session,
                model=self.model.id,
                cause=cause or self._cause,
            )
        )


def _with_seed(sampling: Sampling, seed: int) -> Sampling:
    return msgspec.structs.replace(sampling, seed=seed & 0xFFFFFFFFFFFFFFFF)
