"""Keeps a worker behind every model: loads it, notes how it dies, starts it again, slower each time it dies young."""

import asyncio
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import InsufficientMemory
from lmx_ledger.daemon.budget import Budget
from lmx_ledger.daemon.kept import KeptRecords
from lmx_ledger.daemon.standby import Standby
from lmx_ledger.daemon.terminal import warn
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.exit import Exit, describe
from lmx_ledger.engine.protocol import Loaded
from lmx_ledger.engine.stream import EngineError, LoadTimedOut
from lmx_ledger.guard.breaker import Breaker, State
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory.residency import STOPPED
from lmx_ledger.serving.models import ModelState, ServedModel
from lmx_ledger.serving.parts import LOAD, MEMORY
from lmx_ledger.serving.service import Serving
from lmx_ledger.serving.text import TextModel
from lmx_ledger.store.folder import ModelFolderError, fingerprint

CONFIGURED: Final = "configured"
"""Loaded because the configuration names it: not at the cost of others, for nobody has asked for it yet."""
_PROVED_S: Final = 30.0
"""A worker that has lived so long has succeeded, also where nobody asked it for a token."""
_TRIES: Final = 7
"""Failures in a row after which a model that never served is given up."""


class ModelKeeper:
    """One model's worker, from the first load to the daemon's end."""

    def __init__(
        self,
        model: ServedModel,
        serving: Serving,
        ledger: Ledger,
        config: Config,
        *,
        budget: Budget,
        reason: str = CONFIGURED,
        standby: Standby | None = None,
    ) -> None:
        self.model = model
        self._reason = reason
        self._serving = serving
        self._ledger = ledger
        self._config = config
        self._standby = standby
        self._budget = budget
        self._kept = KeptRecords(model, serving, ledger, config)
        self._breaker = Breaker()
        self._restarts = 0
        # Why the last worker ended, or could not be had.
        self._why = ""
        # A model that has been served once is tried for as long as the daemon lives.
        self._has_served = False
        self._recycled: ev.Cause = None

    async def run(self, cause: ev.Cause) -> None:
        """Load, and load again after each death, until cancelled. A folder that cannot be served is not tried again."""
        reason = self._reason
        while True:
            began = mono_ns()
            if not await self._load(reason, cause):
                return
            worker = self.model.worker
            if worker is not None:
                if self._restarts:
                    scale = round(self._budget.scale(self.model), 3)
                    restarted = ev.EngineRestarted(
                        pid=worker.pid, attempt=self._restarts, ms=elapsed_ms(began), working_scale=scale
                    )
                    self._emit(restarted, cause)
                await self._prove(worker)
                await asyncio.shield(worker.exited)
            # The worker may have died before it was loaded; either way its exit is recorded by now.
            self._restarts += 1
            reason, cause = "restart", self.model.exit_ticket
            if worker is None or not worker.recycled:
                await self._pause()

    async def _prove(self, worker: Worker) -> None:
        """Until the worker has given a token, has lived for a while, or is dead."""
        proved: asyncio.Future[Any] = asyncio.create_task(worker.proved.wait())
        either: set[asyncio.Future[Any]] = {proved, worker.exited}
        try:
            await asyncio.wait(either, timeout=_PROVED_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            proved.cancel()
        if worker.proved.is_set() or worker.alive:
            if self._breaker.state is State.HALF_OPEN:
                self._emit(ev.BreakerClosed(name="engine"), self.model.loaded_seq)
            self._breaker = self._breaker.succeeded()

    async def recycle(self, cause: ev.Cause) -> None:
        """Replace the worker: it writes what it keeps, ends, and its streams go on with the next one."""
        if (worker := self.model.worker) is not None and worker.alive:
            self._recycled = cause
            await worker.recycle()

    async def stop(self, reason: str = STOPPED, cause: ev.Cause = None) -> None:
        """End the worker; the model is unloaded."""
        self.model.queue.close()
        if (worker := self.model.worker) is not None:
            await worker.stop()
            self.model.state = ModelState.UNLOADED
            await self._commit(ev.ModelUnloaded(reason=reason), cause)

    async def _load(self, reason: str, cause: ev.Cause) -> bool:
        """Make the model resident. False: never, its files or its architecture cannot be served."""
        model, engine = self.model, self._config.engine
        model.state = ModelState.LOADING
        began = mono_ns()
        try:
            text, weights = await asyncio.to_thread(_read_text, model.path)
        except (ModelFolderError, OSError) as error:
            if self._has_served:
                self._note_failure(str(error), cause)
                return True
            await self._failed(str(error), cause)
            return False
        started = ev.ModelLoadStarted(path=str(text.folder), weights_bytes=text.weights_bytes, reason=reason)
        cause = await self._commit(started, cause) or cause
        room = await self._room(text.weights_bytes, cause, patient=reason == CONFIGURED and not model.pinned)
        if room is None:
            return False
        worker: Worker | None = None
        try:
            worker = self._standby.take() if self._standby is not None else None
            started_ms = 0.0
            if worker is None:
                worker = await Worker.start(engine.blas, self._on_exit)
                started_ms = worker.age_ms
            worker.on_exit, worker.hang_timeout_s = self._on_exit, engine.hang_timeout
            worker.on_saved, worker.on_hung = self._kept.saved, self._on_hung
            self._note_start(worker, started_ms, cause)
            loaded = await worker.load(
                str(text.folder),
                prefill_step=engine.prefill_step,
                prefill_gap=engine.prefill_gap,
                timeout_s=engine.load_timeout,
                kv=self._kept.settings(weights, self._budget.kept_of(model)),
                derived=self._derived(worker, weights),
                room=room,
                scale=self._budget.scale(model),
                wired=self._config.memory.wired,
            )
        except LoadTimedOut as error:
            # It would take as long again, and its reason is not the signal that ended it.
            if self._has_served:
                self._note_failure(str(error), cause)
                return True
            await self._failed(str(error), cause)
            return False
        except EngineError as error:
            if worker is None or not worker.alive:
                # It died; the exit is recorded and the caller tries again.
                if self._has_served or self._breaker.failures + 1 < _TRIES:
                    return True
            else:
                await worker.stop()
            await self._failed(str(error), cause)
            return False
        except OSError as error:
            # No process or descriptor to be had just now: that passes, so it is a failure like any other.
            self._note_failure(f"no worker could be started: {error}", cause)
            return True
        except asyncio.CancelledError:
            if worker is not None:
                await worker.stop()
            raise
        finally:
            if model.worker is None and (worker is None or not worker.alive):
                self._budget.forget(model)
        await self._loaded(worker, loaded, text, weights, reason, elapsed_ms(began), cause)
        return True

    async def _room(self, weights_bytes: int, cause: ev.Cause, *, patient: bool) -> int | None:
        """Wait for memory; None where it cannot be had."""
        model = self.model
        model.queue.close(MEMORY)
        try:
            room = await self._budget.admit_load(model, weights_bytes, cause, patient=patient)
        except InsufficientMemory as error:
            model.no_room = error
            await self._failed(error.message, cause)
            return None
        if room is None:
            await self._commit(ev.ModelUnloaded(reason="no_room"), cause)
            model.state = ModelState.UNLOADED
            model.settled.set()
            # Those that are configured behind it were held back for it.
            self._budget.look()
        model.queue.close(LOAD)
        return room

    async def _loaded(
        self, worker: Worker, loaded: Loaded, text: TextModel, weights: str, reason: str, ms: float, cause: ev.Cause
    ) -> None:
        """It is resident; `weights` is their fingerprint."""
        model = self.model
        model.text = text
        model.dialect = loaded.dialect
        model.silent = text.silent_ids(loaded.dialect.markers)
        model.vocab, model.context, model.weights_bytes = loaded.vocab, text.context, loaded.weights_bytes
        resident = ev.ModelLoaded(
            weights_bytes=loaded.weights_bytes,
            context=text.context,
            vocab=loaded.vocab,
            architecture=loaded.architecture,
            ms=ms,
            wired_bytes=loaded.wired_bytes,
        )
        model.loaded_seq = await self._commit(resident, cause)
        model.fingerprint = weights
        self._kept.opened(loaded.kv)
        self._budget.loaded(model, worker, loaded, asked=reason != CONFIGURED)
        if worker.alive:
            self._has_served = True
            model.serve(worker)
        else:
            await asyncio.shield(worker.exited)

    def _derived(self, worker: Worker, weights: str) -> str:
        """Where weights are written that the files do not have as they are used: by whom also says by which code."""
        assert worker.hello is not None  # noqa: S101 - a worker is had behind its hello
        return str(self._config.home / "derived" / weights / f"mlx-lm-{worker.hello.mlx_lm}")

    def _note_start(self, worker: Worker, ms: float, cause: ev.Cause) -> None:
        hello = worker.hello
        assert hello is not None  # noqa: S101 - start() returns only behind the hello
        self._emit(
            ev.EngineStarted(
                pid=worker.pid,
                mlx=hello.mlx,
                mlx_lm=hello.mlx_lm,
                device=hello.device,
                blas=hello.blas,
                ms=ms,
            ),
            cause,
        )

    def crashed(self, error: BaseException) -> None:
        """The keeper itself has failed, by a fault of ours: nobody is to wait for this model, and all is to be seen."""
        self.model.queue.close()
        self.model.failure = f"its keeper failed: {type(error).__name__}: {error}"
        self.model.state = ModelState.FAILED
        self._note_failure(self.model.failure, None)
        self.model.refuse_waiting(10)

    def _note_failure(self, why: str, cause: ev.Cause) -> None:
        self._why = why
        self._emit(ev.ModelLoadFailed(path=self.model.path, error=why[:2000]), cause)

    async def _failed(self, why: str, cause: ev.Cause) -> None:
        self.model.state, self.model.failure = ModelState.FAILED, why
        self.model.queue.close()
        failed = ev.ModelLoadFailed(path=self.model.path, error=why[:2000])
        self.model.failed_seq = await self._commit(failed, cause)
        self.model.refuse_waiting(10)
        self._budget.look()

    async def _on_hung(self, silent_s: float) -> None:
        """Its worker is about to be killed for giving nothing while it has work."""
        wanted = ev.GuardRestartRequested(reason="no_progress", silent_s=round(silent_s, 3))
        self._recycled = await self._commit(wanted, None)

    def _on_exit(self, worker: Worker, died: Exit) -> None:
        """Called once per worker, before its streams learn of its end."""
        self._why = describe(died)
        self.model.queue.close()
        data = ev.EngineExited(
            pid=died.pid,
            code=died.code,
            signal=died.signal,
            stderr_tail=died.stderr_tail,
            last_acts=died.last_acts,
            expected=died.expected,
            hung=died.hung,
            in_flight=self._serving.requests_of(self.model),
        )
        severity = ev.Severity.INFO if died.expected else None
        self.model.exit_ticket = self._ledger.emit(
            ev.Event(
                data=data, stream=f"model:{self.model.id}", model=self.model.id, severity=severity, cause=self._recycled
            )
        )
        self._recycled = None
        self._budget.exited(self.model, died)
        if self.model.worker is worker:
            self.model.worker = None
            if not died.expected or worker.recycled:
                self.model.state = ModelState.LOADING

    async def _pause(self) -> None:
        """Wait before the next start. While the breaker is open nobody is kept waiting: the model is unavailable."""
        self._breaker = self._breaker.failed()
        pause_s = self._breaker.pause_s
        if self._breaker.state is State.OPEN:
            opened = ev.BreakerOpened(
                name="engine", failures=self._breaker.failures, for_s=pause_s, reason=self._why[:2000]
            )
            self.model.failed_seq = await self._commit(opened, self.model.exit_ticket)
            self.model.failure = f"{self._why}; {self._breaker.failures} failures in a row, next start soon"
            self.model.state = ModelState.FAILED
            self.model.refuse_waiting(int(pause_s) + 1)
        await asyncio.sleep(pause_s)
        self._breaker = self._breaker.tried()
        if self._breaker.state is State.HALF_OPEN:
            self._emit(ev.BreakerHalfOpened(name="engine"), self.model.failed_seq)

    def _emit(self, data: ev.EventData, cause: ev.Cause) -> ev.Ticket:
        return self._ledger.emit(self._event(data, cause))

    async def _commit(self, data: ev.EventData, cause: ev.Cause) -> int | None:
        return await self._ledger.commit(self._event(data, cause))

    def _event(self, data: ev.EventData, cause: ev.Cause) -> ev.Event:
        return ev.Event(data=data, stream=f"model:{self.model.id}", model=self.model.id, cause=cause)


def _report(keeper: ModelKeeper, task: "asyncio.Task[None]") -> None:
    """A keeper that fails is a fault of ours: it is said at once, not when the daemon stops."""
    if not task.cancelled() and (error := task.exception()) is not None:
        warn("".join(traceback.format_exception(error)))
        keeper.crashed(error)


def _read_text(path: str) -> tuple[TextModel, str]:
    text = TextModel(Path(path).expanduser().absolute())
    return text, fingerprint(text.folder)


class Supervisor:
    """All keepers, each in a task of its own, and the standby that they share."""

    def __init__(self, keepers: list[ModelKeeper], standby: Standby | None = None) -> None:
        self.standby = standby
        self._keepers = keepers
        self._tasks: dict[ModelKeeper, asyncio.Task[None]] = {}
        self._waiting: asyncio.Task[None] | None = None

    def start(self, cause: ev.Cause) -> None:
        """Begin to load every model."""
        for keeper in self._keepers:
            self._run(keeper, cause)

    def add(self, keeper: ModelKeeper, cause: ev.Cause) -> None:
        """One more model from now on, or a new keeper for one that is not loaded; not after `stop`."""
        self._keepers = [*(other for other in self._keepers if other.model is not keeper.model), keeper]
        self._run(keeper, cause)

    async def end(self, model: ServedModel, reason: str, cause: ev.Cause) -> None:
        """Unload a model: its worker ends, and nobody starts another one."""
        for keeper in [keeper for keeper in self._keepers if keeper.model is model]:
            await self._cancel([self._tasks.pop(keeper)] if keeper in self._tasks else [])
            await keeper.stop(reason, cause)

    async def recycle(self, model: ServedModel, cause: ev.Cause) -> None:
        """Replace its worker, if it has one, until that has ended; its keeper loads the next one at once."""
        for keeper in [keeper for keeper in self._keepers if keeper.model is model]:
            await keeper.recycle(cause)

    def _run(self, keeper: ModelKeeper, cause: ev.Cause) -> None:
        task = asyncio.create_task(keeper.run(cause))
        task.add_done_callback(partial(_report, keeper))
        self._tasks = {other: running for other, running in self._tasks.items() if not running.done()}
        self._tasks[keeper] = task

    async def settled(self) -> None:
        """Until every model is resident or has failed; a standby is due from then on."""
        await asyncio.gather(*(keeper.model.settled.wait() for keeper in self._keepers))
        if self.standby is not None:
            self._waiting = asyncio.create_task(self.standby.run())

    async def stop(self) -> None:
        """End every worker."""
        tasks = [*self._tasks.values(), *([self._waiting] if self._waiting is not None else [])]
        await self._cancel(tasks)
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers))

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def recommended_bytes(self) -> int:
        """Metal's recommended working set as a worker read it; 0 where there is none, or no worker yet."""
        hellos = [k.model.worker.hello for k in self._keepers if k.model.worker and k.model.worker.hello]
        return max((hello.recommended_bytes for hello in hellos), default=0)
