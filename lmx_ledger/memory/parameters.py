"""A model's weights reckoned from its config, for when nobody has told what its files hold."""

from typing import Final, NamedTuple

from lmx_ledger.memory.caches import DELTA, EXPANDED, LATENT, Kind, layer_kinds
from lmx_ledger.memory.model_config import ModelConfig

_GATELESS: Final = frozenset({"gpt2", "gpt_bigcode", "gpt_neox", "gptj", "nemotron", "phi", "starcoder2", "stablelm"})
"""Their MLP is two matrices, not three."""
_FOUR_TIMES: Final = frozenset({"gpt2", "gpt_bigcode", "gptj"})
_BIASED_QKV: Final = frozenset({"glm4", "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen"})
_NORMED_HEADS: Final = frozenset({"qwen3", "qwen3_moe", "qwen3_vl", "gemma3_text", "gemma4_text", "lfm2", "lfm2_moe"})
_FOUR_NORMS: Final = frozenset({"gemma2", "gemma3_text", "gemma4_text", "glm4"})
_TIED: Final = ("cohere", "gemma", "gpt2", "granite", "lfm2", "llama", "mistral", "olmo2", "qwen2", "starcoder2")
"""Families whose head is the embedding where the config does not say."""


class Estimate(NamedTuple):
    """Bytes: of each layer, and of what belongs to none (embeddings, the last norm, the head)."""

    layers: tuple[int, ...]
    rest: int


def estimate_weights(config: ModelConfig, element_bytes: int) -> Estimate:
    """Matrices of attention, MLP or all experts, and embeddings, with scales and biases where they are quantized.

    Exact for Llama, Mistral, Mixtral, Qwen 2 and 3; of other families small vectors may be missing.

    Raises:
        ShapeUnknown: the config lacks what that takes.
    """
    weigh = _Weigher(config, element_bytes)
    kinds = layer_kinds(config)
    layers = tuple(_layer(config, weigh, number, kind) for number, kind in enumerate(kinds))
    vocab = config.count("vocab_size")
    tied = config.says("tie_word_embeddings")
    if not isinstance(tied, bool):
        tied = config.kind.startswith(_TIED) and not config.kind.endswith("_moe")
    head = 0 if tied else weigh.matrix("lm_head", config.hidden, vocab)
    return Estimate(
        layers, weigh.matrix("model.embed_tokens", config.hidden, vocab) + head + weigh.vector(config.hidden)
    )


