"""Weights that go to make room, and come back when a request wants them: every step of it is an event first."""

import asyncio
from collections.abc import Callable
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import Conflict
from lmx_ledger.engine.protocol import Paged
from lmx_ledger.engine.stream import EngineError
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import PAGED, ModelState, ServedModel
from lmx_ledger.serving.parts import PAGE_IN

_ASKED: Final = "asked"


class Pager:
    """Of all models. A model that has work is never a victim, and one that is wanted is not refused for being out."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._locks: dict[str, asyncio.Lock] = {}
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._going: set[asyncio.Task[Paged]] = set()
        self.finished: dict[str, ev.Ticket] = {}
        """The event of each model's last way out or in."""
        self.on_moved: Callable[[ServedModel, Paged], None] = lambda _model, _moved: None
        """Told of all that went or came, before anybody is admitted."""

    async def page_out(self, model: ServedModel, need: int, cause: ev.Cause, *, planned: bool = False) -> Paged:
        """Let go of layers until so many bytes are free (0: of all), because an operator wants it, or by a plan.

        It is ended and told also where nobody waits for it any more. `planned`: the plan is in the ledger; who waits
        for the model then waits for it to come back.

        Raises:
            Conflict: it has work, or no weights in memory, or what had to be written could not be.
        """
        going = asyncio.create_task(self._page_out(model, need, cause, planned=planned))
        self._going.add(going)
        going.add_done_callback(self._gone)
        return await asyncio.shield(going)

    async def _page_out(self, model: ServedModel, need: int, cause: ev.Cause, *, planned: bool) -> Paged:
        async with self._lock(model):
            if model.in_flight or (model.queue.waiting and not planned) or model.id in self._coming:
                raise Conflict(f"{model.id} has work in flight; page it out when that has ended")
            if model.worker is None or model.state not in {ModelState.RESIDENT, *PAGED}:
                raise Conflict(f"{model.id} is {model.state.value}: it has no weights in memory")
            worker = model.worker
            # From here on nobody is admitted; who comes meanwhile has it brought back.
            model.paged(model.resident_bytes)
            if not planned:
                plan = ev.PagingPlanned(need_bytes=need, victims=[model.id], reason=_ASKED)
                cause = await self._commit(model, plan, cause)
            cause = await self._commit(model, ev.PagingOutStarted(resident_bytes=model.resident_bytes), cause)
            try:
                moved = await worker.page_out(need)
            except EngineError as error:
                self._finished(model, ev.PagingOutFinished(bytes=0, ms=0.0, layers=0, error=str(error)[:500]), cause)
                if worker.alive and model.worker is worker:
                    self.bring_back(model, cause)
                raise Conflict(f"{model.id} was not paged out: {error}") from None
            self._finished(
                model,
                ev.PagingOutFinished(
                    bytes=moved.bytes,
                    written_bytes=moved.written_bytes,
                    ms=round(moved.ms, 3),
                    layers=moved.layers,
                    bytes_per_s=int(moved.bytes / moved.ms * 1e3) if moved.ms else None,
                    resident_bytes=moved.resident_bytes,
                ),
                cause,
            )
            if model.worker is worker:
                model.paged(moved.resident_bytes)
                if not moved.layers_out:
                    model.serve(worker)
            self.on_moved(model, moved)
            return moved

    def bring_back(self, model: ServedModel, cause: ev.Cause) -> None:
        """Begin to read what is out, unless that was begun before; whoever waits for the model goes on behind it."""
        if model.id not in self._coming:
            model.queue.closed_for(PAGE_IN)
            task = self._coming[model.id] = asyncio.create_task(self._bring_back(model, cause))
            task.add_done_callback(lambda _: self._coming.pop(model.id, None))

    def is_coming(self, model: ServedModel) -> bool:
        """Whether its weights are on their way back."""
        return model.id in self._coming

    async def come(self, model: ServedModel) -> None:
        """Until what is on its way has come, or cannot."""
        if (task := self._coming.get(model.id)) is not None:
            await asyncio.wait({task})

    async def stop(self) -> None:
        """Nothing is moved any more."""
        tasks = [*self._coming.values(), *self._going]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bring_back(self, model: ServedModel, cause: ev.Cause) -> None:
        async with self._lock(model):
            worker = model.worker
            if worker is None or model.state not in PAGED:
                # It died meanwhile: its successor has everything in memory.
                return
            started = ev.PagingInStarted(bytes=model.weights_bytes - model.resident_bytes)
            cause = await self._commit(model, started, cause)
            try:
                moved = await worker.page_in()
            except EngineError as error:
                self._finished(model, ev.PagingInFinished(bytes=0, ms=0.0, layers=0, error=str(error)[:500]), cause)
                # Its keeper starts another one, which reads the folder anew or says what is wrong with it.
                await worker.kill()
                return
            finished = ev.PagingInFinished(bytes=moved.bytes, ms=round(moved.ms, 3), layers=moved.layers)
            self._finished(model, finished, cause)
            self.on_moved(model, moved)
            if model.worker is worker and model.state in PAGED:
                model.serve(worker)

    def _gone(self, task: asyncio.Task[Paged]) -> None:
        self._going.discard(task)
        # Seen, also where who asked has left.
        if not task.cancelled():
            task.exception()

    def _lock(self, model: ServedModel) -> asyncio.Lock:
        return self._locks.setdefault(model.id, asyncio.Lock())

    async def _commit(self, model: ServedModel, data: ev.EventData, cause: ev.Cause) -> ev.Cause:
        return await self._ledger.commit(_event(model, data, cause)) or cause

    def _finished(self, model: ServedModel, data: ev.EventData, cause: ev.Cause) -> None:
        self.finished[model.id] = self._ledger.emit(_event(model, data, cause))


def _event(model: ServedModel, data: ev.EventData, cause: ev.Cause) -> ev.Event:
    return ev.Event(data=data, stream=f"model:{model.id}", model=model.id, cause=cause)
