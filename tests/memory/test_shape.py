"""Sizes that are reckoned, against models and caches of mlx-lm itself."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, load_model, quantize_model

from lmx_ledger.engine.worker.meter import measure
from lmx_ledger.engine.worker.weights import read_weights
from lmx_ledger.memory.model_config import ShapeUnknown
from lmx_ledger.memory.shape import shape_of
from lmx_ledger.store.folder import read_json, tensors_of
from tests.engine.shapes import SHAPES, write_shape

OF_EXPERTS = ("num_experts", "decoder_", "mlp_only", "moe_", "norm_topk")
COMMON = {n: value for n, value in SHAPES["mixture of experts"].items() if not n.startswith(OF_EXPERTS)}
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "moe_intermediate_size": 48,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "attention_bias": False,
    "routed_scaling_factor": 1.0,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
FAMILIES: dict[str, dict[str, Any]] = {
    **SHAPES,
    "llama": {**COMMON, "model_type": "llama"},
    "llama with a window": {**COMMON, "model_type": "llama", "layer_types": ALTERNATING, "sliding_window": 512},
    "mistral": {**COMMON, "model_type": "mistral", "sliding_window": 32},
    "qwen2": {**COMMON, "model_type": "qwen2", "use_sliding_window": False, "sliding_window": 32},
    "qwen3": {**COMMON, "model_type": "qwen3"},
    "gemma": {**COMMON, "model_type": "gemma", "tie_word_embeddings": True},
    "mixtral": {**COMMON, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt-oss": {**COMMON, "model_type": "gpt_oss", "num_local_experts": 4, "sliding_window": 128},
    "cohere2": {**COMMON, "model_type": "cohere2", "sliding_window": 64, "sliding_window_pattern": 2},
    "phi3": {**COMMON, "model_type": "phi3", "sliding_window": 32},
    "deepseek v3": {**COMMON, **LATENT, "model_type": "deepseek_v3"},
    "deepseek v3.2": {
        **COMMON,
        **LATENT,
        "model_type": "deepseek_v32",
        "index_n_heads": 4,
        "index_head_dim": 16,
        "index_topk": 32,
    },
    "glm 4.7 flash": {**COMMON, **LATENT, "model_type": "glm4_moe_lite", "n_group": 1, "topk_group": 1},
}
RECKONED = ("gemma", "llama", "mistral", "mixtral", "mixture of experts", "phi3", "qwen2", "qwen3", "deepseek v3")


def model_of(config: dict[str, Any]) -> Any:
    model_class, arguments_class = _get_classes(config)
    return model_class(arguments_class.from_dict(json.loads(json.dumps(config))))


def shape_in(folder: Path) -> Any:
    return shape_of(read_json(folder / "config.json"), tensors_of(folder))


def in_the_worker(folder: Path) -> tuple[list[int], int]:
    """Bytes of each layer, and of what belongs to none, as the worker pages them."""
    _, _, weights = read_weights(folder, None)
    rest, *layers = weights.layers
    return layers, rest


def quantized(folder: Path, kind: str, bits: int) -> Path:
    model, config = load_model(write_shape(folder, kind))
    model, config = quantize_model(model, config, 32, bits)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    return folder


@pytest.mark.parametrize("kind", list(SHAPES))
def test_weights_are_those_that_the_worker_has_layer_by_layer(tmp_path: Path, kind: str) -> None:
    folder = write_shape(tmp_path / "model", kind)
    shape = shape_in(folder)
    assert (list(shape.layers), shape.rest_bytes) == in_the_worker(folder)
    assert shape.exact
    assert shape.context == 4096


@pytest.mark.parametrize("kind", ["mixture of experts", "sliding window"])
@pytest.mark.parametrize("bits", [4, 8])
def test_so_are_quantized_ones(tmp_path: Path, kind: str, bits: int) -> None:
    folder = quantized(tmp_path / "model", kind, bits)
    shape = shape_in(folder)
    assert (list(shape.layers), shape.rest_bytes) == in_the_worker(folder)
    # Activations, and so KV, are as wide as the scales.
    assert shape.kv_bytes(256) == shape_of({**FAMILIES[kind], "torch_dtype": "float32"}).kv_bytes(256)
    reckoned = shape_of(read_json(folder / "config.json"))
    assert reckoned.weights_bytes == pytest.approx(shape.weights_bytes, rel=0.005)


def test_a_sharded_folder_is_all_its_shards(random_model: Path) -> None:
    shape = shape_in(random_model)
    assert (list(shape.layers), shape.rest_bytes) == in_the_worker(random_model)


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_kv_is_what_a_loaded_model_tells(kind: str) -> None:
    _, told = measure(model_of(FAMILIES[kind]), 1.0)
    shape = shape_of({**FAMILIES[kind], "torch_dtype": "float32"}, total_bytes=10**6)
    for tokens in (1, 256, 257, 1_000, 100_000):
        assert shape.kv_bytes(tokens) == told.bytes(tokens)


@pytest.mark.parametrize("kind", ["llama", "mixture of experts", "gated delta", "hybrid", "deepseek v3"])
def test_kv_is_what_caches_hold_behind_a_prompt(kind: str) -> None:
    model = model_of(FAMILIES[kind])
    shape = shape_of({**FAMILIES[kind], "torch_dtype": "float32"}, total_bytes=10**6)
    for tokens in (7, 300):
        cache = make_prompt_cache(model)
        model(mx.zeros((1, tokens), mx.int32), cache=cache)
        mx.eval([part.state for part in cache])
        assert shape.kv_bytes(tokens) == sum(part.nbytes for part in cache)


def test_of_a_window_no_more_is_kept_than_it_is_wide() -> None:
    model = model_of(FAMILIES["llama with a window"])
    shape = shape_of({**FAMILIES["llama with a window"], "torch_dtype": "float32"}, total_bytes=10**6)
    cache = make_prompt_cache(model)
    for length in (1_024, 1):
        model(mx.zeros((1, length), mx.int32), cache=cache)
        mx.eval([part.state for part in cache])
    assert shape.kv_bytes(1_025) == sum(part.nbytes for part in cache)


@pytest.mark.parametrize("kind", RECKONED)
def test_without_files_weights_are_reckoned_from_the_config(kind: str) -> None:
    held = dict(tree_flatten(model_of(FAMILIES[kind]).parameters()))
    shape = shape_of({**FAMILIES[kind], "torch_dtype": "float32"})
    total = sum(value.nbytes for value in held.values())
    assert shape.weights_bytes == pytest.approx(total, rel=0.001)
    for number, size in enumerate(shape.layers):
        layer = [value.nbytes for name, value in held.items() if f"layers.{number}." in name]
        assert size == pytest.approx(sum(layer), rel=0.005)
    assert not shape.exact


@pytest.mark.parametrize("kind", ["llama", "sliding window", "hybrid", "gated delta", "mixture of experts"])
@pytest.mark.parametrize(("chunk", "tokens"), [(256, 1_024), (64, 1_024)])
def test_reading_takes_about_what_is_foretold(kind: str, chunk: int, tokens: int) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "head_dim": 32}
    config = {**FAMILIES[kind], **wide, "block_dim": 256, "block_ff_dim": 704}
    if kind != "hybrid":
        config = {name: value for name, value in config.items() if not name.startswith("block_")}
    model = model_of(config)
    mx.eval(model.parameters())
    shape = shape_of({**config, "torch_dtype": "float32"}, total_bytes=10**6)
    cache = make_prompt_cache(model)
    most = 0
    for end in range(chunk, tokens + 1, chunk):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        model(mx.zeros((1, chunk), mx.int32), cache=cache)
        mx.eval([part.state for part in cache])
        if end > chunk:
            most = max(most, mx.get_peak_memory() - before)
    # On the CPU nothing is fused; that caches grow is KV's account.
    foretold = shape.working_bytes(chunk, tokens, frozenset())
    assert foretold / 1.6 < most < 1.6 * (foretold + shape.kv_bytes(tokens))


def test_fused_attention_keeps_no_scores() -> None:
    config = {**FAMILIES["llama"], "head_dim": 128}
    shape = shape_of(config)
    assert shape.working_bytes(512, 65_536) == shape.working_bytes(512, 512)
    assert shape.working_bytes(512, 65_536, frozenset()) > 4 * 512 * 65_536 * 4
    odd = shape_of({**config, "head_dim": 96})
    assert odd.working_bytes(512, 65_536) > 4 * 512 * 65_536 * 4


@pytest.mark.parametrize("total", [1, 999_983, 10**12])
def test_what_the_files_hold_is_shared_out_to_the_last_byte(total: int) -> None:
    for config in (FAMILIES["llama"], {"num_hidden_layers": 7, "hidden_size": 64, "num_attention_heads": 4}):
        shape = shape_of(config, total_bytes=total)
        assert shape.weights_bytes == total
        assert len(shape.layers) == config["num_hidden_layers"]
        assert min(shape.layers) >= 0


def test_where_the_config_says_too_little_layers_are_taken_for_equal() -> None:
    config = {"model_type": "new", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
    assert shape_of(config, total_bytes=400).layers == (100,) * 4
    with pytest.raises(ShapeUnknown, match="has no block_ff_dim"):
        shape_of(config)


def test_a_model_that_sees_is_sized_by_what_is_loaded_of_it(tmp_path: Path) -> None:
    folder = write_shape(tmp_path / "model", "sliding window")
    text = read_json(folder / "config.json")
    held = mx.load(str(folder / "model.safetensors"))
    assert isinstance(held, dict)
    shape = shape_in(folder)
    more = {"vision_tower.patch.weight": mx.zeros((64, 64)), "model.layers.4.eh_proj.weight": mx.zeros((64, 64))}
    renamed = {f"language_model.{name}": value for name, value in held.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), {**renamed, **more})
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert shape_in(folder) == shape


def test_numbers_are_as_wide_as_the_config_says_or_two_bytes() -> None:
    wide = shape_of({**FAMILIES["llama"], "torch_dtype": "float32"})
    half = shape_of(FAMILIES["llama"])
    assert wide.kv_bytes(256) == 2 * half.kv_bytes(256)
    assert wide.weights_bytes == 2 * half.weights_bytes


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"num_hidden_layers": None}, "has no num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "layers are none that a model has"),
        ({"num_hidden_layers": 0}, "layers are none that a model has"),
        ({"num_hidden_layers": "four"}, "num_hidden_layers is 'four'"),
        ({"hidden_size": -64}, "hidden_size is '-64'"),
        ({"num_attention_heads": 10**30}, "which is no size"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"model_type": "mamba2"}, "keeps a state"),
        ({"quantization": {"bits": "four"}}, "quantization to four bits"),
        ({"mamba_d_state": 64}, r"keeps a state \(mamba_d_state\)"),
        ({"model_type": "gpt_oss"}, "has no sliding_window"),
    ],
)
def test_what_cannot_be_told_is_said(changes: dict[str, Any], because: str) -> None:
    with pytest.raises(ShapeUnknown, match=because):
        shape_of({**FAMILIES["llama"], **changes})
