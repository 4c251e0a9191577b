"""A pull ends in the files that the hub has, byte for byte, whatever happens on the way; or says what to do."""

import json
import multiprocessing
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmx_ledger.serving.text import TextModel
from lmx_ledger.store.assembly import space_needed
from lmx_ledger.store.errors import (
    BadModelId,
    Busy,
    DamagedDownload,
    HubUnavailable,
    NoAccess,
    NoSpace,
    NotServable,
    RepoUnknown,
    StoreError,
)
from lmx_ledger.store.pull import Pulled, pull
from lmx_ledger.store.shelf import list_models
from lmx_ledger.store.staging import Staging
from tests.hub import Files, Hub, running_hub, served_names, sha256
from tests.store.conftest import REPO

NEVER_AGAIN = ()
AT_ONCE = (0.0, 0.0)
SHARD = "model-00002-of-00003.safetensors"


def fetch(home: Path, repo: str = REPO, **options: object) -> Pulled:
    return pull(repo, home, waits_s=NEVER_AGAIN, **options)  # type: ignore[arg-type]


def assert_is(home: Path, files: Files, repo: str = REPO) -> None:
    """The store has exactly what the hub serves, can be served, and nothing is left over."""
    folder = home / "models" / repo
    assert {f.name for f in folder.iterdir()} == served_names(files) | {"lmx.json"}
    for name in served_names(files):
        assert (folder / name).read_bytes() == files[name], name
    TextModel(folder)
    (model,) = list_models(home)
    assert (model.id, model.problem) == (repo, None)
    assert list((home / "models" / ".partial").iterdir()) == []


def assert_nothing_stored(home: Path) -> None:
    assert list_models(home) == []


def changed(files: Files, name: str, content: bytes) -> Files:
    return {**files, name: content}


