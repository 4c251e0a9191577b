"""What MLX cannot run is known from names and config.json, by mlx-lm's own tables."""

import pytest

from lmx_ledger.store import servable
from lmx_ledger.store.errors import NotServable

NAMES = ["config.json", "tokenizer.json", "model.safetensors"]


@pytest.fixture(scope="module")
def installed() -> servable.Architectures:
    found = servable.installed_architectures()
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe", "gemma3", "mistral", "kimi_k2"])
def test_what_mlx_lm_has_or_maps_is_accepted(installed: servable.Architectures, kind: str) -> None:
    assert servable.check_config("o/n", {"model_type": kind}, installed) == []


def test_the_tables_are_read_as_mlx_lm_has_them(installed: servable.Architectures) -> None:
    assert installed.renamed["mistral"] == "llama"
    assert all(module in installed.modules for module in installed.by_class.values())


@pytest.mark.parametrize("kind", ["bert", "hyper_llama", "../llama", "llama.py", "__init__.py"])
def test_what_it_has_not_is_refused(installed: servable.Architectures, kind: str) -> None:
    with pytest.raises(NotServable, match="cannot run"):
        servable.check_config("o/n", {"model_type": kind}, installed)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 5}, {"model_type": ""}])
def test_a_config_without_a_type_is_refused(installed: servable.Architectures, config: dict[str, object]) -> None:
    with pytest.raises(NotServable, match="names no model_type"):
        servable.check_config("o/n", config, installed)


def test_a_model_that_brings_its_own_code_is_refused(installed: servable.Architectures) -> None:
    with pytest.raises(NotServable, match="never run"):
        servable.check_config("o/n", {"model_type": "llama", "model_file": "mine.py"}, installed)


def test_without_mlx_lm_here_the_type_is_not_held_against_a_model() -> None:
    assert servable.check_config("o/n", {"model_type": "whatever"}, None) == []


def test_only_what_serving_reads_is_wanted() -> None:
    extra = ["README.md", "consolidated.safetensors", "original/config.json", "tokenizer.py", "x.gguf", ".hidden.model"]
    small = ["chat_template.jinja", "generation_config.json", "merges.txt", "tokenizer.model", "vocab.json"]
    wanted = servable.wanted("o/n", [*NAMES, *extra, *small], None)
    assert sorted(wanted) == sorted([*NAMES, *small])
    assert wanted[-1] == "model.safetensors"


def test_with_an_index_its_shards_alone_are_wanted() -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert "model.safetensors" not in servable.wanted("o/n", [*NAMES, *shards], shards)


def test_weights_where_mlx_lm_does_not_look_are_refused() -> None:
    with pytest.raises(NotServable, match="does not look"):
        servable.wanted("o/n", [*NAMES, "weights.00.safetensors"], ["weights.00.safetensors"])
