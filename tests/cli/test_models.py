"""`lmx models` as a person runs it: list, pull and rm, with a hub and a daemon that are real."""

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmx_ledger.cli.main import lmx as program
from lmx_ledger.store.shelf import list_models
from tests.cli.parts import command, document, environment, lmx, nowhere
from tests.conftest import RunningDaemon
from tests.hub import Files, Hub, running_hub, served_names, sharded_model
from tests.models import write_test_model

REPO = "tiny-org/Tiny-Llama"
SHARD = "model-00002-of-00003.safetensors"


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


def assert_pulled(home: Path, files: Files) -> None:
    folder = home / "models" / REPO
    assert {f.name for f in folder.iterdir()} == served_names(files) | {"lmx.json"}
    assert all((folder / name).read_bytes() == files[name] for name in served_names(files))
    assert [(model.id, model.problem) for model in list_models(home)] == [(REPO, None)]


def pulling(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("models", "pull", REPO, *arguments),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


class TestList:
    def test_without_a_daemon_shows_the_store(self, home: Path) -> None:
        write_test_model(home / "models" / "mine")
        (model,) = document(lmx("models", "list", "--json", "--url", nowhere(), home=home))["models"]
        assert (model["id"], model["state"], model["problem"]) == ("mine", "stored", None)
        assert model["path"] == str(home / "models" / "mine")
        assert model["bytes"] > 0
        assert model["revision"] is model["pulled_at"] is None
        piped = lmx("models", "list", "--url", nowhere(), home=home)
        assert piped.stdout.split("\t")[::2][:2] == ["mine", "stored"]

    def test_of_nothing_at_all_says_what_to_run(self, home: Path) -> None:
        done = lmx("models", "list", "--url", nowhere(), home=home)
        assert done.returncode == 3
        assert "lmx models pull" in done.stderr
        assert "lmx serve start" in done.stderr

    def test_takes_the_home_that_is_named(self, home: Path, tmp_path: Path) -> None:
        write_test_model(tmp_path / "other" / "models" / "mine")
        arguments = ("models", "list", "--json", "--url", nowhere(), "--home", str(tmp_path / "other"))
        assert [model["id"] for model in document(lmx(*arguments, home=home))["models"]] == ["mine"]

    def test_is_a_table_on_a_narrow_terminal(self, home: Path) -> None:
        write_test_model(home / "models" / "an-organisation" / "a-model-with-a-rather-long-name-4bit")
        shown = on_a_terminal(["models", "list", "--url", nowhere()], home, columns=60)
        assert "stored" in shown
        assert max(len(line) for line in shown.splitlines()) <= 60
        assert "4bit" in "".join(shown.split())


class TestPull:
    def test_brings_the_model_and_says_how_to_serve_it(self, hub: Hub, home: Path, tiny: Files) -> None:
        done = lmx("models", "pull", REPO, home=home)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"lmx serve start --model {REPO}" in done.stdout
        assert_pulled(home, tiny)
        again = lmx("models", "pull", REPO, home=home)
        assert "is here already" in again.stdout

    def test_as_json_is_one_document(self, hub: Hub, home: Path) -> None:
        answer = document(lmx("models", "pull", REPO, "--json", home=home))
        assert answer["id"] == REPO
        assert answer["path"] == str(home / "models" / REPO)
        assert answer["revision"] == hub.commit(REPO)
        assert answer["bytes"] == answer["fetched_bytes"]
        assert answer["resumed_bytes"] == 0
        (model,) = document(lmx("models", "list", "--json", "--url", nowhere(), home=home))["models"]
        assert (model["revision"], model["bytes"]) == (answer["revision"], answer["bytes"])

    @pytest.mark.parametrize(
        ("repo", "status", "because"),
        [
            ("tiny-org/nothing", 1, "check how it is written"),
            ("tiny-org/gguf", 1, "only GGUF"),
            ("../../etc/passwd", 2, "is no model id"),
            ("tiny-org/\x1b[2J", 2, "is no model id"),
        ],
    )
    def test_what_cannot_be_pulled_is_one_line(
        self, hub: Hub, home: Path, repo: str, status: int, because: str
    ) -> None:
        hub.publish("tiny-org/gguf", {"model.gguf": b"GGUF"})
        done = lmx("models", "pull", repo, home=home)
        assert (done.returncode, done.stdout) == (status, "")
        assert because in done.stderr
        assert "\x1b" not in done.stderr
        assert status == 2 or len(done.stderr.splitlines()) == 1
        assert list_models(home) == []

    @pytest.mark.parametrize(("name", "offset"), [("config.json", 10), ("tokenizer.json", 0), (SHARD, 5000)])
    def test_killed_at_any_moment_it_goes_on_where_it_was(
        self, hub: Hub, home: Path, tiny: Files, name: str, offset: int
    ) -> None:
        pause = hub.pause(name, offset)
        process = pulling(home)
        pause.wait()
        process.kill()
        process.communicate()
        pause.go_on.set()
        assert list_models(home) == []
        answer = document(lmx("models", "pull", REPO, "--json", home=home))
        assert_pulled(home, tiny)
        assert answer["resumed_bytes"] + answer["fetched_bytes"] == answer["bytes"]
        # How much of the piece that was on its way arrived before the kill is the network's affair.
        assert name == "config.json" or answer["resumed_bytes"] > 0

    def test_stopped_with_ctrl_c_it_says_how_to_go_on(self, hub: Hub, home: Path, tiny: Files) -> None:
        pause = hub.pause(SHARD, 5000)
        process = pulling(home)
        pause.wait()
        process.send_signal(signal.SIGINT)
        out, complaints = process.communicate()
        pause.go_on.set()
        assert process.returncode == 1
        assert (out, complaints) == (b"", b"lmx: stopped; run it again to go on\n")
        assert document(lmx("models", "pull", REPO, "--json", home=home))["resumed_bytes"] > 5000
        assert_pulled(home, tiny)

    def test_twice_at_once_the_second_says_so(self, hub: Hub, home: Path, tiny: Files) -> None:
        pause = hub.pause(SHARD, 5000)
        first = pulling(home)
        pause.wait()
        second = lmx("models", "pull", REPO, home=home)
        assert second.returncode == 1
        assert "being pulled or removed by another lmx" in second.stderr
        assert lmx("models", "rm", REPO, "--yes", "--url", nowhere(), home=home).returncode == 1
        pause.go_on.set()
        first.communicate()
        assert first.returncode == 0
        assert_pulled(home, tiny)

    def test_of_a_newer_revision_replaces_the_one_before(self, hub: Hub, home: Path, tiny: Files) -> None:
        first = document(lmx("models", "pull", REPO, "--json", home=home))
        newer = {**tiny, "tokenizer_config.json": b"{}"}
        hub.publish(REPO, newer)
        second = document(lmx("models", "pull", REPO, "--json", "--url", nowhere(), home=home))
        assert second["replaced_revision"] == first["revision"] != second["revision"]
        assert second["resumed_bytes"] > second["fetched_bytes"]
        assert_pulled(home, newer)

    def test_shows_a_bar_on_a_terminal_and_takes_it_away(self, hub: Hub, home: Path, tiny: Files) -> None:
        shown = on_a_terminal(["models", "pull", REPO], home, columns=60)
        assert "fetching" in shown or "checking" in shown
        assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown
        assert "Pulled" in shown
        assert_pulled(home, tiny)


class TestRm:
    def test_deletes_by_the_last_part_of_the_name(self, hub: Hub, home: Path) -> None:
        assert lmx("models", "pull", REPO, home=home).returncode == 0
        answer = document(lmx("models", "rm", "tiny-llama", "--json", "--url", nowhere(), home=home))
        assert answer["id"] == REPO
        assert answer["freed_bytes"] > 0
        assert list_models(home) == []

    def test_of_what_is_not_there_is_one_line(self, home: Path) -> None:
        done = lmx("models", "rm", "nothing", "--yes", "--url", nowhere(), home=home)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "there is no model nothing" in line

    def test_of_a_path_is_wrong_usage(self, home: Path) -> None:
        write_test_model(home / "models" / "mine")
        for name in ("..", "../x", "/etc", "a/../..", ".partial", "a\\b", ""):
            arguments = ["models", "rm", name, "--yes", "--url", nowhere(), "--home", str(home)]
            assert CliRunner().invoke(program, arguments).exit_code == 2, name
        assert len(list_models(home)) == 1

    def test_asks_on_a_terminal(self, home: Path) -> None:
        write_test_model(home / "models" / "mine")
        shown = on_a_terminal(["models", "rm", "mine", "--url", nowhere()], home, typed=b"n\n")
        assert "Delete mine" in shown
        assert len(list_models(home)) == 1
        on_a_terminal(["models", "rm", "mine", "--url", nowhere()], home, typed=b"y\n")
        assert list_models(home) == []


class TestBesideADaemon:
    def test_what_is_served_is_listed_with_what_the_store_knows_and_is_not_deleted(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        folder = write_test_model(home / "models" / "org" / "served")
        write_test_model(home / "models" / "org" / "spare")
        running = RunningDaemon(
            home, f'[engine]\nblas = "builtin"\n[[models]]\nid = "mine"\npath = "{folder}"\naliases = ["gpt-*"]\n'
        ).wait_ready()
        try:
            models = document(lmx("models", "list", "--json", "--url", running.url, home=home))["models"]
            by_id = {model["id"]: model for model in models}
            served, known = by_id["mine"], running.get("/lmx/models")["models"][0]
            assert {name: served[name] for name in known if name != "last_used"} == {
                name: value for name, value in known.items() if name != "last_used"
            }
            assert served["bytes"] > served["weights_bytes"] > 0
            assert by_id["org/spare"]["state"] == "stored"
            assert "org/served" not in by_id
            # Without --url: it is found by the run file of its home.
            refused = lmx("models", "rm", "org/served", "--yes", home=home)
            assert refused.returncode == 1
            assert f"is served at {running.url}" in refused.stderr
            assert folder.exists()
            assert lmx("models", "rm", "org/spare", "--yes", home=home).returncode == 0
        finally:
            running.stop()
        assert lmx("models", "rm", "org/served", "--yes", "--url", nowhere(), home=home).returncode == 0
        assert not folder.exists()


def on_a_terminal(arguments: list[str], home: Path, *, columns: int = 80, typed: bytes = b"") -> str:
    """What a person sees, without the colours."""
    ours, theirs = pty.openpty()
    env = {**environment(home), "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}
    process = subprocess.Popen(command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    os.write(ours, typed)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            # How Linux says that the other end is closed.
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    process.wait()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "Traceback" not in text, text
    return text


def test_json_of_a_list_is_one_document_on_a_terminal_too(home: Path) -> None:
    write_test_model(home / "models" / "mine")
    shown = on_a_terminal(["models", "list", "--json", "--url", nowhere()], home)
    assert json.loads(shown)["models"][0]["id"] == "mine"
