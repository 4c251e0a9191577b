"""Where every API face brings its requests: validation against the model, admission, what is in flight."""

import asyncio
from typing import NamedTuple, Protocol

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.errors import Draining, InvalidRequest, ModelNotFound, QueueFull
from lmx_ledger.core.settings import Settings
from lmx_ledger.engine.protocol import growth_of_room
from lmx_ledger.serving.answer import Accepted, Answer, Recorder
from lmx_ledger.serving.models import ModelState, ModelTable, ServedModel
from lmx_ledger.serving.parts import Parts
from lmx_ledger.serving.prompt import Ceiling, Prepared, prepare, shape_of
from lmx_ledger.serving.queue import Extent, Place
from lmx_ledger.serving.rates import Rates
from lmx_ledger.serving.request import GenerationRequest, drawn_by
from lmx_ledger.serving.text import TextModel
from lmx_ledger.session.table import SessionTable

_RETRY_UNAVAILABLE_S = 10


class Shelf(Protocol):
    """Models that are not served yet, and become so when a request names one."""

    async def names(self) -> list[str]:
        """Ids of those that could be served."""

    async def take(self, name: str) -> ServedModel | None:
        """The model of that name, put into the table; None where there is none.

        Raises:
            InsufficientMemory: it cannot fit beside what is loaded.
        """

    def load(self, model: ServedModel, cause: ev.Cause) -> None:
        """Begin to load one that was taken, unless that was begun before."""


class Memory(Protocol):
    """What there is of it, and for whom."""

    def look(self) -> None:
        """Somebody waits, who may need room to be made, or weights that are out."""

    def ceiling(self, model: ServedModel, most: int) -> int:
        """The longest prompt and answer, in tokens, that the model could have with all that may go gone."""

    def grow(self, model: ServedModel, place: Place, room: int, left: int) -> int:
        """One of a request's streams has `left` tokens before its cache of `room` is full: its room from then on."""


class SafeMode(NamedTuple):
    """A lower ceiling for all, in tokens; why, and by which event."""

    tokens: int
    reason: str
    seq: int | None


class Gate(Protocol):
    """Who keeps new work out while there is trouble."""

    safe_mode: SafeMode | None

    async def admit(self, model: ServedModel, *, known: bool) -> None:
        """A request is about to join the line; `known`: its conversation has KV kept, or a request in flight.

        Raises:
            Backpressure: not now.
        """


