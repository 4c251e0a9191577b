"""A model's weights, layer by layer: in memory, or on disk only, from where they come back as they were."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_model

from lmx_ledger.engine.worker.process import give_back

_LAYER: Final = re.compile(r"(?:^|.*\.)layers\.\d+(?=\.)")


class Origin(NamedTuple):
    """Where an array can be read again: a safetensors file, and its name in there."""

    file: Path
    name: str


class Moved(NamedTuple):
    """What one page-out did. `written_bytes` had no file that has them as they are in memory."""

    layers: int
    bytes: int
    written_bytes: int
    ms: float


class _Layer:
    """Arrays that go and come together; `lazy` stands in for them while they are out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.arrays: list[str] = []
        self.bytes = 0
        self.lazy: list[mx.array] | None = None


def read_weights(folder: Path, derived: Path | None) -> tuple[nn.Module, dict[str, Any], "Weights"]:
    """Load a model through mlx-lm, noting which of its arrays are in the files exactly as it uses them.

    `derived` is where others are written once they have to go; None: such layers stay in memory.

    Raises:
        Exception: whatever mlx-lm or the architecture's own code raises for files that it cannot use.
    """
    watch = _Watch()
    module, config = load_model(folder, get_model_classes=watch.classes)
    module.__class__ = type(module).__mro__[1]
    files = {name: file for file in sorted(folder.glob("model*.safetensors")) for name in _names(file)}
    # What an architecture passes on unchanged is the very array that was read, under whatever name.
    names = {id(value): name for name, value in watch.read.items()}
    origins = {
        name: Origin(files[names[id(value)]], names[id(value)])
        for name, value in tree_flatten(module.parameters())
        if id(value) in names
    }
    # The class that watched is a circle of references, and would hold them until the next collection.
    watch.read.clear()
    return module, config, Weights(module, origins, derived)


class Weights:
    """One model's. All of it is the engine thread's; no forward may run while a layer is out."""

    def __init__(self, module: nn.Module, origins: dict[str, Origin], derived: Path | None) -> None:
        self._module, self._origins, self._derived = module, origins, derived
        layers: dict[str, _Layer] = {}
        for name, value in tree_flatten(module.parameters()):
            found = _LAYER.match(name)
            # What belongs to no layer (embeddings, the last norm, the head) is a layer of its own.
            key = found[0] if found else ""
            layer = layers.setdefault(key, _Layer(key))
            layer.arrays.append(name)
            layer.bytes += value.nbytes
        self._layers = list(layers.values())

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(layer.bytes for layer in self._layers)

    @property
    def resident_bytes(self) -> int:
        """What is in memory."""
        return sum(layer.bytes for layer in self._layers if layer.lazy is None)

    @property
    def layers(self) -> Sequence[int]:
        """Bytes of each, in the order in which they come back."""
        return [layer.bytes for layer in self._layers]

    @property
    def layers_out(self) -> int:
        """Layers that must come back before a forward pass."""
        return sum(layer.lazy is not None for layer in self._layers)

    def page_out(self, need: int) -> Moved:
        """Let go of as many layers as it takes to free so many bytes (0: of all), the last ones first.

        Raises:
            OSError: what has no file could not be written; what went until then is out.
        """
        began, layers, freed, written = time.monotonic(), 0, 0, 0
        opened: dict[Path, dict[str, mx.array]] = {}
        try:
            for layer in reversed(self._layers):
                if need and freed >= need:
                    break
                if layer.lazy is not None:
                    continue
                written += self._write_unread(layer)
                if any(name not in self._origins for name in layer.arrays):
                    continue
                layer.lazy = [self._lazy(self._origins[name], opened) for name in layer.arrays]
                self._module.load_weights(list(zip(layer.arrays, layer.lazy, strict=True)), strict=False)
                layers, freed = layers + 1, freed + layer.bytes
        finally:
            mx.clear_cache()
            give_back()
        return Moved(layers, freed, written, (time.monotonic() - began) * 1e3)

    def page_in(self) -> int:
        """Read the first layer that is out; its bytes, 0 where none is.

        Raises:
            RuntimeError: its file cannot be read (any more); the layer is still out.
        """
        for layer in self._layers:
            if layer.lazy is not None:
                mx.eval(layer.lazy)
                layer.lazy = None
                return layer.bytes
        return 0

    def _lazy(self, origin: Origin, opened: dict[Path, dict[str, mx.array]]) -> mx.array:
        if origin.file not in opened:
            opened[origin.file] = _load(origin.file)
        return opened[origin.file][origin.name]

    def _write_unread(self, layer: _Layer) -> int:
        """Put what was made of the files' arrays into a file of its own, once; the bytes that were written."""
        named = dict(tree_flatten(self._module.parameters()))
        unread = {name: named[name] for name in layer.arrays if name not in self._origins}
        if not unread or self._derived is None:
            return 0
        file = self._derived / f"{layer.name or 'rest'}.safetensors"
        written = 0
        if not _has(file, unread):
            self._derived.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = file.with_suffix(f".{os.getpid()}.partial.safetensors")
            mx.save_safetensors(str(partial), unread)
            with partial.open("rb") as done:
                os.fsync(done.fileno())
            partial.replace(file)
            written = sum(value.nbytes for value in unread.values())
        self._origins |= {name: Origin(file, name) for name in unread}
        return written


class _Watch:
    """Sees what mlx-lm read before the architecture's own code makes something else of it."""

    def __init__(self) -> None:
        self.read: dict[str, mx.array] = {}

    def classes(self, config: dict[str, Any]) -> tuple[type[nn.Module], type]:
        """For `load_model`."""
        model_class, arguments_class = _get_classes(config)
        read = self.read

        class Watched(model_class):  # type: ignore[misc, valid-type]
            def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
                before = dict(weights)
                inner = getattr(super(), "sanitize", None)
                after: dict[str, mx.array] = inner(weights) if inner is not None else weights
                # No others, for what is held here is not given back while the rest is computed.
                unchanged = {id(value) for value in after.values()}
                read.update({name: value for name, value in before.items() if id(value) in unchanged})
                return after

        return Watched, arguments_class


def _load(file: Path) -> dict[str, mx.array]:
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)  # noqa: S101 - a safetensors file holds arrays by name
    return loaded


def _names(file: Path) -> Sequence[str]:
    return list(_load(file))


def _has(file: Path, arrays: dict[str, mx.array]) -> bool:
    """Whether an earlier run has written it."""
    if not file.exists():
        return False
    there = _load(file)
    return there.keys() == arrays.keys() and all(
        there[name].shape == value.shape and there[name].dtype == value.dtype for name, value in arrays.items()
    )
