"""The models of the figures: random Llamas in float32, as a rule of six million parameters with 6 KB of KV a token."""

import functools
import json
import random
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB: Final = 4_096
CONTEXT: Final = 32_768
_FLOAT: Final = 4
_NEVER: Final = "<|never|>"
"""The token that would end an answer: it is so unlikely that none ends before it has its length."""


class Shape(NamedTuple):
    """How large a model is: weights grow with `hidden` and `intermediate`, KV with `kv_heads`."""

    layers: int = 6
    hidden: int = 256
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 704
    context: int = CONTEXT

    @property
    def kv_bytes_of_layer(self) -> int:
        """One layer's keys and values of one token."""
        return 2 * self.kv_heads * self.hidden // self.heads * _FLOAT

    @property
    def kv_bytes(self) -> int:
        """All layers'."""
        return self.layers * self.kv_bytes_of_layer

    @property
    def layer_bytes(self) -> int:
        """Of one layer's weights."""
        attention = 2 * self.hidden * (self.hidden + self.kv_heads * self.hidden // self.heads)
        return _FLOAT * (attention + 3 * self.hidden * self.intermediate + 2 * self.hidden)

    @property
    def weights_bytes(self) -> int:
        """Of all weights."""
        return self.layers * self.layer_bytes + _FLOAT * self.hidden * (2 * VOCAB + 1)


_USUAL: Final = Shape()
KV_BYTES_OF_LAYER: Final = _USUAL.kv_bytes_of_layer


def write_bench_model(folder: Path, shape: Shape = _USUAL, seed: int = 0) -> Path:
    """Write the folder, as a hub has it; the same bytes every time for the same seed.

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
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
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
    _write_safetensors(folder / "model.safetensors", _weights(shape, never, seed))
    return folder


def words(rng: random.Random, tokens: int) -> list[int]:
    """A prompt of so many ids."""
    return [rng.randrange(300, VOCAB) for _ in range(tokens)]


@functools.cache
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


def _weights(shape: Shape, never: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Any:
        return (rng.standard_normal((rows, columns)) * 0.08).astype(np.float32)

    size = shape.hidden // shape.heads
    found: dict[str, Any] = {
        "model.embed_tokens.weight": matrix(VOCAB, shape.hidden),
        "model.norm.weight": np.ones(shape.hidden, np.float32),
        "lm_head.weight": matrix(VOCAB, shape.hidden),
    }
    found["lm_head.weight"][never] = 0
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.self_attn.q_proj.weight": matrix(shape.hidden, shape.hidden),
            f"{name}.self_attn.k_proj.weight": matrix(shape.kv_heads * size, shape.hidden),
            f"{name}.self_attn.v_proj.weight": matrix(shape.kv_heads * size, shape.hidden),
            f"{name}.self_attn.o_proj.weight": matrix(shape.hidden, shape.hidden),
            f"{name}.mlp.gate_proj.weight": matrix(shape.intermediate, shape.hidden),
            f"{name}.mlp.up_proj.weight": matrix(shape.intermediate, shape.hidden),
            f"{name}.mlp.down_proj.weight": matrix(shape.hidden, shape.intermediate),
            f"{name}.input_layernorm.weight": np.ones(shape.hidden, np.float32),
            f"{name}.post_attention_layernorm.weight": np.ones(shape.hidden, np.float32),
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
