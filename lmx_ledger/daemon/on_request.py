"""Models of the store, served because a request names them."""

import asyncio
from pathlib import Path
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import ModelUnavailable
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.residency import Residency
from lmx_ledger.serving.models import ModelState, ServedModel
from lmx_ledger.serving.queue import AdmissionQueue
from lmx_ledger.serving.service import Serving
from lmx_ledger.store import embedded, shelf
from lmx_ledger.store.errors import BadModelId, StoreError

REASON: Final = "requested"
_RETRY_S: Final = 10


class OnRequest:
    """Serving's shelf: looks models up in the store, and has loaded what is asked for and is not."""

    def __init__(self, serving: Serving, residency: Residency, settings: Settings) -> None:
        self._serving = serving
        self._residency = residency
        self._settings = settings
        self._begun: dict[str, tuple[int, int]] = {}

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
            ModelUnavailable: the store cannot be read, or the model in it is not whole.
        """
        if name == embedded.ID:
            return self._enter(embedded.ID, embedded.FOLDER)
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
        return self._enter(stored.id, stored.folder)

    def load(self, model: ServedModel, cause: ev.Cause) -> None:
        """Begin to load one that is not, or try one again whose folder was replaced, or for which there was no room."""
        loading = model.state is ModelState.UNLOADED and model.settled.is_set()
        if model.state is ModelState.FAILED:
            folder = _identity(Path(model.path))
            loading = model.no_room is not None or (model.id in self._begun and folder != self._begun[model.id])
        if loading:
            self._begun[model.id] = _identity(Path(model.path))
            self._residency.begin(model, cause, REASON)

    def _enter(self, id: str, folder: Path) -> ServedModel:  # noqa: A002
        # Two requests may have looked it up at once, or one of them by another name.
        known = next((model for model in self._serving.models.all() if model.id == id), None)
        if known is not None:
            return known
        queue = self._settings.now.queue
        model = ServedModel(id, str(folder), [], AdmissionQueue(queue.max_running, queue.max_waiting))
        # As if its first load were behind it: whoever asks for it has it loaded.
        model.settled.set()
        self._serving.models.add(model)
        return model


def _identity(folder: Path) -> tuple[int, int]:
    """Changes when a pull puts another folder in its place."""
    try:
        status = folder.stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)
