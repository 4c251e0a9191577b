"""Reports on disk: whole or not at all, and an index of them."""

import errno
import os
from pathlib import Path

import pytest

from lmx_ledger.report.assemble import assemble
from lmx_ledger.report.index import entries_of, index_page
from lmx_ledger.report.model import Postmortem
from lmx_ledger.report.write import NotWritten, json_of, write, write_index
from tests.report import parts
from tests.report.parts import SECOND, START_US
from tests.report.reading import Page, text_of


def report(**changed: object) -> Postmortem:
    return assemble(parts.incident(**changed), [], [], [])


def test_a_report_is_three_files_and_the_index(tmp_path: Path) -> None:
    document = report()
    written = write(tmp_path / "reports", "inc_a", document)
    assert written.json.read_bytes() == json_of(document)
    assert written.markdown.read_text().startswith("# Paging storm")
    assert written.html.read_text().startswith("<!doctype html>")
    assert {file.name for file in (tmp_path / "reports").iterdir()} == {
        *("inc_a.json", "inc_a.md", "inc_a.html", "index.html")
    }


def test_a_report_that_is_written_again_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    write(tmp_path, "inc_a", report(title="First words"))
    written = write(tmp_path, "inc_a", report(title="Second words"))
    assert "Second words" in written.markdown.read_text()
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\0b", "a" * 129, "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotWritten, match="no name for a report"):
        write(tmp_path, name, report())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("mine")
    with pytest.raises(NotWritten, match="or name another folder"):
        write(tmp_path / "reports", "inc_a", report())
    assert (tmp_path / "reports").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_with_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NotWritten, match="permissions"):
        write(tmp_path, "inc_a", report())
    tmp_path.chmod(0o700)


def test_a_full_disk_leaves_the_older_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path, "inc_a", report(title="First words"))
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match="is full; free some"):
        write(tmp_path, "inc_a", report(title="Second words"))
    assert "First words" in before.markdown.read_text()
    assert "First words" in before.html.read_text()
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".part"]


def test_the_index_has_the_newest_first_with_what_each_is(tmp_path: Path) -> None:
    write(tmp_path, "inc_a", report(id="inc_a", title="The older one"))
    later = START_US + 86_400 * SECOND
    times = {"started_us": later, "detected_us": later, "acknowledged_us": None, "mitigated_us": None}
    write(tmp_path, "inc_b", report(id="inc_b", title="A rehearsal", drill=True, resolved_us=None, **times))
    text = text_of((tmp_path / "index.html").read_text())
    assert text.index("A rehearsal") < text.index("The older one")
    assert "15m 00s" in text
    assert "so far" in text
    assert "drill" in text[: text.index("A rehearsal")]
    assert "./inc_a.html" in Page((tmp_path / "index.html").read_text()).addresses


def test_the_index_of_an_empty_folder_says_how_a_report_comes_about(tmp_path: Path) -> None:
    write_index(tmp_path)
    assert "There is no report yet" in text_of((tmp_path / "index.html").read_text())
    assert entries_of(tmp_path / "nowhere") == ([], [], [])


def test_files_that_are_no_reports_are_named_and_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, "inc_a", report())
    (tmp_path / "broken.json").write_bytes(b'{"form": 1, "header": {')
    (tmp_path / "<b>.json").write_bytes(b"\xff\xfe")
    (tmp_path / "later.json").write_bytes(json_of(report()).replace(b'"form": 1', b'"form": 99'))
    found = entries_of(tmp_path)
    assert [one.name for one in found.postmortems] == ["inc_a"]
    assert found.unread == ["<b>.json", "broken.json", "later.json"]
    page = Page(index_page(found))
    assert not page.open
    assert "b" not in {tag for tag, _ in page.elements}


def test_an_index_with_hostile_titles_is_whole_and_links_to_its_own_folder_alone(tmp_path: Path) -> None:
    document = report(title="<script>x</script>\u202e", id="javascript:alert(1)")
    (tmp_path / "javascript:alert(1).json").write_bytes(json_of(document))
    (tmp_path / "javascript:alert(1).html").write_text("x")
    page = Page(index_page(entries_of(tmp_path)))
    assert not page.open
    assert not page.wrong
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.addresses
    assert all(address.startswith("./") for address in page.addresses)
