"""What each layer of a model keeps of a stream, as mlx-lm's caches keep it."""

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Final, Literal, NamedTuple

from lmx_ledger.memory.model_config import ModelConfig, ShapeUnknown

STEP: Final = 256
"""Tokens by which mlx-lm's caches grow."""

Kind = Literal["full", "sliding", "delta", "conv"]

EXPANDED: Final = frozenset({"deepseek_v2", "minicpm3", "youtu_llm"})
"""Latent attention that mlx-lm keeps as the keys and values it stands for."""
_INDEXED: Final = frozenset({"deepseek_v32", "glm_moe_dsa"})
LATENT: Final = _INDEXED | {
    "deepseek_v3",
    "glm4_moe_lite",
    "joyai_llm_flash",
    "kimi_k2",
    "longcat_flash",
    "mistral4",
}
"""Latent attention of which the latent is kept (MLA)."""
DELTA: Final = frozenset({"qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"})
_CONV: Final = frozenset({"lfm2", "lfm2_moe"})
_SHARING: Final = frozenset({"gemma3n", "gemma3n_text", "gemma4", "gemma4_text"})
"""The last layers look at the keys and values of layers before them."""

_FULL_EVERY: Final = {"gemma3_text": 6, "cohere2": 4, "plamo3": 8}
_PATTERN: Final[Mapping[str, tuple[Kind, ...]]] = {
    "afmoe": ("full",),
    "exaone_moe": ("full",),
    "gear": ("full",),
    "gemma3n": ("full",),
    "gemma3n_text": ("full",),
    "gemma4": ("sliding", "sliding", "sliding", "sliding", "full"),
    "gemma4_text": ("sliding", "sliding", "sliding", "sliding", "full"),
    "gpt_oss": ("sliding", "full"),
    "laguna": ("full",),
    "llama": ("full",),
    "mellum": ("full",),
    "ministral3": ("full",),
    "mistral": ("full",),
    "olmo3": ("sliding", "sliding", "sliding", "full"),
}
"""Families whose sliding layers mlx-lm runs as such, with what they are where `layer_types` does not say."""

_STATES: Final = (
    "attn_layer_period",
    "block_types",
    "conv_window",
    "hybrid_override_pattern",
    "layer_group_size",
    "linear_",
    "lru_width",
    "mamba_",
    "ssm_",
    "state_size",
)
"""Names in a config that speak of a state between tokens."""
_STATEFUL: Final = (
    "bailing_hybrid",
    "bailing_moe_",
    "deepseek_v4",
    "falcon_h1",
    "kimi_k3",
    "kimi_linear",
    "mamba",
    "plamo2",
    "rwkv",
)


