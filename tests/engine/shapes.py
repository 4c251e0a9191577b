"""Tiny random models of every kind of cache, in the architectures of mlx-lm itself."""

import json
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from training.llama_folder import byte_level_bpe

_COMMON: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "vocab_size": 300,
    "max_position_embeddings": 4_096,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "eos_token_id": 299,
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "sliding window": {
        **_COMMON,
        "model_type": "gemma3_text",
        "sliding_window": 32,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
        "rope_local_base_freq": 10_000.0,
        "rope_global_base_freq": 10_000.0,
    },
    "hybrid": {
        **_COMMON,
        "model_type": "lfm2",
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 64,
        "block_ff_dim": 96,
        "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "gated delta": {
        **_COMMON,
        "model_type": "qwen3_next",
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 48,
        "partial_rotary_factor": 1.0,
        "full_attention_interval": 2,
        "norm_topk_prob": True,
    },
    "mixture of experts": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
    },
}


def write_shape(folder: Path, kind: str) -> Path:
    """A model folder with random float32 weights, the same ones each time."""
    folder.mkdir(parents=True)
    config = SHAPES[kind]
    model_class, arguments_class = _get_classes(config)
    mx.random.seed(0)
    model = model_class(arguments_class.from_dict(config))
    weights = {name: 3 * value if value.ndim > 1 else value for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    byte_level_bpe([], vocab=290).save(str(folder / "tokenizer.json"))
    return folder