class TestAWholePull:
    def test_brings_what_a_served_model_needs_and_no_code(self, hub: Hub, home: Path, tiny: Files) -> None:
        done = fetch(home)
        assert_is(home, tiny)
        assert (done.id, done.folder) == (REPO, home / "models" / REPO)
        assert done.bytes == done.fetched_bytes == sum(len(tiny[name]) for name in served_names(tiny))
        assert (done.resumed_bytes, done.replaced) == (0, None)

    def test_writes_down_where_it_is_from(self, hub: Hub, home: Path, tiny: Files) -> None:
        fetch(home)
        note = json.loads((home / "models" / REPO / "lmx.json").read_text())
        assert (note["repo"], note["revision"]) == (REPO, hub.commit(REPO))
        assert {entry["name"]: (entry["size"], entry["sha256"]) for entry in note["files"]} == {
            name: (len(tiny[name]), sha256(tiny[name])) for name in served_names(tiny)
        }
        (model,) = list_models(home)
        assert (model.revision, model.pulled_at) == (note["revision"], note["pulled_at"])

    def test_a_second_one_fetches_nothing(self, hub: Hub, home: Path, tiny: Files) -> None:
        fetch(home)
        hub.asked.clear()
        again = fetch(home)
        assert (again.fetched_bytes, again.replaced) == (0, again.revision)
        assert len(hub.asked) == 1
        assert_is(home, tiny)

    def test_a_repo_without_an_organisation_is_known_by_its_name(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.publish("lonely", tiny)
        assert fetch(home, "lonely").folder == home / "models" / "lonely"
        assert_is(home, tiny, "lonely")

    def test_the_token_goes_to_the_hub_and_never_to_the_host_of_the_files(
        self, hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        fetch(home)
        assert hub.tokens == {"hub": {"Bearer hf_secret"}, "cdn": {None}}

    def test_damage_to_a_pulled_model_is_mended_by_pulling_it_again(self, hub: Hub, home: Path, tiny: Files) -> None:
        fetch(home)
        (home / "models" / REPO / SHARD).write_bytes(b"short")
        (home / "models" / REPO / "tokenizer.json").unlink()
        (model,) = list_models(home)
        assert model.problem
        hub.asked.clear()
        fetch(home)
        assert_is(home, tiny)
        assert hub.fetched("model-00001-of-00003.safetensors") == []


class TestACutConnection:
    @pytest.mark.parametrize("where", [0, 1, 7, 8, 9, 100, 4096, 5000, -2, -1])
    def test_is_gone_on_from_at_the_very_byte(self, hub: Hub, home: Path, tiny: Files, where: int) -> None:
        offset = where % len(tiny[SHARD])
        hub.cut(SHARD, offset)
        with pytest.raises(HubUnavailable, match="run it again to go on"):
            fetch(home)
        assert_nothing_stored(home)
        done = fetch(home)
        assert_is(home, tiny)
        assert hub.fetched(SHARD)[-1] == (f"bytes={offset}-" if offset else None)
        assert done.resumed_bytes + done.fetched_bytes == done.bytes
        assert hub.sent == done.bytes

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_number_of_them_anywhere_ends_in_the_same_files(
        self, tiny: Files, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        names = st.sampled_from(sorted(served_names(tiny)))
        cuts = data.draw(st.lists(names.flatmap(lambda n: st.tuples(st.just(n), st.integers(0, len(tiny[n]) - 1)))))
        home = tmp_path_factory.mktemp("home")
        with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.url)
            hub.publish(REPO, tiny)
            for name, offset in sorted(cuts):
                hub.cut(name, offset)
            for _ in range(len(cuts) + 1):
                try:
                    done = fetch(home)
                    break
                except HubUnavailable:
                    assert_nothing_stored(home)
            assert_is(home, tiny)
            assert hub.sent == done.bytes

    def test_is_tried_again_by_itself_as_long_as_bytes_arrive(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.cut(SHARD, 10, 20, 30, 40, 50, 4096)
        pull(REPO, home, waits_s=AT_ONCE)
        assert_is(home, tiny)

    def test_a_hub_that_cannot_resume_is_asked_for_the_whole_file(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.cut(SHARD, 5000)
        hub.ranges = False
        with pytest.raises(HubUnavailable):
            fetch(home)
        fetch(home)
        assert_is(home, tiny)

    def test_an_answer_that_is_shorter_than_it_says_is_gone_on_from(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.lies[SHARD] = [tiny[SHARD][:777]]
        pull(REPO, home, waits_s=AT_ONCE)
        assert_is(home, tiny)
        assert hub.fetched(SHARD)[-1] == "bytes=777-"


class TestWrongBytes:
    def test_are_thrown_away_and_fetched_once_more(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.lies = {name: [bytes(len(tiny[name]))] for name in (SHARD, "tokenizer_config.json")}
        fetch(home)
        assert_is(home, tiny)

    @pytest.mark.parametrize("name", [SHARD, "config.json"])
    def test_twice_are_an_error_and_nothing_is_stored(self, hub: Hub, home: Path, tiny: Files, name: str) -> None:
        hub.lies = {name: [bytes(len(tiny[name])), b"x" * (len(tiny[name]) + 9)]}
        with pytest.raises(DamagedDownload, match=f"sent {name} twice"):
            fetch(home)
        assert_nothing_stored(home)
        fetch(home)
        assert_is(home, tiny)

    def test_of_an_earlier_try_are_noticed(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.cut(SHARD, 5000)
        with pytest.raises(HubUnavailable):
            fetch(home)
        (part,) = (home / "models" / ".partial").glob(f"*/parts/{sha256(tiny[SHARD])}")
        part.write_bytes(b"?" * 5000)
        fetch(home)
        assert_is(home, tiny)

    def test_weights_that_are_no_safetensors_are_refused_whatever_the_hub_says(
        self, hub: Hub, home: Path, tiny: Files
    ) -> None:
        hub.publish(REPO, changed(tiny, SHARD, b"\x08" + bytes(7) + b"no json!"))
        with pytest.raises(DamagedDownload, match="cut short or damaged"):
            fetch(home)
        assert_nothing_stored(home)


class TestBeforeTheWeights:
    def refused(self, hub: Hub, home: Path, files: Files, because: str) -> None:
        hub.publish("org/odd", files)
        with pytest.raises(NotServable, match=because) as caught:
            fetch(home, "org/odd")
        assert "\n" not in str(caught.value)
        assert not [path for path, _ in hub.asked if path.endswith((".safetensors", ".gguf", ".bin"))]
        assert_nothing_stored(home)
        assert not (home / "models" / ".partial").exists() or not list((home / "models" / ".partial").iterdir())

    def test_gguf_alone_is_refused(self, hub: Hub, home: Path) -> None:
        self.refused(hub, home, {"model-Q4.gguf": b"GGUF", "README.md": b""}, r"only GGUF")

    def test_pytorch_alone_is_refused(self, hub: Hub, home: Path, tiny: Files) -> None:
        files = {"config.json": tiny["config.json"], "pytorch_model.bin": b"", "tokenizer.json": b"{}"}
        self.refused(hub, home, files, r"only PyTorch")

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
    def test_what_serving_needs_must_be_there(self, hub: Hub, home: Path, tiny: Files, name: str) -> None:
        self.refused(hub, home, {n: c for n, c in tiny.items() if n != name}, f"has no {name}")

    def test_a_missing_shard_is_noticed_in_the_index(self, hub: Hub, home: Path, tiny: Files) -> None:
        files = {name: content for name, content in tiny.items() if name != SHARD}
        self.refused(hub, home, files, "lacks 1 of 3 shards")

    def test_an_unknown_kind_of_model_is_refused(self, hub: Hub, home: Path, tiny: Files) -> None:
        config = {**json.loads(tiny["config.json"]), "model_type": "hyper_llama_9"}
        files = changed(tiny, "config.json", json.dumps(config).encode())
        self.refused(hub, home, files, "'hyper_llama_9' model, which the installed mlx-lm cannot run")

    def test_code_of_its_own_is_not_fetched_and_the_user_is_told(self, hub: Hub, home: Path, tiny: Files) -> None:
        config = {**json.loads(tiny["config.json"]), "auto_map": {"AutoModel": "modeling_tiny.Tiny"}}
        files = changed(tiny, "config.json", json.dumps(config).encode())
        hub.publish(REPO, files)
        (note,) = fetch(home).notes
        assert "auto_map" in note
        assert_is(home, files)

    def test_a_config_that_is_no_object_is_an_error_in_one_line(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.publish(REPO, changed(tiny, "config.json", b"[]"))
        with pytest.raises(DamagedDownload, match="no JSON object"):
            fetch(home)

    def test_an_index_cannot_name_a_file_elsewhere(self, hub: Hub, home: Path, tiny: Files) -> None:
        index = {"weight_map": {"a": "../../../etc/passwd"}}
        hub.publish(REPO, changed(tiny, "model.safetensors.index.json", json.dumps(index).encode()))
        with pytest.raises(DamagedDownload, match="no file beside it"):
            fetch(home)
        assert_nothing_stored(home)


class TestAHubThatRefuses:
    def test_an_unknown_repo_is_said_in_one_line(self, hub: Hub, home: Path) -> None:
        with pytest.raises(RepoUnknown, match="there is no tiny-org/nothing"):
            fetch(home, "tiny-org/nothing")

    def test_an_unknown_revision_is_said_in_one_line(self, hub: Hub, home: Path) -> None:
        with pytest.raises(RepoUnknown, match="no revision v9"):
            fetch(home, revision="v9")

    @pytest.mark.parametrize(
        ("status", "header", "token", "because"),
        [
            (401, {}, None, "not public"),
            (401, {"X-Error-Code": "GatedRepo"}, None, "accept its terms"),
            (403, {"X-Error-Code": "GatedRepo"}, "hf_x", "accept its terms"),
            (401, {}, "hf_x", "does not let this token"),
            (403, {}, "hf_x", "does not let this token"),
        ],
    )
    def test_what_needs_a_token_says_so(
        self,
        hub: Hub,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        header: dict[str, str],
        token: str | None,
        because: str,
    ) -> None:
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        hub.refuse("/api/models/", status, headers=header)
        with pytest.raises(NoAccess, match=because):
            fetch(home)

    def test_a_repo_that_is_gated_for_its_files_alone_says_so(self, hub: Hub, home: Path) -> None:
        hub.refuse("/config.json", 403, headers={"X-Error-Code": "GatedRepo"})
        with pytest.raises(NoAccess, match="accept its terms"):
            fetch(home)

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    @pytest.mark.parametrize("path", ["/api/models/", "/cdn/"])
    def test_a_hub_in_trouble_is_asked_again(self, hub: Hub, home: Path, tiny: Files, status: int, path: str) -> None:
        hub.refuse(path, status, times=2, headers={"Retry-After": "0"})
        pull(REPO, home, waits_s=AT_ONCE)
        assert_is(home, tiny)

    def test_trouble_that_goes_on_is_said_in_one_line(self, hub: Hub, home: Path) -> None:
        hub.refuse("/api/models/", 503, times=9)
        with pytest.raises(HubUnavailable, match="HTTP 503"):
            pull(REPO, home, waits_s=AT_ONCE)

    def test_nobody_there_is_said_at_once(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with running_hub() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(HubUnavailable, match="cannot be reached"):
            pull(REPO, home)

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"sha": 5}', b"\xff"])
    def test_something_else_that_answers_is_no_hub(
        self, hub: Hub, home: Path, body: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.bodies["/api/models/"] = body
        with pytest.raises(HubUnavailable, match="not as a model hub does"):
            fetch(home)

    @pytest.mark.parametrize(
        "repo", ["../../etc", "/etc", "a/b/c", "a\\b", "", "a/", "/a", ".hidden", "a/..", "a\nb", "a--b"]
    )
    def test_what_is_no_repo_is_asked_of_nobody(self, hub: Hub, home: Path, repo: str) -> None:
        with pytest.raises(BadModelId):
            fetch(home, repo)
        assert hub.asked == []

    def test_a_repo_cannot_name_a_file_elsewhere(self, hub: Hub, home: Path, tiny: Files) -> None:
        strange = {"../tokenizer_evil.json": b"{}", "sub/config.json": b"{}", "tokenizer\\..\\x": b"", ".x.model": b""}
        hub.publish(REPO, {**tiny, **strange})
        fetch(home)
        assert_is(home, tiny)


class TestANewerRevision:
    def test_takes_the_place_of_the_old_one_and_fetches_only_what_changed(
        self, hub: Hub, home: Path, tiny: Files
    ) -> None:
        before = fetch(home)
        newer = changed(tiny, "tokenizer_config.json", tiny["tokenizer_config.json"] + b"\n")
        hub.publish(REPO, newer)
        done = fetch(home)
        assert_is(home, newer)
        assert (done.replaced, done.revision) == (before.revision, hub.commit(REPO))
        read_first = ("config.json", "model.safetensors.index.json")
        assert done.fetched_bytes == sum(len(newer[name]) for name in (*read_first, "tokenizer_config.json"))

    def test_between_two_tries_is_not_mixed_with_the_first(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.cut(SHARD, 5000)
        with pytest.raises(HubUnavailable):
            fetch(home)
        newer = changed(tiny, SHARD, tiny[SHARD][:-4] + b"\1\2\3\4")
        hub.publish(REPO, newer)
        done = fetch(home)
        assert_is(home, newer)
        assert done.resumed_bytes > 0
        assert hub.fetched(SHARD)[-1] is None

    def test_that_is_asked_for_by_name_is_the_one_that_comes(self, hub: Hub, home: Path, tiny: Files) -> None:
        other = changed(tiny, "tokenizer_config.json", b"{}")
        commit = hub.publish(REPO, other, branch="4bit")
        assert fetch(home, revision="4bit").revision == commit
        assert_is(home, other)
        assert fetch(home, revision=commit).fetched_bytes == 0

    def test_moves_between_the_look_up_and_the_files_without_harm(self, hub: Hub, home: Path, tiny: Files) -> None:
        hub.repos[REPO]["v1"] = tiny
        hub.cut(SHARD, 100)
        with pytest.raises(HubUnavailable):
            fetch(home)
        hub.publish(REPO, changed(tiny, "tokenizer_config.json", b"{}"))
        fetch(home, revision="v1")
        assert_is(home, tiny)

    @pytest.mark.parametrize("crash_before", ["whole.rename", "delete"])
    def test_a_crash_while_it_is_put_in_place_leaves_one_of_the_two_whole(
        self, hub: Hub, home: Path, tiny: Files, crash_before: str
    ) -> None:
        fetch(home)
        place = Staging(home / "models", REPO)
        place.folder.mkdir()
        # What install() does, up to the moment of the crash.
        place.target.rename(place.folder / "replaced")
        if crash_before == "delete":
            (place.folder / "replaced" / "config.json").unlink()
            newer = home / "newer"
            newer.mkdir()
            for name in served_names(tiny):
                (newer / name).write_bytes(tiny[name])
            newer.rename(place.target)
        (model,) = list_models(home)
        assert (model.id, model.problem) == (REPO, None)
        TextModel(model.folder)
        assert not place.folder.exists()


class TestAFullDisk:
    @pytest.fixture
    def small_disk(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "disk"
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=260m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("this user may not mount a tmpfs")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def test_is_noticed_before_the_first_byte_of_the_weights(self, hub: Hub, small_disk: Path) -> None:
        (small_disk / "ballast").write_bytes(bytes(50_000_000))
        with pytest.raises(NoSpace, match=r"free another \d+") as caught:
            fetch(small_disk)
        assert 0 < caught.value.short_bytes < 100_000_000
        assert hub.fetched(SHARD) == []
        assert_nothing_stored(small_disk)

    def test_in_the_middle_is_one_line_and_what_was_fetched_stays(
        self, hub: Hub, small_disk: Path, tiny: Files
    ) -> None:
        ballast = small_disk / "ballast"
        pause = hub.pause(SHARD, 5000)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            running = pool.apply_async(outcome, (small_disk,))
            pause.wait()
            with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(1 << 16))
            pause.go_on.set()
            assert "is full" in running.get(60)
        assert_nothing_stored(small_disk)
        ballast.unlink()
        done = fetch(small_disk)
        assert done.resumed_bytes > 5000
        assert_is(small_disk, tiny)

    def test_the_reserve_is_five_percent_or_256_mb(self) -> None:
        assert space_needed(0) == 0
        assert space_needed(1) == 1 + 256_000_000
        assert space_needed(100 * 10**9) == 105 * 10**9


def outcome(home: Path) -> str:
    """What a pull in another process came to."""
    try:
        return fetch(home).id
    except StoreError as error:
        return f"{type(error).__name__}: {error}"


class TestTwoAtOnce:
    def test_the_second_pull_says_so_and_the_first_is_not_disturbed(self, hub: Hub, home: Path, tiny: Files) -> None:
        pause = hub.pause(SHARD, 100)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            first = pool.apply_async(outcome, (home,))
            pause.wait()
            with pytest.raises(Busy, match="being pulled"):
                fetch(home)
            assert_nothing_stored(home)
            pause.go_on.set()
            assert first.get(60) == REPO
        assert_is(home, tiny)


class TestWhatAUserPutThere:
    def test_is_never_replaced(self, hub: Hub, home: Path) -> None:
        own = home / "models" / REPO
        own.mkdir(parents=True)
        (own / "config.json").write_text("{}")
        with pytest.raises(StoreError, match="not put there by a pull"):
            fetch(home)
        assert (own / "config.json").read_text() == "{}"

    def test_is_not_pulled_into(self, hub: Hub, home: Path) -> None:
        own = home / "models" / "tiny-org"
        own.mkdir(parents=True)
        (own / "config.json").write_text("{}")
        with pytest.raises(StoreError, match="is a model itself"):
            fetch(home)

    def test_a_folder_that_cannot_be_written_is_said_in_one_line(self, hub: Hub, tmp_path: Path) -> None:
        (tmp_path / "models").write_text("a file")
        with pytest.raises(StoreError, match="cannot be written"):
            fetch(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["models"]
