"""A model's folder is read whole, or refused with the file that is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from lmx_ledger.engine.protocol import Sampling
from lmx_ledger.serving.request import GenerationRequest, Texts
from lmx_ledger.serving.text import TextModel
from lmx_ledger.store.folder import ModelFolderError


@pytest.fixture
def folder(random_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_model, tmp_path / "model"))


def test_a_good_folder_tells_context_weights_and_end_tokens(random_model: Path) -> None:
    text = TextModel(random_model)
    assert text.context == 8192
    assert text.eos == [text.tokenizer.token_to_id("<|im_end|>")]
    assert 0 < text.weights_bytes < (random_model / "model.safetensors").stat().st_size


def test_control_tokens_are_silent_and_markers_are_not(random_model: Path) -> None:
    text = TextModel(random_model)
    silent = text.silent_ids(("<think>", "</think>"))
    assert text.tokenizer.token_to_id("<|im_start|>") in silent
    assert text.tokenizer.token_to_id("<think>") not in silent


def test_a_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFolderError, match=r"lacks 1 of 2 shards: model-00002-of-00002.safetensors"):
        TextModel(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 50_000])
def test_a_shard_that_is_cut_short_is_named(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelFolderError, match=r"model.safetensors is cut short"):
        TextModel(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFolderError, match=name.replace("model.safetensors", "no model")):
        TextModel(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b""])
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=name):
        TextModel(folder)


def test_no_folder_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="is no folder"):
        TextModel(tmp_path / "nowhere")


def test_a_named_list_of_templates_gives_the_default_one(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    template = TextModel(folder).template
    assert template is not None
    assert template.source == "d"


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        ({}, {}),
        (
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True},
            {"temperature": 0.6, "top_p": 0.95, "top_k": 20},
        ),
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        (
            {"temperature": "hot", "top_p": 0, "top_k": -1, "min_p": 2, "repetition_penalty": 1.1},
            {"repetition_penalty": 1.1},
        ),
        ({"temperature": True, "top_k": 5.0}, {"top_k": 5}),
    ],
)
def test_what_a_model_recommends_for_sampling_is_read_from_its_generation_config(
    random_model: Path, tmp_path: Path, generation: dict[str, object], defaults: dict[str, float]
) -> None:
    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(generation))
    assert TextModel(folder).sampling == defaults


def test_a_clients_own_sampling_goes_before_the_models() -> None:
    asked = GenerationRequest(
        id="req_1",
        route="/",
        model=None,
        prompt=Texts(["x"]),
        sampling=Sampling(temperature=0.2, seed=7),
        left_open=frozenset({"top_p", "top_k"}),
    )
    filled = asked.filled({"temperature": 0.6, "top_p": 0.9}).sampling
    assert filled == Sampling(temperature=0.2, top_p=0.9, seed=7)
    assert asked.filled({}) is asked
