"""Writes small Llama model folders without MLX: what serves until a real model is named, and what tests use."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CHAT_TEMPLATE: Final = r"""
{%- if tools %}
  {{- '<|im_start|>system\nTools, called as <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>:\n' }}
  {%- for tool in tools %}{{- tool | tojson + '\n' }}{% endfor %}
  {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
  {{- '<|im_start|>' + message.role + '\n' }}
  {%- if message.content %}{{- message.content }}{% endif %}
  {%- for call in message.tool_calls or [] %}
    {%- set tool_call = call.function %}
    {{- '<tool_call>\n' + {"name": tool_call.name, "arguments": tool_call.arguments} | tojson + '\n</tool_call>' }}
  {%- endfor %}
  {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
"""ChatML with Qwen's tool calls; `tool_call.name` is what mlx-lm recognises the format by."""

SPECIALS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")

Weights = dict[str, npt.NDArray[np.float32]]


class Shape(NamedTuple):
    """The sizes of a Llama; `head_dim` is hidden / heads."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 128
    context: int = 8192


def byte_level_bpe(text: Iterable[str], vocab: int, added: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer trained on some text: any input encodes, decoding gives it back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in (*MARKERS, *added)])
    return tokenizer


def random_weights(shape: Shape, vocab: int, seed: int) -> Weights:
    """Normal weights of a Llama with its own output layer, float32, the same for the same seed."""
    rng = np.random.default_rng(seed)
    head = shape.hidden // shape.heads

    def normal(*size: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = (rng.standard_normal(size) / np.sqrt(size[-1])).astype(np.float32)
        return values

    weights: Weights = {
        "model.embed_tokens.weight": rng.standard_normal((vocab, shape.hidden)).astype(np.float32),
        "model.norm.weight": np.ones(shape.hidden, np.float32),
        "lm_head.weight": 4 * normal(vocab, shape.hidden),
    }
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        weights |= {
            f"{at}.input_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{at}.post_attention_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{at}.self_attn.q_proj.weight": normal(shape.hidden, shape.hidden),
            f"{at}.self_attn.k_proj.weight": normal(shape.kv_heads * head, shape.hidden),
            f"{at}.self_attn.v_proj.weight": normal(shape.kv_heads * head, shape.hidden),
            f"{at}.self_attn.o_proj.weight": normal(shape.hidden, shape.hidden),
            f"{at}.mlp.gate_proj.weight": normal(shape.intermediate, shape.hidden),
            f"{at}.mlp.up_proj.weight": normal(shape.intermediate, shape.hidden),
            f"{at}.mlp.down_proj.weight": normal(shape.hidden, shape.intermediate),
        }
    return weights


def write_llama(
    folder: Path,
    *,
    shape: Shape,
    weights: Mapping[str, npt.NDArray[np.float32]],
    tokenizer: Tokenizer,
    template: str = CHAT_TEMPLATE,
) -> Path:
    """Write a complete folder in one step (a half-written one is never seen); an existing one is replaced."""
    rough = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(rough, ignore_errors=True)
    rough.mkdir(parents=True)
    eos = tokenizer.token_to_id("<|im_end|>")
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": len(weights["lm_head.weight"]),
        "torch_dtype": "float32",
        "eos_token_id": eos,
    }
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}
    save_file(dict(weights), rough / "model.safetensors", metadata={"format": "mlx"})
    tokenizer.save(str(rough / "tokenizer.json"))
    (rough / "config.json").write_text(json.dumps(config, indent=2))
    (rough / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    rough.rename(folder)
    return folder


def write_random_model(folder: Path, *, text: Iterable[str], seed: int = 0, shape: Shape | None = None) -> Path:
    """A Llama with random weights that speaks in the pieces of words of `text`. It makes no sense, quickly."""
    shape = shape or Shape()
    tokenizer = byte_level_bpe(text, vocab=512)
    vocab = tokenizer.get_vocab_size()
    weights = random_weights(shape, vocab, seed)
    # Lone bytes beyond ASCII and structure that nobody asked for would only show as broken characters.
    for token, number in tokenizer.get_vocab().items():
        if token in (*SPECIALS[:2], *MARKERS) or not token.replace("Ġ", " ").isascii():
            weights["lm_head.weight"][number] = 0
    return write_llama(folder, shape=shape, weights=weights, tokenizer=tokenizer)
