"""A model's folder: whether its JSON can be read and its weights are whole, before anything is loaded."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any, Final

from lmx_ledger.memory.shape import Tensor

INDEX: Final = "model.safetensors.index.json"

_LENGTH: Final = struct.Struct("<Q")
_LONGEST_HEADER: Final = 100_000_000
"""Bytes; the limit of the safetensors format itself. A damaged length must not become an allocation."""

_SAMPLE: Final = 4_096
"""Bytes of a tensor's beginning and end that stand for all of it."""


class ModelFolderError(Exception):
    """A folder cannot be served; the message names the file and says what to do."""


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelFolderError: it is missing, no JSON, or no object.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(f"{file} is missing; a model folder needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelFolderError(f"{file} holds no JSON object")
    return value


def shards_of(index: Path) -> list[str]:
    """The files that an index names, sorted; each is a plain name, for an index comes from strangers.

    Raises:
        ModelFolderError: it cannot be read, or names what is no file beside it.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelFolderError(f"{index} has no weight_map of file names; download it again")
    for name in names.values():
        if name != Path(name).name or "\\" in name or name.startswith(".") or not name.isprintable():
            raise ModelFolderError(f"{index} names {name!r}, which is no file beside it")
    return sorted(set(names.values()))


def check_weights(folder: Path) -> int:
    """Bytes of all shards; every shard that the index names is there and as long as its own header says.

    Raises:
        ModelFolderError: a shard is missing or cut short, or there are no weights.
    """
    names = _shard_names(folder)
    if not names:
        raise ModelFolderError(f"{folder} holds no model*.safetensors; download the weights again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{folder} lacks {len(missing)} of {len(names)} shards: {', '.join(missing[:3])}; download them again"
        )
    return sum(_shard_bytes(folder / name) for name in names)


def tensors_of(folder: Path) -> list[Tensor]:
    """What the headers of all shards list; no tensor is read.

    Raises:
        ModelFolderError: a shard is missing or cut short, or there are no weights.
    """
    check_weights(folder)
    return [
        Tensor(name, str(entry.get("dtype")), entry["data_offsets"][1] - entry["data_offsets"][0])
        for shard in _shard_names(folder)
        for name, entry in _entries(folder / shard).items()
    ]


def fingerprint(folder: Path) -> str:
    """Names a model's weights, wherever they lie: 32 hex digits over config.json, every shard's header, and both ends
    of every tensor. Other weights of the same shape differ in each tensor.

    Raises:
        ModelFolderError: a shard cannot be read; ask `check_weights` first.
    """
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for name in _shard_names(folder):
        try:
            with (folder / name).open("rb") as stream:
                (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
                header = stream.read(length)
                found.update(name.encode() + header)
                begin = _LENGTH.size + length
                for tensor, entry in sorted(json.loads(header).items()):
                    if tensor == "__metadata__":
                        continue
                    start, end = entry["data_offsets"]
                    for at in (start, max(end - _SAMPLE, start)):
                        stream.seek(begin + at)
                        found.update(stream.read(min(_SAMPLE, end - at)))
        except (OSError, struct.error, ValueError, LookupError, TypeError) as error:
            raise ModelFolderError(f"{folder / name} cannot be read: {error}") from error
    return found.hexdigest()[:32]


def _shard_names(folder: Path) -> list[str]:
    index = folder / INDEX
    return shards_of(index) if index.exists() else sorted(file.name for file in folder.glob("model*.safetensors"))


def _shard_bytes(file: Path) -> int:
    return max((int(entry["data_offsets"][1]) for entry in _entries(file).values()), default=0)


def _entries(file: Path) -> dict[str, Any]:
    """The header's tensors by name; the file is as long as they say."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(_LENGTH.size)
        if len(head) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            if length <= min(size - _LENGTH.size, _LONGEST_HEADER):
                try:
                    entries = {name: e for name, e in json.loads(stream.read(length)).items() if name != "__metadata__"}
                    data = max((end for _, end in (e["data_offsets"] for e in entries.values())), default=0)
                except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                    data = -1
                if data >= 0 and _LENGTH.size + length + data == size:
                    return entries
    raise ModelFolderError(f"{file} is cut short or damaged ({size} bytes); download it again")