class Serving:
    """All models behind one door. `begin` refuses before any work is spent; the rest is the answer's."""

    def __init__(self, models: ModelTable, ledger: Recorder, settings: Settings) -> None:
        self.models = models
        self.shelf: Shelf | None = None
        self.memory: Memory | None = None
        self.gate: Gate | None = None
        self.draining: ev.Ticket | None = None
        self._ledger = ledger
        self._settings = settings
        self.rates = Rates()
        self.sessions = SessionTable()
        self._waiting_for_load = 0
        self._answers: set[Answer] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Requests between `begin` and their end."""
        return len(self._answers)

    @property
    def queued(self) -> int:
        """Requests that wait for a place."""
        return sum(model.queue.waiting for model in self.models.all())

    async def begin(self, request: GenerationRequest) -> Answer:
        """Check the request against its model, and give it a place or a place in line.

        The answer is ended when the calling task is, whatever becomes of it.

        Raises:
            LmxError: it is refused; nothing was spent on it.
        """
        parts = Parts(mono_ns())
        model = await self._named(request.model)
        received = self._emit(request, model, _received(request))
        if self.shelf is not None and self.draining is None and not model.shed:
            self.shelf.load(model, received)
        try:
            text = await self._servable(model, parts)
            request = request.filled(text.sampling)
            self._check_against(request, model, text)
            prepared = await prepare(request, model, text, self._ceiling(model))
            self._refuse_if_draining()
            await self._pass_the_gate(request, model, prepared)
        except asyncio.CancelledError:
            now = mono_ns()
            parts.look(now)
            gone = ev.RequestCancelled(
                phase="queue",
                reason="client_gone",
                prompt_tokens=0,
                completion_tokens=0,
                wall_ms=elapsed_ms(parts.began_ns, now),
                parts_ms=parts.told(),
            )
            self._emit(request, model, gone, cause=received)
            raise
        extents = [Extent(len(prompt), prepared.max_tokens) for prompt in prepared.prompts for _ in range(request.n)]
        parts.look(mono_ns())
        place = model.queue.enter(request.choices, request.priority, extents, received)
        if self.memory is not None and not place.admitted.done():
            self.memory.look()
        turn = self.sessions.begin(request.id, request.session, model.id, prepared.prompts[0], prepared.what)
        request = msgspec.structs.replace(request, session=turn.session)
        accepted = Accepted(request, model, text, prepared, place, parts, received, turn)
        answer = Answer(accepted, self._ledger, self.rates, self._settings.now.server.progress_every, self._grow)
        self._watch(answer)
        if request.max_tokens is not None and prepared.max_tokens < request.max_tokens:
            clamped = ev.RequestDegraded(
                reason="max_tokens_clamped", asked=request.max_tokens, given=prepared.max_tokens
            )
            self._emit(request, model, clamped, cause=model.loaded_seq)
        return answer

    def _ceiling(self, model: ServedModel) -> Ceiling:
        tokens = min(model.context, self._settings.now.context.max_tokens)
        fitting = self.memory.ceiling(model, tokens) if self.memory is not None else tokens
        safe = self.gate.safe_mode if self.gate is not None else None
        if safe is not None and safe.tokens < fitting:
            return Ceiling(safe.tokens, safe.reason, safe.seq)
        return Ceiling(fitting, "memory" if fitting < tokens else "model_limit")

    async def _pass_the_gate(self, request: GenerationRequest, model: ServedModel, prepared: Prepared) -> None:
        if self.gate is not None:
            known = self.sessions.knows(request.session, model.id, prepared.prompts[0], prepared.what)
            await self.gate.admit(model, known=known)
            # It may have been waited for an event's commit.
            self._refuse_if_draining()

    def _grow(self, model: ServedModel, place: Place, room: int, left: int) -> int:
        return self.memory.grow(model, place, room, left) if self.memory is not None else room + growth_of_room(room)

    async def available(self) -> list[str]:
        """Ids of stored models that a request may name, beside those in the table."""
        names = await self.shelf.names() if self.shelf is not None else []
        known = {model.id for model in self.models.all()}
        return [name for name in names if name not in known]

    async def _named(self, name: str | None) -> ServedModel:
        try:
            return self.models.find(name)
        except ModelNotFound as unknown:
            self._refuse_if_draining()
            taken = await self.shelf.take(name) if self.shelf is not None and name is not None else None
            if taken is not None:
                return taken
            stored = await self.available()
            more = f"; in the store: {', '.join(stored)}" if stored else ""
            raise ModelNotFound(unknown.message + more, param=unknown.param) from None

    def requests_of(self, model: ServedModel) -> list[str]:
        """Ids of the requests that the model's worker has."""
        return sorted(a.request.id for a in self._answers if a.model is model and a.in_engine)

    def refuse_waiting(self, ticket: ev.Ticket) -> None:
        """Turn away everybody in line: the daemon drains."""
        for model in self.models.all():
            model.queue.refuse_waiting(Draining("the daemon is draining", cause_seq=ticket.seq, retry_after_s=5))

    async def wait_idle(self, timeout_s: float) -> bool:
        """Whether nothing is in flight any more, within the time."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def end_all(self, reason: str) -> int:
        """End everything in flight; how many that were."""
        answers = list(self._answers)
        for answer in answers:
            answer.end(reason)
        return len(answers)

    def _watch(self, answer: Answer) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        self._answers.add(answer)
        self._idle.clear()

        def ended(task: asyncio.Task[object]) -> None:
            broken = not task.cancelled() and task.exception() is not None
            answer.end("server_error" if broken else "client_gone")
            self._answers.discard(answer)
            if not self._answers:
                self._idle.set()

        task.add_done_callback(ended)

    def _check_against(self, request: GenerationRequest, model: ServedModel, text: TextModel) -> None:
        sampling = request.sampling
        if request.choices > self._settings.now.queue.max_choices:
            raise InvalidRequest(
                f"{request.choices} choices are asked for; at most {self._settings.now.queue.max_choices} are given",
                param="n",
            )
        if model.vocab and sampling.top_k > model.vocab:
            raise InvalidRequest(
                f"top_k is {sampling.top_k} and {model.id} knows {model.vocab} tokens; give fewer, or 0 for all",
                param="top_k",
            )
        vocab = model.vocab or text.tokenizer.get_vocab_size()
        if any(not 0 <= token < vocab for token in sampling.logit_bias):
            raise InvalidRequest(f"logit_bias names a token outside 0 to {vocab - 1}", param="logit_bias")

    async def _servable(self, model: ServedModel, parts: Parts) -> TextModel:
        """The model's text side, after its first load; as many may wait for that as for a place."""
        self._refuse_if_draining()
        if not model.settled.is_set():
            if self._waiting_for_load >= self._settings.now.queue.max_waiting:
                raise QueueFull(f"{model.id} is loading and {self._waiting_for_load} requests wait", retry_after_s=5)
            self._waiting_for_load += 1
            parts.look(mono_ns())
            before = model.queue.waited()
            try:
                await model.settled.wait()
            finally:
                self._waiting_for_load -= 1
                waited = {what: ns - before.get(what, 0) for what, ns in model.queue.waited().items()}
                parts.divide(mono_ns(), waited)
        if model.no_room is not None:
            raise model.no_room
        if model.state is ModelState.FAILED or model.text is None:
            raise model.unavailable(_RETRY_UNAVAILABLE_S)
        return model.text

    def _refuse_if_draining(self) -> None:
        if self.draining is not None:
            raise Draining(
                "the daemon is draining and admits nothing new; retry on its successor",
                cause_seq=self.draining.seq,
                retry_after_s=5,
            )

    def _emit(
        self, request: GenerationRequest, model: ServedModel, data: ev.EventData, cause: ev.Cause = None
    ) -> ev.Ticket:
        return self._ledger.emit(
            ev.Event(
                data=data,
                stream=f"request:{request.id}",
                request=request.id,
                session=request.session,
                model=model.id,
                cause=cause,
            )
        )


def _received(request: GenerationRequest) -> ev.RequestReceived:
    shape = shape_of(request.prompt)
    sampling = request.sampling
    return ev.RequestReceived(
        route=request.route,
        stream=request.stream,
        messages=shape.messages,
        tools=shape.tools,
        chars=shape.chars,
        prompt_sha256=shape.sha256,
        client=request.client,
        client_request_id=request.client_request_id,
        sampling={
            **{name: None if name in request.left_open else value for name, value in drawn_by(sampling).items()},
            "n": request.n,
            "max_tokens": request.max_tokens,
        },
        priority=request.priority,
    )
