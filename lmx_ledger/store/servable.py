"""Whether a repository can be served here, and which of its files that takes: decided before weights are fetched."""

import ast
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.store.errors import NotServable
from lmx_ledger.store.folder import INDEX

CONFIG: Final = "config.json"

_SMALL: Final = (
    "config*.json",
    "generation_config.json",
    "hf_quant_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
    INDEX,
)
_WEIGHTS: Final = "model*.safetensors"
"""mlx-lm loads these and no others: a second copy under another name (`consolidated.safetensors`) stays away."""

_FOREIGN: Final = {
    ".gguf": "GGUF",
    ".ggml": "GGML",
    ".bin": "PyTorch .bin",
    ".pt": "PyTorch .pt",
    ".pth": "PyTorch .pth",
    ".ckpt": "checkpoint",
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".npz": "npz",
}


class Architectures(NamedTuple):
    """What the installed mlx-lm can run: its modules, and the model types it maps to another's module."""

    modules: frozenset[str]
    renamed: Mapping[str, str]
    by_class: Mapping[tuple[str, str], str]

    def has(self, config: Mapping[str, Any]) -> bool:
        """As mlx-lm's own look-up goes: the remapping of (type, class) first, then that of the type."""
        kind, classes = config["model_type"], config.get("architectures") or ()
        for name in (classes,) if isinstance(classes, str) else classes:
            if (module := self.by_class.get((kind, str(name)))) is not None:
                return module in self.modules
        return self.renamed.get(kind, kind) in self.modules


def installed_architectures() -> Architectures | None:
    """Read from mlx-lm's files without importing it, which would start MLX; None where it cannot be told."""
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    try:
        tables = _tables((package / "utils.py").read_text("utf-8"))
        names = frozenset(file.name.removesuffix(".py") for file in (package / "models").iterdir())
    except (OSError, SyntaxError, ValueError):
        return None
    if "MODEL_REMAPPING" not in tables:
        return None
    return Architectures(names, tables["MODEL_REMAPPING"], tables.get("MODEL_ARCHITECTURE_REMAPPING", {}))


def _tables(source: str) -> dict[str, dict[Any, str]]:
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in {"MODEL_REMAPPING", "MODEL_ARCHITECTURE_REMAPPING"}:
                found[name] = ast.literal_eval(node.value)
    return found


def check_names(repo: str, names: Iterable[str]) -> None:
    """Refuse by the names of the files alone.

    Raises:
        NotServable: no configuration, no weights that MLX reads, or no tokenizer.
    """
    there = set(names)
    if not any(fnmatchcase(name, _WEIGHTS) for name in there):
        foreign = sorted({kind for name in there for end, kind in _FOREIGN.items() if name.endswith(end)})
        has = f" (only {', '.join(foreign)})" if foreign else ""
        raise NotServable(f"{repo} has no model*.safetensors{has}; look for it converted to MLX, in mlx-community/")
    if CONFIG not in there:
        raise NotServable(f"{repo} has no {CONFIG}, so it is no whole model; an adapter needs its base model merged")
    if "tokenizer.json" not in there:
        raise NotServable(f"{repo} has no tokenizer.json; look for a conversion of it with a fast tokenizer")


def check_config(repo: str, config: Mapping[str, Any], installed: Architectures | None) -> list[str]:
    """Refuse by config.json; what a user should know all the same, in lines.

    Raises:
        NotServable: the model needs code that is not here.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise NotServable(f"{repo}'s {CONFIG} names no model_type; look for a conversion of it to MLX")
    if config.get("model_file"):
        raise NotServable(f"{repo} brings its own code ({CONFIG}: model_file), which is never run; pull another")
    if installed is not None and not installed.has(config):
        raise NotServable(f"{repo} is a {kind[:80]!r} model, which the installed mlx-lm cannot run; a newer one may")
    if config.get("auto_map"):
        return [f"{repo} names code of its own (auto_map); it was not fetched, mlx-lm's own {kind} runs it"]
    return []


def wanted(repo: str, names: Sequence[str], shards: Sequence[str] | None) -> list[str]:
    """The files to fetch, small ones first, of the top folder only; `shards` are those that the index names.

    Raises:
        NotServable: the repository lacks a shard of its own index.
    """
    top = [name for name in names if "/" not in name and "\\" not in name and name[:1] != "." and name.isprintable()]
    small = [n for n in top if any(fnmatchcase(n, pattern) for pattern in _SMALL) and not n.endswith(".py")]
    weights = [n for n in top if fnmatchcase(n, _WEIGHTS)] if shards is None else list(shards)
    if missing := [name for name in weights if name not in top]:
        raise NotServable(
            f"{repo} lacks {len(missing)} of {len(weights)} shards that its index names ({missing[0]}); pull another"
        )
    if strange := [name for name in weights if not fnmatchcase(name, _WEIGHTS)]:
        raise NotServable(f"{repo} keeps weights in {strange[0]}, where mlx-lm does not look; pull another")
    return [*sorted(small), *sorted(weights)]
