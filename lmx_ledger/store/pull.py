"""Bringing a model from the hub: resumable at any byte, checked against the hub's digests, visible in one step."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmx_ledger.store import servable
from lmx_ledger.store.assembly import Assembly
from lmx_ledger.store.errors import DamagedDownload, NotServable, StoreError
from lmx_ledger.store.folder import INDEX, ModelFolderError, check_weights, read_json, shards_of
from lmx_ledger.store.hub import WAITS_S, Hub, HubFile, Snapshot
from lmx_ledger.store.progress import Progress, Silent
from lmx_ledger.store.shelf import check_id, models_folder, read_note
from lmx_ledger.store.staging import Staging


class Pulled(NamedTuple):
    """What is in the store now.

    `resumed_bytes` were here from before, `fetched_bytes` came over the network. `replaced` is the commit that was
    there before; the same as `revision` where there was nothing to do. `notes` are lines that a user should read.
    """

    id: str
    folder: Path
    bytes: int
    revision: str
    resumed_bytes: int
    fetched_bytes: int
    replaced: str | None
    notes: tuple[str, ...]


def pull(
    repo: str,
    home: Path,
    revision: str | None = None,
    *,
    progress: Progress | None = None,
    waits_s: Sequence[float] = WAITS_S,
) -> Pulled:
    """Bring a repository's newest commit, or a branch, tag or commit of it, into HOME/models.

    What an interrupted pull fetched is kept and gone on from. `waits_s` are the pauses between tries.

    Raises:
        StoreError: one of its kinds; see `lmx_ledger.store.errors`.
    """
    progress = progress or Silent()
    models = models_folder(home)
    hub = Hub(say=progress.say, waits_s=waits_s)
    progress.step(f"looking up {check_id(repo)}")
    snapshot = hub.look_up(repo, revision)
    place = Staging(models, check_id(snapshot.id))
    assembly = Assembly(hub, snapshot, place, progress)
    try:
        with place.held():
            return _pull(snapshot, place, assembly, progress)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise assembly.disk_full() from error
        raise StoreError(
            f"{models} cannot be written ({error.strerror or error}); see to it, or give --home"
        ) from error
    except ModelFolderError as error:
        raise DamagedDownload(f"{snapshot.id} as the hub has it cannot be served: {error}") from error


def _pull(snapshot: Snapshot, place: Staging, assembly: Assembly, progress: Progress) -> Pulled:
    before = _installed(place)
    if before == snapshot.revision and (done := _already(place, snapshot.revision)):
        return done
    servable.check_names(snapshot.id, [file.name for file in snapshot.files])
    assembly.open()
    try:
        notes, files = _choose(snapshot, assembly)
    except (NotServable, ModelFolderError):
        place.forget(snapshot.revision)
        raise
    assembly.bring_all(files)
    progress.step("checking the whole")
    check_weights(assembly.folder)
    assembly.write_note(files)
    place.install(assembly.folder)
    return Pulled(
        id=snapshot.id,
        folder=place.target,
        bytes=sum(file.size for file in files),
        revision=snapshot.revision,
        resumed_bytes=assembly.resumed_bytes,
        fetched_bytes=assembly.fetched_bytes,
        replaced=before,
        notes=tuple(notes),
    )


def _installed(place: Staging) -> str | None:
    """The commit that is there now.

    Raises:
        StoreError: what is there is a user's own, and not ours to replace.
    """
    organisation = place.target.parent
    if organisation != place.models and (organisation / servable.CONFIG).exists():
        raise StoreError(f"{organisation} is a model itself; move it away, then pull {place.id}")
    if not os.path.lexists(place.target):
        return None
    note = read_note(place.target)
    if note is None:
        raise StoreError(f"{place.target} was not put there by a pull; move it away, then pull {place.id}")
    return note.revision


def _already(place: Staging, revision: str) -> Pulled | None:
    """The answer when this very commit is there, whole; None when it has to be mended."""
    note = read_note(place.target)
    if note is None:
        return None
    try:
        check_weights(place.target)
        whole = all((place.target / name).stat().st_size == size for name, size in note.sizes.items())
    except (ModelFolderError, FileNotFoundError):
        return None
    size = sum(note.sizes.values())
    return Pulled(place.id, place.target, size, revision, size, 0, revision, ()) if whole else None


def _choose(snapshot: Snapshot, assembly: Assembly) -> tuple[list[str], list[HubFile]]:
    """What to tell the user, and the files; config.json and the index are fetched for it, weights are not."""
    files = {file.name: file for file in snapshot.files}
    assembly.bring(files[servable.CONFIG])
    config = read_json(assembly.folder / servable.CONFIG)
    notes = servable.check_config(snapshot.id, config, servable.installed_architectures())
    shards = None
    if INDEX in files:
        assembly.bring(files[INDEX])
        shards = shards_of(assembly.folder / INDEX)
    return notes, [files[name] for name in servable.wanted(snapshot.id, list(files), shards)]
