"""`lmx fit` as a person runs it: folders, the store, a daemon's models, and a hub of which little is fetched."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.parts import document, lmx, nowhere
from tests.cli.test_models import on_a_terminal
from tests.conftest import RunningDaemon
from tests.hub import Files, Hub, running_hub, sharded_model
from tests.models import write_test_model

REPO = "tiny-org/Tiny-Llama"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return sharded_model(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def hub(tiny: Files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.publish(REPO, tiny)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def limited(home: Path, limit: int, more: str = "") -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(f"[memory]\nlimit = {limit}\n{more}")


def arguments(*more: str) -> tuple[str, ...]:
    return ("fit", *more, "--url", nowhere())


def weights_of(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_a_folder_is_sized_by_its_own_files(home: Path, tmp_path: Path) -> None:
    folder = write_test_model(tmp_path / "mine")
    answer = document(lmx(*arguments(str(folder), "--json"), home=home))
    assert (answer["model"], answer["verdict"], answer["page_out"]) == ("mine", "fits", [])
    assert 0 < weights_of(folder) - answer["weights_bytes"] < 10_000
    assert answer["layers_exact"]
    parts = answer["weights_bytes"] + answer["kv_bytes"] + answer["working_bytes"]
    assert answer["need_bytes"] == parts
    assert parts + answer["spare_bytes"] + answer["reserve_bytes"] == answer["limit_bytes"]
    config = json.loads((folder / "config.json").read_text())
    assert answer["context_tokens"] == answer["longest_context_tokens"] == config["max_position_embeddings"]


def test_a_stored_model_is_named_as_it_is_listed(home: Path) -> None:
    write_test_model(home / "models" / "org" / "stored")
    for name in ("org/stored", "stored"):
        assert document(lmx(*arguments(name, "--json"), home=home))["model"] == "org/stored"


def test_the_context_is_written_as_people_write_it(home: Path) -> None:
    by_k = document(lmx(*arguments("lmx-demo", "--context", "4k", "--json"), home=home))
    by_number = document(lmx(*arguments("lmx-demo", "--context", "4096", "--json"), home=home))
    assert by_k == by_number
    assert by_k["context_tokens"] == 4096
    wrong = lmx(*arguments("lmx-demo", "--context", "much"), home=home)
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_without_one_it_is_what_the_model_can_take_and_the_configuration_allows(home: Path) -> None:
    limited(home, 10**10, "[context]\nmax_tokens = 2048\n")
    answer = document(lmx(*arguments("lmx-demo", "--json"), home=home))
    assert answer["context_tokens"] == 2048
    more = lmx(*arguments("lmx-demo", "--context", "16k", "--json"), home=home)
    assert "made for 8,192 tokens" in more.stderr
    assert document(more)["context_tokens"] == 16_384


def test_what_would_be_paged_out_is_said(home: Path, tmp_path: Path) -> None:
    old, new = write_test_model(tmp_path / "old"), write_test_model(tmp_path / "new")
    alone = document(lmx(*arguments(str(new), "--context", "256", "--json"), home=home))
    limited(home, alone["need_bytes"] + alone["weights_bytes"] // 2, f'[[models]]\nid = "older"\npath = "{old}"\n')
    done = lmx(*arguments(str(new), "--beside", "older", "--context", "256", "--json"), home=home)
    answer = document(done)
    assert (done.returncode, answer["verdict"]) == (0, "pages")
    (gone,) = answer["page_out"]
    assert gone["model"] == "older"
    assert gone["bytes"] >= alone["weights_bytes"] - alone["weights_bytes"] // 2
    assert answer["beside"] == [{"model": "older", "weights_bytes": alone["weights_bytes"]}]
    said = lmx(*arguments(str(new), "--beside", "older", "--context", "256"), home=home)
    assert "fits once " in said.stdout
    assert " of older (" in said.stdout


def test_one_that_is_short_says_by_how_much_and_how_long_a_context_would_fit(home: Path) -> None:
    whole = document(lmx(*arguments("lmx-demo", "--json"), home=home))
    limited(home, whole["weights_bytes"] + whole["kv_bytes"] // 2)
    done = lmx(*arguments("lmx-demo", "--json"), home=home)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["verdict"]) == (1, "short")
    assert answer["short_by_bytes"] > 0
    (line,) = done.stderr.splitlines()
    assert "short by" in line
    assert f"the longest context that fits is {answer['longest_context_tokens']:,} tokens" in line
    context = str(answer["longest_context_tokens"])
    assert lmx(*arguments("lmx-demo", "--context", context), home=home).returncode == 0
    limited(home, whole["weights_bytes"] // 2)
    none = lmx(*arguments("lmx-demo"), home=home)
    assert none.returncode == 1
    assert "no context fits" in none.stderr


class TestOnTheHub:
    def test_nothing_but_the_description_is_fetched(self, hub: Hub, home: Path, tiny: Files) -> None:
        answer = document(lmx(*arguments(REPO, "--json"), home=home))
        fetched = {path.rpartition("/")[2] for path, _ in hub.asked if "/resolve/" in path or "/cdn/" in path}
        assert fetched == {"config.json", INDEX}
        assert answer["weights_bytes"] == sum(len(data) for name, data in tiny.items() if name.endswith(".safetensors"))
        assert (answer["model"], answer["verdict"], answer["layers_exact"]) == (REPO, "fits", False)
        assert not (home / "models").exists()

    def test_a_model_in_one_file_is_as_large_as_that(self, hub: Hub, home: Path, tmp_path: Path) -> None:
        folder = write_test_model(tmp_path / "whole")
        hub.publish("tiny-org/whole", {file.name: file.read_bytes() for file in folder.iterdir()})
        answer = document(lmx(*arguments("tiny-org/whole", "--json"), home=home))
        assert answer["weights_bytes"] == weights_of(folder)

    def test_the_size_that_an_index_tells_counts(self, hub: Hub, home: Path, tiny: Files) -> None:
        index = json.loads(tiny[INDEX]) | {"metadata": {"total_size": 123_456}}
        hub.publish(REPO, {**tiny, INDEX: json.dumps(index).encode()})
        assert document(lmx(*arguments(REPO, "--json"), home=home))["weights_bytes"] == 123_456

    @pytest.mark.parametrize(
        ("repo", "because"),
        [
            ("tiny-org/nothing", "check how it is written"),
            ("tiny-org/gguf", "only GGUF"),
            ("tiny-org/broken", "config.json cannot be read"),
            ("tiny-org/bare", "names no model_type"),
            ("tiny-org/strange", "cannot be sized: config.json of a llama model has no num_hidden_layers"),
            ("nothing", "there is no model nothing"),
            ("../../etc/passwd", "is neither a model folder nor an id"),
        ],
    )
    def test_what_cannot_be_sized_is_one_line(self, hub: Hub, home: Path, tiny: Files, repo: str, because: str) -> None:
        hub.publish("tiny-org/gguf", {"model.gguf": b"GGUF"})
        hub.publish("tiny-org/broken", {**tiny, "config.json": b"{"})
        hub.publish("tiny-org/bare", {**tiny, "config.json": b"{}"})
        hub.publish("tiny-org/strange", {**tiny, "config.json": b'{"model_type": "llama"}'})
        done = lmx(*arguments(repo), home=home)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert because in line

    def test_one_that_cannot_be_reached_is_one_line(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", nowhere())
        done = lmx(*arguments(REPO), home=home)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert "cannot be reached" in line


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"model_type": "mamba2", "num_hidden_layers": 2}'])
def test_a_config_that_says_nothing_is_one_line(home: Path, tmp_path: Path, damage: bytes) -> None:
    folder = write_test_model(tmp_path / "mine")
    (folder / "config.json").write_bytes(damage)
    done = lmx(*arguments(str(folder)), home=home)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_it_is_a_table_on_a_narrow_terminal(home: Path) -> None:
    name = "an-organisation/a-model-with-a-rather-long-name-that-somebody-gave-it-4bit-DWQ-2507"
    write_test_model(home / "models" / name)
    alone = document(lmx(*arguments(name, "--context", "256", "--json"), home=home))
    for spare in (10**9, alone["weights_bytes"] // 2, -alone["weights_bytes"] // 2):
        limited(home, alone["need_bytes"] + spare)
        shown = on_a_terminal([*arguments("lmx-demo", "--beside", name, "--context", "256")], home, columns=80)
        assert "working memory" in shown
        assert "limit" in shown
        assert max(len(line) for line in shown.splitlines()) <= 80
        assert "DWQ-2507" in "".join(shown.split())


def test_models_and_the_limit_of_a_running_daemon_are_known(
    start_daemon: Callable[[str], RunningDaemon], random_model: Path, home: Path
) -> None:
    limit = 3 * 10**9
    running = start_daemon(
        f'[memory]\nlimit = {limit}\n[engine]\nblas = "builtin"\n[[models]]\nid = "served"\npath = "{random_model}"\n'
    )
    answer = document(lmx("fit", "lmx-demo", "--beside", "served", "--json", "--url", running.url, home=home))
    assert answer["limit_bytes"] == limit
    (served,) = running.get("/lmx/models")["models"]
    assert answer["beside"] == [{"model": "served", "weights_bytes": served["weights_bytes"]}]
    unknown = lmx("fit", "nothing", "--url", running.url, home=home)
    assert "served (served, lmx-demo)" in unknown.stderr