class _Weigher:
    """Bytes of matrices and vectors as MLX stores them."""

    def __init__(self, config: ModelConfig, element_bytes: int) -> None:
        self._quantization = config.quantization
        self._element_bytes = element_bytes

    def vector(self, size: int) -> int:
        return size * self._element_bytes

    def matrix(self, path: str, inputs: int, outputs: int, times: int = 1) -> int:
        """Packed bits, with a scale and (in the affine mode) a bias for each group of inputs; else plain numbers."""
        packing = self._quantization.of(path) if self._quantization else None
        if packing is not None and packing.group > 0 and inputs % packing.group == 0:
            of_group = 2 * self._element_bytes if packing.affine else 1
            return times * outputs * (inputs * packing.bits // 8 + inputs // packing.group * of_group)
        return times * outputs * inputs * self._element_bytes


def _layer(config: ModelConfig, weigh: _Weigher, number: int, kind: Kind) -> int:
    path = f"model.layers.{number}"
    norms = (4 if config.kind in _FOUR_NORMS else 2) * weigh.vector(config.hidden)
    if kind == "delta":
        mixer = _delta(config, weigh, f"{path}.linear_attn")
    elif kind == "conv":
        mixer = weigh.matrix(f"{path}.conv.in_proj", config.hidden, 3 * config.hidden)
        mixer += weigh.matrix(f"{path}.conv.out_proj", config.hidden, config.hidden)
        mixer += weigh.vector(config.hidden * config.count("conv_L_cache"))
    elif config.kind in LATENT | EXPANDED:
        mixer = _latent(config, weigh, f"{path}.self_attn")
    else:
        mixer = _attention(config, weigh, f"{path}.self_attn")
    if _is_sparse(config, number):
        return norms + mixer + _experts(config, weigh, f"{path}.mlp")
    return norms + mixer + _mlp(config, weigh, f"{path}.mlp", mlp_width(config))


def _attention(config: ModelConfig, weigh: _Weigher, path: str) -> int:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    gate = 2 if config.kind in DELTA else 1
    total = weigh.matrix(f"{path}.q_proj", config.hidden, gate * queries)
    total += weigh.matrix(f"{path}.k_proj", config.hidden, keys) + weigh.matrix(f"{path}.v_proj", config.hidden, keys)
    total += weigh.matrix(f"{path}.o_proj", queries, config.hidden)
    if config.kind in _BIASED_QKV or config.says("attention_bias") is True:
        total += weigh.vector(queries + 2 * keys)
    if config.kind in _NORMED_HEADS | DELTA:
        total += weigh.vector(2 * config.head_dim)
    return total


def _latent(config: ModelConfig, weigh: _Weigher, path: str) -> int:
    latent, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
    nope, value = config.count("qk_nope_head_dim"), config.count("v_head_dim")
    queries, inner = config.heads * (nope + rope), config.count("q_lora_rank", default=0)
    if inner:
        total = weigh.matrix(f"{path}.q_a_proj", config.hidden, inner)
        total += weigh.matrix(f"{path}.q_b_proj", inner, queries) + weigh.vector(inner)
    else:
        total = weigh.matrix(f"{path}.q_proj", config.hidden, queries)
    total += weigh.matrix(f"{path}.kv_a_proj_with_mqa", config.hidden, latent + rope) + weigh.vector(latent)
    total += weigh.matrix(f"{path}.embed_q", nope, latent, config.heads)
    total += weigh.matrix(f"{path}.unembed_out", latent, value, config.heads)
    return total + weigh.matrix(f"{path}.o_proj", config.heads * value, config.hidden)


def _delta(config: ModelConfig, weigh: _Weigher, path: str) -> int:
    heads = config.count("linear_num_value_heads")
    keys = config.count("linear_num_key_heads") * config.count("linear_key_head_dim")
    values = heads * config.count("linear_value_head_dim")
    total = weigh.matrix(f"{path}.in_proj_qkvz", config.hidden, 2 * keys + 2 * values)
    total += weigh.matrix(f"{path}.in_proj_ba", config.hidden, 2 * heads)
    total += weigh.matrix(f"{path}.out_proj", values, config.hidden)
    convolution = (2 * keys + values) * config.count("linear_conv_kernel_dim")
    return total + weigh.vector(convolution + 2 * heads + config.count("linear_value_head_dim"))


def _mlp(config: ModelConfig, weigh: _Weigher, path: str, width: int, times: int = 1) -> int:
    ups = 1 if config.kind in _GATELESS else 2
    total = ups * weigh.matrix(f"{path}.up_proj", config.hidden, width, times)
    return total + weigh.matrix(f"{path}.down_proj", width, config.hidden, times)


def _experts(config: ModelConfig, weigh: _Weigher, path: str) -> int:
    """All of them, for all are resident; the router; what every token goes through."""
    count, width = experts(config), expert_width(config)
    total = _mlp(config, weigh, f"{path}.switch_mlp", width, count)
    total += weigh.matrix(f"{path}.gate", config.hidden, count)
    shared = config.count("shared_expert_intermediate_size", default=0)
    if shared:
        total += weigh.matrix(f"{path}.shared_expert_gate", config.hidden, 1)
    shared = shared or config.count("n_shared_experts", default=0) * width
    return total + (_mlp(config, weigh, f"{path}.shared_experts", shared) if shared else 0)


def experts(config: ModelConfig) -> int:
    """Of a sparse layer; 0 where there are none.

    Raises:
        ShapeUnknown: the config says something that is no number.
    """
    return config.count("num_local_experts", "num_experts", "n_routed_experts", default=0)


def expert_width(config: ModelConfig) -> int:
    """Inner width of one expert.

    Raises:
        ShapeUnknown: the config does not say.
    """
    names = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    return config.count(*names)


def mlp_width(config: ModelConfig, default: int | None = None) -> int:
    """Inner width of a dense layer's MLP.

    Raises:
        ShapeUnknown: the config does not say, and there is no default.
    """
    if config.kind in _FOUR_TIMES:
        default = 4 * config.hidden
    return config.count("block_ff_dim", "ffn_hidden_size", "n_inner", "intermediate_size", default=default)


def _is_sparse(config: ModelConfig, number: int) -> bool:
    if not experts(config):
        return False
    every = config.count("decoder_sparse_step", default=1) or 1
    dense = config.count("first_k_dense_replace", "num_dense_layers", default=0)
    return number >= dense and (number + 1) % every == 0 and number not in (config.list_of("mlp_only_layers") or [])
