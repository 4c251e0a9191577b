"""The shelf shows whole models, by names that lead nowhere else, and deletes them in one step."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmx_ledger.store import shelf
from lmx_ledger.store.errors import BadModelId, Busy, StoreError, UnknownModel
from lmx_ledger.store.staging import Staging


def put(home: Path, name: str, *names: str, size: int = 10) -> Path:
    """A folder that a user copied there."""
    folder = home / "models" / name
    folder.mkdir(parents=True)
    for name in names or ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes(bytes(size))
    return folder


def ids(home: Path) -> list[str]:
    return [model.id for model in shelf.list_models(home)]


class TestWhatIsListed:
    def test_nothing_where_there_is_nothing(self, home: Path) -> None:
        assert shelf.list_models(home) == []
        assert not home.exists()

    def test_folders_with_a_config_one_or_two_deep(self, home: Path) -> None:
        put(home, "foo")
        put(home, "Org/Bar")
        put(home, "Org/empty", "README.md")
        put(home, "a/b/c")
        (home / "models" / "notes.txt").write_text("mine")
        assert ids(home) == ["foo", "Org/Bar"]
        assert [model.bytes for model in shelf.list_models(home)] == [30, 30]

    def test_never_what_is_hidden_or_half_pulled(self, home: Path) -> None:
        put(home, ".partial/org%2Fname/0123")
        put(home, ".git")
        put(home, "org/.cache")
        assert ids(home) == []

    def test_a_link_to_a_folder_elsewhere(self, home: Path, tmp_path: Path) -> None:
        elsewhere = put(tmp_path, "real")
        (home / "models").mkdir(parents=True)
        (home / "models" / "linked").symlink_to(elsewhere)
        assert ids(home) == ["linked"]

    @pytest.mark.parametrize("lacking", ["tokenizer.json", "model.safetensors"])
    def test_what_cannot_be_served_says_why(self, home: Path, lacking: str) -> None:
        (put(home, "foo") / lacking).unlink()
        (model,) = shelf.list_models(home)
        assert model.problem
        assert lacking.removeprefix("model") in model.problem

    @pytest.mark.parametrize("note", ["", "{}", "[]", '{"files": 3}', '{"files": [{"name": "x"}]}', "[" * 100_000])
    def test_a_damaged_note_makes_it_a_folder_like_any_other(self, home: Path, note: str) -> None:
        (put(home, "org/foo") / "lmx.json").write_text(note)
        (model,) = shelf.list_models(home)
        assert (model.id, model.revision, model.bytes) == ("org/foo", None, 30)

    def test_a_home_that_is_no_folder_is_said_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("a file")
        with pytest.raises(StoreError, match="cannot be read"):
            shelf.list_models(tmp_path)

    def test_names_that_could_fool_a_terminal_are_left_out(self, home: Path) -> None:
        put(home, "evil\x1b[2J")
        put(home, "evil\u202e")
        assert ids(home) == []


class TestFinding:
    def test_by_id_by_any_case_and_by_the_last_part_when_it_is_one(self, home: Path) -> None:
        for name in ("mlx-community/Qwen3-4B", "other/Qwen3-8B", "third/qwen3-8b", "plain"):
            put(home, name)

        def found(name: str) -> str | None:
            model = shelf.find(home, name)
            return model.id if model else None

        assert found("mlx-community/Qwen3-4B") == found("qwen3-4b") == found("MLX-community/qwen3-4B")
        assert found("qwen3-4b") == "mlx-community/Qwen3-4B"
        assert found("PLAIN") == "plain"
        assert found("qwen3-8b") is None
        assert found("third/qwen3-8b") == "third/qwen3-8b"
        assert found("nothing") is None

    def test_an_exact_id_wins_over_a_last_part(self, home: Path) -> None:
        put(home, "qwen")
        put(home, "org/qwen")
        model = shelf.find(home, "qwen")
        assert model is not None
        assert model.id == "qwen"

    def test_what_may_be_several_is_asked_back(self, home: Path) -> None:
        put(home, "a/x")
        put(home, "b/x")
        with pytest.raises(UnknownModel, match="a/x or b/x"):
            shelf.remove(home, "x")
        assert ids(home) == ["a/x", "b/x"]


class TestIds:
    @pytest.mark.parametrize(
        "text",
        [
            *("", "/", "a/", "/a", "a//b", "a/b/c", "/etc/passwd", "a\\b", "C:\\x"),
            *("..", "../a", "a/..", ".", "a/.", "~/../x/y", ".partial", "a/.b"),
            *("a\0b", "a\nb", "a\x1b[2J", "\u202ea", "x" * 121),
        ],
    )
    def test_that_could_lead_elsewhere_are_refused_by_everything(self, home: Path, text: str) -> None:
        put(home, "safe")
        for act in (shelf.find, shelf.remove, shelf.named):
            with pytest.raises(BadModelId) as caught:
                act(home, text)
            assert str(caught.value).isprintable()
        assert ids(home) == ["safe"]

    @given(text=st.text(max_size=30))
    @example("a/../b")
    def test_that_are_accepted_name_a_place_below_the_models(self, text: str) -> None:
        try:
            shelf.check_id(text)
        except BadModelId:
            return
        models = "/home/models"
        place = os.path.normpath(os.path.join(models, text))  # noqa: PTH118 - what the system makes of it
        assert place == f"{models}/{text}"
        assert not text.startswith(".")


class TestRemoving:
    def test_deletes_the_folder_and_an_empty_organisation(self, home: Path) -> None:
        put(home, "org/foo")
        put(home, "org/bar")
        assert shelf.remove(home, "org/foo") == 30
        assert ids(home) == ["org/bar"]
        shelf.remove(home, "BAR")
        assert [file.name for file in (home / "models").iterdir()] == [".partial"]

    def test_deletes_a_link_and_not_what_it_points_to(self, home: Path, tmp_path: Path) -> None:
        elsewhere = put(tmp_path, "real")
        (home / "models").mkdir(parents=True)
        (home / "models" / "linked").symlink_to(elsewhere)
        shelf.remove(home, "linked")
        assert ids(home) == []
        assert (elsewhere / "config.json").exists()

    def test_deletes_what_an_unfinished_pull_left(self, home: Path) -> None:
        parts = Staging(home / "models", "org/half").parts
        parts.mkdir(parents=True)
        (parts / "0123").write_bytes(bytes(500))
        assert shelf.remove(home, "org/half") == 500
        assert list((home / "models" / ".partial").iterdir()) == []

    def test_knows_what_it_does_not_have(self, home: Path) -> None:
        with pytest.raises(UnknownModel, match="nothing is stored"):
            shelf.remove(home, "foo")
        put(home, "bar")
        with pytest.raises(UnknownModel, match="there are: bar"):
            shelf.remove(home, "foo")

    def test_waits_for_nobody_who_is_pulling(self, home: Path) -> None:
        put(home, "org/foo")
        with Staging(home / "models", "org/foo").held(), pytest.raises(Busy):
            shelf.remove(home, "org/foo")
        assert ids(home) == ["org/foo"]

    def test_that_was_broken_off_is_finished_by_the_next_look(self, home: Path) -> None:
        folder = put(home, "org/foo")
        place = Staging(home / "models", "org/foo")
        place.folder.mkdir(parents=True)
        folder.rename(place.folder / "removed")
        assert ids(home) == []
        assert not place.folder.exists()

    def test_is_left_alone_by_a_look_while_somebody_works_on_it(self, home: Path) -> None:
        folder = put(home, "org/foo")
        place = Staging(home / "models", "org/foo")
        with place.held():
            place.folder.mkdir(parents=True)
            folder.rename(place.folder / "replaced")
            assert ids(home) == []
            assert (place.folder / "replaced" / "config.json").exists()
        assert ids(home) == ["org/foo"]


def test_a_look_costs_no_read_of_any_weights(home: Path) -> None:
    folder = put(home, "foo")
    (folder / "model.safetensors").unlink()
    # A named pipe: whoever opened it would wait for ever.
    os.mkfifo(folder / "model-00001-of-00001.safetensors")
    assert ids(home) == ["foo"]
    shutil.rmtree(folder)


def test_the_commands_and_the_shelf_start_without_the_hubs_library() -> None:
    code = (
        "import sys, lmx_ledger.cli.main, lmx_ledger.store.shelf;"
        "sys.exit(bool({'huggingface_hub', 'httpx', 'httpx2', 'pydantic', 'rich.progress'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_folder_that_cannot_be_read_hides_no_other(home: Path) -> None:
    put(home, "org/foo")
    (home / "models" / "loop").symlink_to("loop")
    (home / "models" / "gone").symlink_to("nowhere")
    assert ids(home) == ["org/foo"]
