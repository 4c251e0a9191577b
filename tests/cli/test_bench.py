"""`lmx bench`, in small: every figure is there, and nothing stays behind."""

import json
import sys
from pathlib import Path

from tests.cli.parts import lmx


def test_the_ledger_is_measured_and_nothing_stays_behind(tmp_path: Path) -> None:
    out = tmp_path / "a folder" / "figures.json"
    done = lmx("bench", "ledger", "--events", "10000", "--json", "--out", str(out), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads(out.read_text())
    figures = {figure["name"]: figure for figure in told["figures"]}
    assert figures["size at 10,000 events"]["value"] < 400
    asked = {name for name, figure in figures.items() if figure["bound"] is not None}
    assert {
        "append",
        "append / bare executemany",
        "emit",
        "by request, p50",
        "10 seconds of it, p50",
        "verify",
    } <= asked
    assert all(figure["value"] > 0 for figure in figures.values())
    assert list((tmp_path / "home").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    done = lmx("bench", "ledger", home=tmp_path / "home")
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 2
    assert "could not be measured" in done.stderr


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = lmx("bench", "engine", "--out", str(tmp_path / "file" / "figures.json"), home=tmp_path / "home")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "streams" not in done.stderr


def test_a_part_that_there_is_not_is_named_with_those_there_are(tmp_path: Path) -> None:
    done = lmx("bench", "engine", "--only", "reuse,speed", home=tmp_path / "home")
    assert done.returncode == 2
    assert "'speed'" in done.stderr
    assert "agents" in done.stderr


def test_the_engine_is_measured_beside_its_peers(tmp_path: Path) -> None:
    done = lmx("bench", "engine", "--quick", "--json", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert figures["streams that are whole after kills"]["value"] == 100
    assert {
        "2 streams, seeded: tokens/s / BatchGenerator",
        "2 streams, greedy: tokens/s / mlx_lm.server",
        "16 mixed streams: tokens/s / BatchGenerator",
        "worst gap of 4 streams / their median",
        "start to first token / mlx_lm.server",
        "memory at rest / mlx_lm.server",
    } <= figures.keys()
    assert figures["4 conversations with 512 tokens in common: disk / stored once"]["met"]
    assert figures["a day of agents: reused / by a cache that knows the future"]["met"]
    assert figures["a day of agents: most KV on disk / bound"]["met"]
    # A worker that has nothing to do any more when its client goes is still at once.
    may_be_none = ("client gone", "pause at a kill beyond")
    assert all(figure["value"] > 0 for name, figure in figures.items() if not name.startswith(may_be_none))


def test_memory_is_measured_part_by_part(tmp_path: Path) -> None:
    done = lmx("bench", "memory", "--quick", "--only", "turns,scene", "--json", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    turns = "3 models, 2.5 x the limit"
    assert figures[f"{turns}: answered"]["value"] > 0
    assert figures[f"{turns}: page-ins"]["value"] > 0
    assert figures[f"{turns}: errors"]["met"]
    assert figures[f"{turns}: refused although they fit"]["met"]
    assert figures[f"{turns}: the same answers as with room"]["met"]
    assert all(figure["met"] for name, figure in figures.items() if name.startswith("scene"))
    assert list((tmp_path / "home").iterdir()) == []


def test_weights_that_move_floods_and_failures_are_measured(tmp_path: Path) -> None:
    done = lmx("bench", "memory", "--quick", "--only", "paging,flood,failure", "--json", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert figures["page-out: written"]["met"]
    assert figures["page-in: bytes/s / raw read"]["value"] > 0
    assert figures["flood: neither answered nor refused"]["met"]
    assert figures["flood: workers that died"]["met"]
    if sys.platform == "linux":
        assert figures["no more memory: streams that are whole"]["met"]
        assert figures["no more memory: the same text"]["met"]


def test_what_it_costs_to_tell_of_an_incident_is_measured(tmp_path: Path) -> None:
    done = lmx("bench", "incidents", "--quick", "--only", "incident,what-if", "--json", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)["figures"]}
    assert figures.keys() == {"an incident's timeline and hypotheses", "a postmortem with its what-if rows"}
    assert all(figure["value"] > 0 for figure in figures.values())
    assert list((tmp_path / "home").iterdir()) == []
