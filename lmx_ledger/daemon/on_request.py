"""Models of the store, served because a request names them."""

import asyncio
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import InsufficientMemory, ModelUnavailable
from lmx_ledger.core.settings import Settings
from lmx_ledger.core.units import show_bytes
from lmx_ledger.daemon.supervisor import ModelKeeper, Supervisor
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import ModelState, ServedModel
from lmx_ledger.serving.queue import AdmissionQueue
from lmx_ledger.serving.service import Serving
from lmx_ledger.store import embedded, shelf
from lmx_ledger.store.errors import BadModelId, StoreError
from lmx_ledger.store.shelf import StoredModel


class Account(Protocol):
    """What memory there is, in bytes."""

    @property
    def limit_bytes(self) -> int:
        """The limit in force."""

    @property
    def used_bytes(self) -> int:
        """What the workers hold."""


REASON: Final = "requested"
_RETRY_S: Final = 10


class Taken(NamedTuple):
    """One of the store's models: its bytes on disk, and which folder it was when its load was begun (None: not yet)."""

    bytes: int
    begun: tuple[int, int] | None = None


class OnRequest:
    """Serving's shelf: looks models up in the store, and has the supervisor load what is taken."""

    def __init__(
        self, serving: Serving, supervisor: Supervisor, ledger: Ledger, settings: Settings, account: Account
    ) -> None:
        self._serving = serving
        self._supervisor = supervisor
        self._ledger = ledger
        self._settings = settings
        self._account = account
        self._taken: dict[str, Taken] = {}

    async def names(self) -> list[str]:
        """Ids of the store's models that are whole."""
        try:
            stored = await asyncio.to_thread(shelf.list_models, self._settings.now.home)
        except StoreError:
            return []
        return [model.id for model in stored if model.problem is None]

    async def take(self, name: str) -> ServedModel | None:
        """The stored model of that name, or the embedded one, put into the table.

        Raises:
            InsufficientMemory: it does not fit beside what is loaded.
            ModelUnavailable: the store cannot be read, or the model in it is not whole.
        """
        if name == embedded.ID:
            return self._enter(embedded.ID, embedded.FOLDER, 0)
        try:
            stored = await asyncio.to_thread(shelf.find, self._settings.now.home, name)
        except BadModelId:
            return None
        except StoreError as error:
            raise ModelUnavailable(str(error), retry_after_s=_RETRY_S) from None
        if stored is None:
            return None
        if stored.problem is not None:
            raise ModelUnavailable(f"{stored.id} cannot be served: {stored.problem}", retry_after_s=_RETRY_S)
        if all(model.id != stored.id for model in self._serving.models.all()):
            self._check_fits(stored)
        return self._enter(stored.id, stored.folder, stored.bytes)

    def load(self, model: ServedModel, cause: ev.Cause) -> None:
        """Begin to load one that was taken, or try one again whose folder was replaced after it failed."""
        taken = self._taken.get(model.id)
        if taken is None or (taken.begun is not None and model.state is not ModelState.FAILED):
            return
        folder = _identity(Path(model.path))
        if folder == taken.begun:
            return
        self._taken[model.id] = taken._replace(begun=folder)
        model.settled.clear()
        model.state = ModelState.LOADING
        self._supervisor.add(
            ModelKeeper(
                model,
                self._serving,
                self._ledger,
                self._settings.now,
                reason=REASON,
                standby=self._supervisor.standby,
            ),
            cause,
        )

    def _enter(self, id: str, folder: Path, size: int) -> ServedModel:  # noqa: A002
        # Two requests may have looked it up at once, or one of them by another name.
        known = next((model for model in self._serving.models.all() if model.id == id), None)
        if known is not None:
            return known
        queue = self._settings.now.queue
        model = ServedModel(id, str(folder), [], AdmissionQueue(queue.max_running, queue.max_waiting))
        self._taken[id] = Taken(size)
        self._serving.models.add(model)
        return model

    def _check_fits(self, stored: StoredModel) -> None:
        coming = sum(
            self._taken[model.id].bytes
            for model in self._serving.models.all()
            if model.id in self._taken and model.state in {ModelState.UNLOADED, ModelState.LOADING}
        )
        short = self._account.used_bytes + coming + stored.bytes - self._account.limit_bytes
        if short > 0:
            raise InsufficientMemory(
                f"{stored.id} needs {show_bytes(stored.bytes)} and is short by {show_bytes(short)}: "
                "serve fewer models, raise [memory] limit, or take a smaller one",
                lmx={"short_by_bytes": short},
            )


def _identity(folder: Path) -> tuple[int, int]:
    """Changes when a pull puts another folder in its place."""
    try:
        status = folder.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)