class LayerCache(NamedTuple):
    """One layer's: bytes for each token, of which at most the last `window` are kept, and a state of one size."""

    token_bytes: int = 0
    window: int | None = None
    state_bytes: int = 0

    def bytes(self, tokens: int) -> int:
        """Of one stream, at the end of so many tokens."""
        room = -(-tokens // STEP) * STEP
        return self.state_bytes + self.token_bytes * (room if self.window is None else min(room, self.window))


def layer_kinds(config: ModelConfig) -> list[Kind]:
    """What kind of attention each layer has, as mlx-lm runs it: most families' sliding layers it runs as full ones.

    Raises:
        ShapeUnknown: a layer keeps a state whose size is not known here.
    """
    layers = config.layers
    if config.kind in DELTA:
        every = config.count("full_attention_interval", default=4) or 1
        return ["delta" if (n + 1) % every else "full" for n in range(layers)]
    if config.kind in _CONV:
        types = config.list_of("layer_types") or []
        full = config.list_of("full_attn_idxs") or [n for n, name in enumerate(types) if name == "full_attention"]
        return ["full" if n in full else "conv" for n in range(layers)]
    signs = config.names_starting(*_STATES)
    if signs or config.kind.startswith(_STATEFUL):
        because = f" ({signs[0]})" if signs else ""
        raise ShapeUnknown(f"a {config.kind[:40]} model keeps a state{because} whose size is not known here")
    if config.kind in _FULL_EVERY:
        every = config.count("sliding_window_pattern", default=_FULL_EVERY[config.kind]) or 1
        return ["sliding" if (n + 1) % every else "full" for n in range(layers)]
    if config.kind == "exaone4":
        pattern = config.says("sliding_window_pattern")
        letters = pattern if isinstance(pattern, str) and pattern else "G"
        return ["sliding" if letter == "L" else "full" for letter in islice(cycle(letters), layers)]
    if config.kind not in _PATTERN:
        return ["full"] * layers
    named = config.list_of("layer_types")
    if named is not None and len(named) >= layers:
        return ["sliding" if name == "sliding_attention" else "full" for name in named[:layers]]
    return list(islice(cycle(_PATTERN[config.kind]), layers))


def layer_caches(config: ModelConfig, element_bytes: int) -> tuple[LayerCache, ...]:
    """Every layer's cache, where a number has so many bytes.

    2 x kv_heads x head_dim numbers a token for full and sliding attention, kv_lora_rank + qk_rope_head_dim for latent
    attention, a state for the others.

    Raises:
        ShapeUnknown: the config lacks what that takes.
    """
    kinds = layer_kinds(config)
    sharing = 0
    if config.kind in _SHARING:
        sharing = config.count("num_kv_shared_layers", default=20 if config.kind.startswith("gemma4") else 15)
    keeping = len(kinds) - sharing
    return tuple(_cache(config, kind, element_bytes) if n < keeping else LayerCache() for n, kind in enumerate(kinds))


def latent_numbers(config: ModelConfig) -> int:
    """Numbers of keys and values of a token that latent attention stands for, in all heads.

    Raises:
        ShapeUnknown: the config lacks what that takes.
    """
    keys = config.count("qk_nope_head_dim") + config.count("qk_rope_head_dim")
    return config.heads * (keys + config.count("v_head_dim"))


def _cache(config: ModelConfig, kind: Kind, element_bytes: int) -> LayerCache:
    if kind == "delta":
        return LayerCache(state_bytes=_delta_state(config, element_bytes))
    if kind == "conv":
        kernel = config.count("conv_L_cache")
        return LayerCache(state_bytes=max(kernel - 1, 0) * config.hidden * element_bytes)
    token_bytes = _numbers(config, kind) * element_bytes
    return LayerCache(token_bytes, config.count("sliding_window") if kind == "sliding" else None)


def _numbers(config: ModelConfig, kind: Kind) -> int:
    if config.kind in EXPANDED:
        return latent_numbers(config)
    if config.kind in LATENT:
        indexed = 2 * config.count("index_head_dim") if config.kind in _INDEXED else 0
        attentions = 2 if config.kind == "longcat_flash" else 1
        return attentions * (config.count("kv_lora_rank") + config.count("qk_rope_head_dim")) + indexed
    if kind == "full" and config.kind.startswith("gemma4"):
        head_dim = config.count("global_head_dim", default=0) or config.head_dim
        shared = config.says("attention_k_eq_v") is True
        heads = (config.count("num_global_key_value_heads", default=0) if shared else 0) or config.kv_heads
        return 2 * heads * head_dim
    return 2 * config.kv_heads * config.head_dim


def _delta_state(config: ModelConfig, element_bytes: int) -> int:
    """The last tokens before the convolution, and a matrix of float32 for each value head."""
    keys = config.count("linear_num_key_heads") * config.count("linear_key_head_dim")
    values = config.count("linear_num_value_heads") * config.count("linear_value_head_dim")
    kernel = config.count("linear_conv_kernel_dim")
    return max(kernel - 1, 0) * (2 * keys + values) * element_bytes + values * config.count("linear_key_head_dim") * 4
