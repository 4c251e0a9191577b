"""The model of the engine's figures: a random Llama of six million parameters, float32, 6 KB of KV a token."""

import json
import random
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB: Final = 4_096
HIDDEN: Final = 256
LAYERS: Final = 6
HEADS: Final = 4
KV_HEADS: Final = 2
INTERMEDIATE: Final = 704
CONTEXT: Final = 32_768
KV_BYTES_OF_LAYER: Final = 2 * KV_HEADS * HIDDEN // HEADS * 4
"""One layer's keys and values of one token."""
_NEVER: Final = "<|never|>"
"""The token that would end an answer: it is so unlikely that none ends before it has its length."""


def write_bench_model(folder: Path, layers: int = LAYERS) -> Path:
    """Write the folder, as a hub has it; the same bytes every time.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    never = int(tokenizer.token_to_id(_NEVER) or 0)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        "torch_dtype": "float32",
        "eos_token_id": never,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = {"eos_token": _NEVER, "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_safetensors(folder / "model.safetensors", _weights(layers, never))
    return folder


def words(rng: random.Random, tokens: int) -> list[int]:
    """A prompt of so many ids."""
    return [rng.randrange(300, VOCAB) for _ in range(tokens)]


def _tokenizer() -> Tokenizer:
    rng = random.Random(0)  # noqa: S311 - a text, not a secret
    syllables = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrs"]
    text = (" ".join("".join(rng.choices(syllables, k=3)) for _ in range(10)) for _ in range(4_000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=[_NEVER],
            # No bytes that are half a character: every token has text, so that each is seen to arrive.
            initial_alphabet=[c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c < "\x7f" or c == "Ġ"],
            show_progress=False,
        ),
    )
    return tokenizer


def _weights(layers: int, never: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return (rng.standard_normal((rows, columns)) * 0.08).astype(np.float32)

    size = HIDDEN // HEADS
    found: dict[str, Any] = {
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
        "lm_head.weight": matrix(VOCAB, HIDDEN),
    }
    found["lm_head.weight"][never] = 0
    for layer in range(layers):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.self_attn.q_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{name}.self_attn.k_proj.weight": matrix(KV_HEADS * size, HIDDEN),
            f"{name}.self_attn.v_proj.weight": matrix(KV_HEADS * size, HIDDEN),
            f"{name}.self_attn.o_proj.weight": matrix(HIDDEN, HIDDEN),
            f"{name}.mlp.gate_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.up_proj.weight": matrix(INTERMEDIATE, HIDDEN),
            f"{name}.mlp.down_proj.weight": matrix(HIDDEN, INTERMEDIATE),
            f"{name}.input_layernorm.weight": np.ones(HIDDEN, np.float32),
            f"{name}.post_attention_layernorm.weight": np.ones(HIDDEN, np.float32),
        }
    return found


def _write_safetensors(path: Path, tensors: dict[str, Any]) -> None:
    """The format is a length, a JSON header and the bytes: https://huggingface.co/docs/safetensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    told = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(told)) + told)
        for value in tensors.values():
            file.write(value.tobytes())
