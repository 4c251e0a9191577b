"""Reading a model through mlx-lm, and what its files say of how it marks tool calls and reasoning."""

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx
from mlx import nn
from mlx_lm import tokenizer_utils
from mlx_lm.models.cache import make_prompt_cache
from tokenizers import Tokenizer

from lmx_ledger.engine.protocol import Dialect, KvShape
from lmx_ledger.engine.worker.estimate import Estimate
from lmx_ledger.engine.worker.meter import measure
from lmx_ledger.engine.worker.weights import Weights, read_weights


class ResidentModel(NamedTuple):
    """A model in memory. `cache` has one token in it, `vocab` is the width of its logits; see `meter.measure`.

    `parse_tool` is mlx-lm's parser for its dialect.
    """

    module: nn.Module
    weights: Weights
    estimate: Estimate
    shape: KvShape
    cache: list[Any]
    vocab: int
    architecture: str
    dialect: Dialect
    parse_tool: Callable[[str, Any], Any] | None
    ms: float


def read_model(path: Path, derived: Path | None = None, scale: float = 1.0) -> ResidentModel:
    """Load the weights and run one forward pass, so that what cannot run fails here and not under a request.

    `derived`: see `read_weights`; `scale`: see `Estimate`.

    Raises:
        Exception: whatever mlx-lm or the architecture's own code raises for files that it cannot use.
    """
    began = time.monotonic_ns()
    module, config, weights = read_weights(path, derived)
    cache = make_prompt_cache(module)
    logits = module(mx.array([[0]]), cache=cache)
    mx.eval(logits)
    estimate, shape = measure(module, scale)
    dialect, parser = read_dialect(path)
    return ResidentModel(
        module=module,
        weights=weights,
        estimate=estimate,
        shape=shape,
        cache=cache,
        vocab=int(logits.shape[-1]),
        architecture=str(config["model_type"]),
        dialect=dialect,
        parse_tool=parser.parse_tool_call if parser else None,
        ms=round((time.monotonic_ns() - began) / 1e6, 3),
    )


class _Vocabulary:
    """The three things that mlx-lm's inference of a dialect asks of a tokenizer, without loading transformers' own."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        template = path / "chat_template.jinja"
        self.chat_template = template.read_text("utf-8") if template.exists() else config.get("chat_template")

    def get_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_vocab()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


def read_dialect(path: Path) -> tuple[Dialect, ModuleType | None]:
    """The markers of a model folder's template and vocabulary, and mlx-lm's parser module for its tool calls.

    mlx-lm decides this in two functions without a public name (`_infer_tool_parser`, `_infer_thinking`); a test
    holds them against the shapes that we rely on.
    """
    config_file = path / "tokenizer_config.json"
    config = json.loads(config_file.read_text("utf-8")) if config_file.exists() else {}
    vocabulary = _Vocabulary(path, config)
    name = config.get("tool_parser_type") or tokenizer_utils._infer_tool_parser(vocabulary)
    parser = importlib.import_module(f"mlx_lm.tool_parsers.{name}") if name else None
    think_start, think_end, _, _ = tokenizer_utils._infer_thinking(vocabulary)
    dialect = Dialect(
        tool_parser=name,
        tool_start=parser.tool_call_start if parser else None,
        tool_end=parser.tool_call_end if parser else None,
        think_start=think_start,
        think_end=think_end,
    )
    return dialect, parser
