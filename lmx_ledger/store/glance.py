"""What a repository of the hub says of a model's size; nothing is fetched but its config.json and its index."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.store import servable
from lmx_ledger.store.errors import NotServable
from lmx_ledger.store.folder import INDEX, ModelFolderError, read_json, shards_of
from lmx_ledger.store.hub import WAITS_S, Hub, HubFile, Snapshot
from lmx_ledger.store.shelf import check_id

_LARGEST: Final = 64 * 1000**2
"""Bytes of a config or an index; real ones have a few millions at most."""


class Glance(NamedTuple):
    """A repository's config.json, and the bytes of the weights that a pull of it would bring."""

    id: str
    config: dict[str, Any]
    weights_bytes: int


def glance(repo: str, *, say: Callable[[str], None], waits_s: Sequence[float] = WAITS_S) -> Glance:
    """Look at a repository's newest commit; `say` hears of tries that failed.

    Raises:
        StoreError: one of its kinds; NotServable where a pull would be refused as well.
    """
    hub = Hub(say=say, waits_s=waits_s)
    snapshot = hub.look_up(check_id(repo), None)
    files = {file.name: file for file in snapshot.files}
    servable.check_names(snapshot.id, files)
    with tempfile.TemporaryDirectory(prefix="lmx-fit-") as folder:
        try:
            config = read_json(_fetched(hub, snapshot, files[servable.CONFIG], Path(folder)))
            servable.check_config(snapshot.id, config, servable.installed_architectures())
            index = _fetched(hub, snapshot, files[INDEX], Path(folder)) if INDEX in files else None
            shards = shards_of(index) if index else None
            told = read_json(index).get("metadata") if index else None
        except ModelFolderError as error:
            raise NotServable(f"{snapshot.id}: {str(error).replace(f'{folder}/', '')}") from None
    names = servable.wanted(snapshot.id, list(files), shards)
    size = sum(files[name].size for name in names if name.endswith(".safetensors"))
    total = told.get("total_size") if isinstance(told, dict) else None
    return Glance(snapshot.id, config, total if isinstance(total, int) and 0 < total < size else size)


def _fetched(hub: Hub, snapshot: Snapshot, file: HubFile, folder: Path) -> Path:
    if file.size > _LARGEST:
        raise NotServable(f"{snapshot.id}: {file.name} has {file.size} bytes, which none has; look for another")
    hub.fetch(snapshot, file, folder / file.name, lambda _: None)
    return folder / file.name
