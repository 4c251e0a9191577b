"""Which models are in memory, by an operator's word, a request's, or because nobody has asked for so long."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import Conflict
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.daemon.supervisor import ModelKeeper, Supervisor
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import PAGED, ModelState, ServedModel
from lmx_ledger.serving.service import Serving
from lmx_ledger.serving.text import TextModel
from lmx_ledger.store.folder import ModelFolderError

ASKED: Final = "asked"
_TTL: Final = "ttl"
_SHED: Final = "shed"
_RETRY_S: Final = 10
_LOOK_FOR_UNUSED_S: Final = 1.0


class Residency:
    """Of all models of this daemon."""

    def __init__(
        self,
        serving: Serving,
        supervisor: Supervisor,
        ledger: Ledger,
        settings: Settings,
        budget: Budget,
        accounts: Accounts,
        pager: Pager,
    ) -> None:
        self._serving, self._supervisor, self._ledger, self._settings = serving, supervisor, ledger, settings
        self._budget, self._accounts, self._pager = budget, accounts, pager
        self._locks: dict[str, asyncio.Lock] = {}

    def begin(self, model: ServedModel, cause: ev.Cause, reason: str) -> None:
        """Have it loaded from now on, by a keeper of its own; whoever asks for it waits."""
        model.settled.clear()
        model.state, model.no_room = ModelState.LOADING, None
        keeper = ModelKeeper(
            model,
            self._serving,
            self._ledger,
            self._settings.now,
            budget=self._budget,
            reason=reason,
            standby=self._supervisor.standby,
        )
        self._supervisor.add(keeper, cause)

    async def load(self, model: ServedModel, cause: ev.Cause) -> None:
        """Until all of it is in memory.

        Raises:
            InsufficientMemory: it does not fit.
            ModelUnavailable: it cannot be loaded.
        """
        async with self._lock(model):
            if model.state in {ModelState.UNLOADED, ModelState.FAILED}:
                self.begin(model, cause, ASKED)
            await model.settled.wait()
            if model.state in PAGED:
                await self._budget.bring_back(model, cause)
            if model.no_room is not None:
                raise model.no_room
            if model.state is ModelState.FAILED:
                raise model.unavailable(_RETRY_S)

    async def unload(self, model: ServedModel, cause: ev.Cause) -> None:
        """End its worker; its next request loads it again.

        Raises:
            Conflict: it is pinned, or has work in flight.
        """
        async with self._lock(model):
            await self._unload(model, cause, ASKED)

    async def shed(self, model: ServedModel, cause: ev.Cause) -> None:
        """End its worker, because the guard wants its memory for others.

        Raises:
            Conflict: it is pinned, or has work in flight.
        """
        async with self._lock(model):
            await self._unload(model, cause, _SHED)

    async def recycle(self, model: ServedModel, cause: ev.Cause) -> None:
        """Replace its worker: what it keeps is written, its streams go on with the next one."""
        async with self._lock(model):
            await self._supervisor.recycle(model, cause)

    async def reload(self, model: ServedModel, cause: ev.Cause) -> None:
        """Read its files anew; where they cannot be served any more, it stays as it is.

        Raises:
            Conflict: it is pinned, or has work in flight, or its files cannot be served.
            LmxError: it could not be loaded again.
        """
        async with self._lock(model):
            try:
                await asyncio.to_thread(_read, model.path)
            except (ModelFolderError, OSError) as error:
                raise Conflict(f"{model.id} stays as it is, its files cannot be served: {error}") from None
            if model.state not in {ModelState.UNLOADED, ModelState.FAILED}:
                await self._unload(model, cause, "reload")
        await self.load(model, cause)

    async def pin(self, model: ServedModel, cause: ev.Cause, *, pinned: bool) -> None:
        """Whether its weights may leave memory to make room; it holds across restarts."""
        data = ev.ModelPinned() if pinned else ev.ModelUnpinned()
        await self._ledger.commit(ev.Event(data=data, stream=f"model:{model.id}", model=model.id, cause=cause))
        model.pinned = pinned
        self._budget.look()

    async def unload_unused_for_ever(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_FOR_UNUSED_S)
            await self.unload_unused()

    async def unload_unused(self) -> None:
        """Whatever has not been asked for longer than its ttl."""
        now_s = time.monotonic()
        for model in self._serving.models.all():
            idle_s = now_s - self._accounts.used_s(model)
            if model.ttl_s is None or idle_s < model.ttl_s or model.state not in {ModelState.RESIDENT, *PAGED}:
                continue
            if not model.pinned and not _has_work(model):
                async with self._lock(model):
                    # It may have been asked something just now.
                    with contextlib.suppress(Conflict):
                        await self._unload(model, None, _TTL)

    async def _unload(self, model: ServedModel, cause: ev.Cause, reason: str) -> None:
        if model.pinned:
            raise Conflict(f"{model.id} is pinned; unpin it first")
        if _has_work(model) or self._pager.is_coming(model):
            raise Conflict(f"{model.id} has work in flight; unload it when that has ended")
        if model.state is ModelState.UNLOADED:
            raise Conflict(f"{model.id} is not loaded")
        await self._supervisor.end(model, reason, cause)
        self._budget.forget(model)

    def _lock(self, model: ServedModel) -> asyncio.Lock:
        return self._locks.setdefault(model.id, asyncio.Lock())


def _read(path: str) -> TextModel:
    return TextModel(Path(path).expanduser().absolute())


def _has_work(model: ServedModel) -> bool:
    return model.in_flight > 0 or model.queue.waiting > 0
