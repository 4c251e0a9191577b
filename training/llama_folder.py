"""Writes small Llama model folders, complete as a hub has them: for the embedded model, and for tests."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS: Final = ("<think>", "</think>", "<tool_call>", "</tool_call>")

ROPE_THETA: Final = 10_000.0

Weights = dict[str, npt.NDArray[np.float32]]


class Shape(NamedTuple):
    """The sizes of a Llama; `head_dim` is hidden / heads."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 128
    context: int = 8192


def byte_level_bpe(text: Iterable[str], vocab: int, added: Sequence[str] = MARKERS) -> Tokenizer:
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
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in added])
    return tokenizer


def llama_config(shape: Shape, vocab: int, *, tied: bool) -> dict[str, Any]:
    """What config.json says of such a Llama. `tied`: the embedding is the output layer as well."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
        "torch_dtype": "float32",
    }


def write_llama(
    folder: Path,
    *,
    shape: Shape,
    weights: Mapping[str, npt.NDArray[np.float32]],
    tokenizer: Tokenizer,
    template: str,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """Write a complete folder in one step (a half-written one is never seen); an existing one is replaced."""
    rough = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(rough, ignore_errors=True)
    rough.mkdir(parents=True)
    vocab = len(weights["model.embed_tokens.weight"])
    config = llama_config(shape, vocab, tied="lm_head.weight" not in weights)
    config["eos_token_id"] = tokenizer.token_to_id("<|im_end|>")
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": template}
    save_file(dict(weights), rough / "model.safetensors", metadata={"format": "mlx"})
    # safetensors writes for its owner alone; these are for everybody who may read the folder.
    (rough / "model.safetensors").chmod(0o644)
    tokenizer.save(str(rough / "tokenizer.json"))
    (rough / "config.json").write_text(json.dumps(config, indent=2))
    (rough / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    if generation is not None:
        (rough / "generation_config.json").write_text(json.dumps(generation, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    rough.rename(folder)
    return folder
