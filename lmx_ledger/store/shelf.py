"""The models in HOME/models: pulled ones as `org/name`, and folders that a user put there by hand."""

import errno
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmx_ledger.store import staging
from lmx_ledger.store.errors import BadModelId, StoreError, UnknownModel
from lmx_ledger.store.staging import Staging

NOTE: Final = "lmx.json"
"""What a pull writes into the folder: where it is from, which commit, and every file's size and sha256."""

_LONGEST_PART: Final = 120


class StoredModel(NamedTuple):
    """One model of the store.

    `bytes` counts its files; `revision` (a commit) and `pulled_at` (RFC 3339 UTC) are those of a pulled one. `problem`
    says in one line why it cannot be served, as far as names and sizes of files tell.
    """

    id: str
    folder: Path
    bytes: int
    revision: str | None = None
    pulled_at: str | None = None
    problem: str | None = None


class Note(NamedTuple):
    """What `lmx.json` says that a reader of the shelf needs: commit, time, and bytes by file."""

    revision: str
    pulled_at: str
    sizes: dict[str, int]


def models_folder(home: Path) -> Path:
    """Where a home keeps its models."""
    return home / "models"


def check_id(text: str) -> str:
    """The id, when it can name a folder of the store and no other.

    Raises:
        BadModelId: it could not.
    """
    parts = text.split("/")
    if len(parts) > 2 or not all(_is_name(part) for part in parts):
        raise BadModelId(f"{text[:80]!r} is no model id; write it as org/name, for example mlx-community/Qwen3-4B-4bit")
    return text


def list_models(home: Path) -> list[StoredModel]:
    """All of them by id. Reads names, sizes and one small file per model; no weights.

    Raises:
        StoreError: the folder cannot be read.
    """
    models = models_folder(home)
    try:
        _mend(models)
        return sorted(_read_all(models), key=lambda model: model.id.casefold())
    except OSError as error:
        raise StoreError(f"{models} cannot be read ({error.strerror}); name another folder with --home") from error


def find(home: Path, name: str) -> StoredModel | None:
    """The model of that id; else the only one whose id, or last part of it, is that name in any case.

    Raises:
        BadModelId: the name could lead out of the store.
        StoreError: the folder cannot be read.
    """
    matching = candidates(list_models(home), check_id(name))
    return matching[0] if len(matching) == 1 else None


def candidates(models: Sequence[StoredModel], name: str) -> list[StoredModel]:
    """The models that a name may mean: the one of exactly that id, else all whose id or last part is it."""
    exact = [model for model in models if model.id == name]
    wanted = name.casefold()
    whole = [model for model in models if model.id.casefold() == wanted]
    return exact or whole or [model for model in models if model.id.casefold().rpartition("/")[2] == wanted]


def named(home: Path, name: str) -> StoredModel:
    """As `find`, for someone who has to be told.

    Raises:
        BadModelId: the name could lead out of the store.
        UnknownModel: there is none of that name, or several.
        StoreError: the folder cannot be read.
    """
    models = list_models(home)
    matching = candidates(models, check_id(name))
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UnknownModel(f"{name} may be {' or '.join(model.id for model in matching)}; give the whole id")
    there_are = f"there are: {', '.join(model.id for model in models)}" if models else "nothing is stored"
    raise UnknownModel(f"there is no model {name} in {models_folder(home)}; {there_are}")


def remove(home: Path, id: str) -> int:  # noqa: A002
    """Delete a model, in one step for everybody who looks; also what an unfinished pull of it left. Bytes freed.

    Raises:
        BadModelId: the id could lead out of the store.
        UnknownModel: there is neither.
        Busy: it is being pulled.
        StoreError: the folder cannot be written.
    """
    models = models_folder(home)
    place = Staging(models, check_id(id))
    if place.folder.is_dir() and not place.target.is_dir():
        found = StoredModel(id, place.target, 0)
    else:
        found = named(home, id)
        place = Staging(models, found.id)
    try:
        with place.held():
            unfinished = sum(f.stat().st_size for f in place.folder.rglob("*") if f.is_file())
            place.remove()
    except OSError as error:
        raise StoreError(f"{found.folder} cannot be removed ({error.strerror}); delete it by hand") from error
    return found.bytes + unfinished


def read_note(folder: Path) -> Note | None:
    """What the pull wrote down; None for a folder that was not pulled, or whose note is damaged."""
    try:
        note = json.loads((folder / NOTE).read_bytes())
        sizes = {str(entry["name"]): int(entry["size"]) for entry in note["files"]}
        return Note(str(note["revision"]), str(note["pulled_at"]), sizes)
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _mend(models: Path) -> None:
    try:
        staging.mend(models)
    except OSError as error:
        # A reader of another user's store, or of a read-only disk, sees what is there; its owner mends it.
        if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise


def _read_all(models: Path) -> Iterator[StoredModel]:
    for outer in _folders(models):
        try:
            if (outer / "config.json").is_file():
                yield from _read(outer.name, outer)
                continue
            for inner in _folders(outer):
                if (inner / "config.json").is_file() or (inner / NOTE).is_file():
                    yield from _read(f"{outer.name}/{inner.name}", inner)
        except PermissionError:
            # Not ours, such as the lost+found of a disk that is mounted there.
            continue


def _read(id: str, folder: Path) -> Iterator[StoredModel]:  # noqa: A002
    try:
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        note = read_note(folder)
    except FileNotFoundError:
        # Removed or replaced in this very moment.
        return
    sizes.pop(NOTE, None)
    problem = _differs(sizes, note.sizes) if note else _missing(sizes)
    total = sum(sizes.values())
    if note is None:
        yield StoredModel(id, folder, total, problem=problem)
    else:
        yield StoredModel(id, folder, total, note.revision, note.pulled_at, problem)


def _missing(sizes: dict[str, int]) -> str | None:
    """What a served model needs and a folder of these files lacks."""
    if not any(name.startswith("model") and name.endswith(".safetensors") for name in sizes):
        return "it has no model*.safetensors; put its weights there"
    return None if "tokenizer.json" in sizes else "it has no tokenizer.json; convert it with a fast tokenizer"


def _differs(sizes: dict[str, int], pulled: dict[str, int]) -> str | None:
    for name, size in pulled.items():
        if name not in sizes:
            return f"{name} is gone; pull it again"
        if sizes[name] != size:
            return f"{name} is not as it was pulled ({sizes[name]} bytes, not {size}); pull it again"
    return None


def _folders(folder: Path) -> list[Path]:
    """The folders in it that can be named by an id; `.partial` cannot."""
    try:
        return [file for file in folder.iterdir() if _is_name(file.name) and file.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_name(part: str) -> bool:
    fits = 0 < len(part) <= _LONGEST_PART and part.isprintable()
    return fits and not part.startswith(".") and "\\" not in part and "/" not in part
