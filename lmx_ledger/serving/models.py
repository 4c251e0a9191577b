"""The models that are served: their names, their state, and the worker behind each."""

import asyncio
import enum
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.errors import LmxError, ModelNotFound, ModelUnavailable
from lmx_ledger.core.events import Ticket
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.protocol import KvOpened
from lmx_ledger.serving.parts import MEMORY
from lmx_ledger.serving.queue import AdmissionQueue
from lmx_ledger.serving.structure import PLAIN
from lmx_ledger.serving.text import TextModel
from lmx_ledger.session.explain import Place


class ModelState(enum.Enum):
    """Residency, in the contract's words."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    RESIDENT = "resident"
    PARTLY_PAGED = "partly_paged"
    PAGED = "paged"
    FAILED = "failed"


PAGED: Final = frozenset({ModelState.PARTLY_PAGED, ModelState.PAGED})
"""Its worker runs, and lacks weights: whoever asks has them brought back."""


class ServedModel:
    """One model. The supervisor changes its state and worker, serving reads them and owns its queue."""

    def __init__(
        self,
        id: str,  # noqa: A002
        path: str,
        aliases: Sequence[str],
        queue: AdmissionQueue,
        *,
        priority: int = 0,
        pinned: bool = False,
        ttl_s: float | None = None,
    ) -> None:
        self.id = id
        self.path = path
        self.aliases = tuple(aliases)
        self.queue = queue
        self.priority = priority
        self.pinned = pinned
        self.ttl_s = ttl_s
        self.state = ModelState.UNLOADED
        self.failure: str | None = None
        self.shed = False
        """Whether the guard has put it out of memory: nobody has it loaded until that is over."""
        self.no_room: LmxError | None = None
        """Why it was not loaded, where that was for lack of memory."""
        self.text: TextModel | None = None
        self.worker: Worker | None = None
        self.dialect = PLAIN
        self.silent: frozenset[int] = frozenset()
        self.vocab = 0
        self.context = 0
        self.weights_bytes = 0
        self._paged_bytes = 0
        self.last_used_us: int | None = None
        self.loaded_seq: int | None = None
        self.failed_seq: int | None = None
        self.exit_ticket: Ticket | None = None
        self.kv: KvOpened | None = None
        """What is kept of it; None: nothing, by configuration or because its caches cannot be."""
        self.kv_block = 0
        self.fingerprint = ""
        self.evictions: dict[int, Ticket] = {}
        """The `kv.evicted` of each turn of its worker's saving."""
        self.settled = asyncio.Event()
        """Set once the first load has succeeded or failed: from then on what the model can do is known."""
        self._waiting: list[asyncio.Future[Worker]] = []

    @property
    def in_flight(self) -> int:
        """Streams in its engine."""
        return self.queue.running

    @property
    def place(self) -> Place | None:
        """Where KV is computed and kept just now; None where none is kept, or there is no worker."""
        if self.kv is None or self.worker is None or self.text is None:
            return None
        return Place(self.fingerprint, self.kv.form, self.text.template_hash, self.worker.pid)

    @property
    def resident_bytes(self) -> int:
        """Of its weights, what is in memory."""
        if self.state in PAGED:
            return self.weights_bytes - self._paged_bytes
        return self.weights_bytes if self.state is ModelState.RESIDENT else 0

    def paged(self, resident_bytes: int) -> None:
        """Only so much of its weights is in memory, or will be: nobody is admitted until they are back."""
        # Of that it is let in again when there is room for it, and then when it has come back.
        self.queue.close(MEMORY)
        self._paged_bytes = self.weights_bytes - resident_bytes
        self.state = ModelState.PARTLY_PAGED if resident_bytes else ModelState.PAGED

    def unavailable(self, retry_after_s: int) -> ModelUnavailable:
        """The refusal while it has failed."""
        return ModelUnavailable(
            f"{self.id} cannot be served: {self.failure}",
            cause_seq=self.failed_seq,
            retry_after_s=retry_after_s,
        )

    def next_worker(self) -> asyncio.Future[Worker]:
        """The worker that serves it: now, or when there is one again; fails when the model is unavailable."""
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        if self.state is ModelState.FAILED:
            future.set_exception(self.unavailable(10))
        elif self.state is ModelState.RESIDENT and self.worker is not None and self.worker.alive:
            future.set_result(self.worker)
        else:
            self._waiting.append(future)
        return future

    def serve(self, worker: Worker) -> None:
        """It is resident: whoever waited for a worker or for a place goes on."""
        self.worker, self.state, self.failure = worker, ModelState.RESIDENT, None
        self.settled.set()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(worker)
        self.queue.open()

    def refuse_waiting(self, retry_after_s: int) -> None:
        """It cannot be served for now: whoever waits for a worker or for a place is told."""
        self.settled.set()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_exception(self.unavailable(retry_after_s))
                # Marked as seen: nobody need be waiting for it any more.
                future.exception()
        self.queue.refuse_waiting(self.unavailable(retry_after_s))

    def public(self) -> dict[str, Any]:
        """The form of `/lmx/models`."""
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "path": self.path,
            "state": self.state.value,
            "failure": self.failure,
            "architecture": self.text.architecture if self.text else None,
            "weights_bytes": self.weights_bytes,
            "resident_bytes": self.resident_bytes,
            "priority": self.priority,
            "pinned": self.pinned,
            "in_flight": self.in_flight,
            "waiting": self.queue.waiting,
            "last_used": rfc3339(self.last_used_us) if self.last_used_us else None,
            "context": self.context,
            "worker_pid": self.worker.pid if self.worker else None,
        }


class ModelTable:
    """All served models, found by id or alias; the first one serves requests that name none."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self._models = {model.id: model for model in models}
        self._most_waiting: int | None = None

    def add(self, model: ServedModel) -> None:
        """One more, found from now on; it may come while requests are served."""
        self._models[model.id] = model
        if self._most_waiting is not None:
            model.queue.hold_waiting(self._most_waiting)

    def all(self) -> list[ServedModel]:
        """In the order of the configuration, then as they were asked for."""
        return list(self._models.values())

    def hold_waiting(self, most: int) -> None:
        """Another bound for every line, those of models that are added later included."""
        self._most_waiting = most
        for model in self._models.values():
            model.queue.hold_waiting(most)

    def find(self, name: str | None) -> ServedModel:
        """The model of that id, of an alias that matches, or the first.

        Raises:
            ModelNotFound: there is none; the message lists those that exist.
        """
        models = self.all()
        if name is None:
            return models[0]
        if name in self._models:
            return self._models[name]
        for model in models:
            if any(fnmatchcase(name, alias) for alias in model.aliases):
                return model
        known = ", ".join(model.id for model in models)
        raise ModelNotFound(f"there is no model {name[:200]!r}; there are: {known}", param="model")

    def readiness(self) -> tuple[str, str]:
        """The contract's status word for `/readyz` and the reason."""
        models = self.all()
        if any(model.state in {ModelState.RESIDENT, *PAGED} for model in models):
            return "ok", ""
        if any(model.state is ModelState.LOADING or not model.settled.is_set() for model in models):
            return "loading", "loading " + ", ".join(m.id for m in models if m.state is ModelState.LOADING)
        if any(model.state is ModelState.UNLOADED for model in models):
            # Whoever asks for it has it loaded.
            return "ok", ""
        return "unavailable", "; ".join(f"{m.id}: {m.failure}" for m in models)
