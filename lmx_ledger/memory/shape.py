"""How large a model is in memory, layer by layer and token by token: read off its config and its files' headers."""

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from lmx_ledger.memory.caches import EXPANDED, LATENT, LayerCache, latent_numbers, layer_caches
from lmx_ledger.memory.model_config import ModelConfig, ShapeUnknown
from lmx_ledger.memory.parameters import Estimate, estimate_weights, expert_width, experts, mlp_width

FUSED_ON_METAL: Final = frozenset({64, 80, 128})
"""Widths of a head for which Metal's attention keeps no scores in memory."""

_LAYER: Final = re.compile(r"(?:^|.*\.)layers\.(\d+)(?=\.)")
"""As the worker pages weights."""
_UNUSED: Final = re.compile(
    r"(?:^|\.)(?:vision_tower|vision_model|vision_embed_tokens|visual|audio_tower|embed_audio|embed_vision|vision_embedder"
    r"|multi_modal_projector|patch_merge_mlp|mtp)\.|rotary_emb\.inv_freq$"
)
"""What mlx-lm leaves out when it loads a text model."""
_FLOATS: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_FLOAT32: Final = 4
_STREAMS: Final = 4
"""Arrays of the residual stream's width that are alive at once: the stream, what is normed, what is added."""


class Tensor(NamedTuple):
    """One entry of a safetensors header; `kind` is the format's own word (`BF16`, `U32`)."""

    name: str
    kind: str
    bytes: int


class Prefill(NamedTuple):
    """What reading a prompt takes besides weights and KV: bytes for each token of the chunk, and of the logits.

    Scores of `heads` heads take memory where heads of `head_dim` are not fused (None: they never are).
    `expanded_bytes`: keys and values that latent attention makes anew of each token before.
    """

    token_bytes: int
    logits_bytes: int
    heads: int
    head_dim: int | None
    expanded_bytes: int = 0


class ModelShape(NamedTuple):
    """A model's sizes in bytes. `exact`: the layers' are the files' own, not shares by what the config says."""

    layers: tuple[int, ...]
    rest_bytes: int
    caches: tuple[LayerCache, ...]
    prefill: Prefill
    context: int | None
    exact: bool

    @property
    def weights_bytes(self) -> int:
        """All layers, and what belongs to none: embeddings, the last norm, the head."""
        return sum(self.layers) + self.rest_bytes

    def kv_bytes(self, tokens: int) -> int:
        """What one stream of so many tokens keeps, as mlx-lm's caches grow: by 256 tokens."""
        return sum(cache.bytes(tokens) for cache in self.caches)

    def working_bytes(self, chunk: int, tokens: int, fused: frozenset[int] = FUSED_ON_METAL) -> int:
        """The most that reading a chunk takes at the end of so many tokens, where heads of these widths are fused.

        Where they are not: scores (heads x chunk x tokens x 4), the mask, and a layer's keys and values once more. A
        sliding layer holds the chunk beside its window while it is read.
        """
        chunk = min(chunk, tokens)
        windows = [cache.window for cache in self.caches if cache.token_bytes]
        seen = max((tokens if w is None else min(tokens, w + chunk) for w in windows), default=0)
        sliding = chunk * sum(cache.token_bytes for cache in self.caches if cache.window is not None)
        taken = chunk * self.prefill.token_bytes + seen * self.prefill.expanded_bytes + sliding
        if self.prefill.head_dim not in fused:
            widest = max((cache.token_bytes for cache in self.caches), default=0)
            taken += chunk * seen * (self.prefill.heads * _FLOAT32 + 1) + seen * widest
        return taken + self.prefill.logits_bytes


def shape_of(
    values: Mapping[str, Any], tensors: Iterable[Tensor] | None = None, total_bytes: int | None = None
) -> ModelShape:
    """The shape of the model of that config.json.

    `tensors` are all of its files' and make the layers exact; else `total_bytes` (what the files hold) is shared out as
    the config says, evenly where that does not say enough; with neither the config has to say everything.

    Raises:
        ShapeUnknown: what is missing to tell.
    """
    config = ModelConfig(values)
    element_bytes = config.element_bytes
    if tensors is not None:
        weights, element_bytes = _measured(config, tensors)
    elif total_bytes is not None:
        weights = _shared_out(config, element_bytes, total_bytes)
    else:
        weights = estimate_weights(config, element_bytes)
    caches = layer_caches(config, element_bytes)
    return ModelShape(
        layers=weights.layers,
        rest_bytes=weights.rest,
        caches=caches,
        prefill=_prefill(config, element_bytes),
        context=config.context,
        exact=tensors is not None,
    )


def _measured(config: ModelConfig, tensors: Iterable[Tensor]) -> tuple[Estimate, int]:
    """By the files' own sizes; and the bytes of a number that is not quantized."""
    count = config.layers
    tied = config.says("tie_word_embeddings") is True
    layers, rest = [0] * count, 0
    floats: dict[int, int] = {}
    for tensor in tensors:
        if _UNUSED.search(tensor.name) or (tied and tensor.name.startswith("lm_head.")):
            continue
        if tensor.kind in _FLOATS:
            size = _FLOATS[tensor.kind]
            floats[size] = floats.get(size, 0) + tensor.bytes
        found = _LAYER.match(tensor.name)
        if found is None:
            rest += tensor.bytes
        elif int(found[1]) < count:
            # Beyond are layers that draft, which mlx-lm leaves out.
            layers[int(found[1])] += tensor.bytes
    element_bytes = max(floats, key=floats.__getitem__) if floats else config.element_bytes
    return Estimate(tuple(layers), rest), element_bytes


def _shared_out(config: ModelConfig, element_bytes: int, total: int) -> Estimate:
    count = config.layers
    try:
        guess = estimate_weights(config, element_bytes)
    except ShapeUnknown:
        guess = Estimate((1,) * count, 0)
    parts = (*guess.layers, guess.rest)
    whole = sum(parts) or 1
    ends = [total * so_far // whole for so_far in accumulate(parts, initial=0)]
    *layers, rest = (end - begin for begin, end in pairwise(ends))
    return Estimate(tuple(layers), rest)


def _prefill(config: ModelConfig, element_bytes: int) -> Prefill:
    width = mlp_width(config, default=4 * config.hidden)
    if experts(config):
        width = max(width, config.count("num_experts_per_tok", "moe_topk", default=1) * expert_width(config))
    head_dim: int | None = config.head_dim
    attention = config.heads * config.head_dim + 2 * config.kv_heads * config.head_dim
    if config.kind in LATENT | EXPANDED:
        attention = config.heads * config.count("qk_nope_head_dim") + latent_numbers(config)
        head_dim = config.count("qk_nope_head_dim") + config.count("qk_rope_head_dim")
    latent = config.kind in LATENT
    return Prefill(
        token_bytes=(_STREAMS * config.hidden + 2 * attention + 3 * width) * element_bytes,
        logits_bytes=config.count("vocab_size", default=0) * (element_bytes + _FLOAT32),
        heads=config.heads,
        head_dim=None if latent else head_dim,
        expanded_bytes=latent_numbers(config) * element_bytes if latent else 0,
    )
