"""Digests on disk: whole or not at all, linked to the postmortems beside them, and apart from them in the index."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from lmx_ledger.report.digest.model import Digest
from lmx_ledger.report.digest.write import name_of, read_json, write_digest
from lmx_ledger.report.index import entries_of
from lmx_ledger.report.write import NotWritten, json_of, write, write_index
from tests.report.digest import parts
from tests.report.reading import Page, text_of
from tests.report.test_write import report


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Digest:
    return parts.made(parts.write(tmp_path_factory.mktemp("home"), parts.two_weeks()))


def test_a_digest_is_three_files_under_its_weeks_name_and_the_index(document: Digest, tmp_path: Path) -> None:
    written = write_digest(tmp_path / "reports", document)
    assert {file.name for file in (tmp_path / "reports").iterdir()} == {
        *("digest-2026-W11.json", "digest-2026-W11.md", "digest-2026-W11.html", "index.html")
    }
    assert read_json(written.json.read_bytes()) == document
    assert written.markdown.read_text().startswith("# Week 2026-W11")
    assert written.html.read_text().startswith("<!doctype html>")


def test_an_incident_is_linked_to_its_postmortem_where_that_is_in_the_folder(document: Digest, tmp_path: Path) -> None:
    write(tmp_path, parts.INCIDENT, report(id=parts.INCIDENT))
    written = write_digest(tmp_path, document)
    assert Page(written.html.read_text()).addresses == [f"./{parts.INCIDENT}.html"]
    assert f"{parts.INCIDENT}.md" in written.markdown.read_text().replace("\\", "")
    assert [one.report for one in read_json(written.json.read_bytes()).incidents] == [parts.INCIDENT, None]


def test_a_link_to_what_is_gone_is_taken_back(document: Digest, tmp_path: Path) -> None:
    linked = [msgspec.structs.replace(one, report=one.id) for one in document.incidents]
    written = write_digest(tmp_path, msgspec.structs.replace(document, incidents=linked))
    assert Page(written.html.read_text()).addresses == []


def test_a_name_of_an_incident_leads_to_no_other_folder(document: Digest, tmp_path: Path) -> None:
    (tmp_path / "up.html").write_text("mine")
    bad = [msgspec.structs.replace(one, id="../up") for one in document.incidents]
    written = write_digest(tmp_path / "reports", msgspec.structs.replace(document, incidents=bad))
    assert Page(written.html.read_text()).addresses == []


def test_the_index_has_digests_apart_from_postmortems_the_newest_first(document: Digest, tmp_path: Path) -> None:
    write(tmp_path, "inc_a", report(title="The older one"))
    write_digest(tmp_path, document)
    header = msgspec.structs.replace(document.header, name="2026-W12", week="2026-W12", since="2026-03-16T00:00:00Z")
    write_digest(tmp_path, msgspec.structs.replace(document, header=header))
    text = text_of((tmp_path / "index.html").read_text())
    assert text.index("Digests") < text.index("2026-W12") < text.index("2026-W11") < text.index("Postmortems")
    assert text.index("Postmortems") < text.index("The older one")
    assert "./digest-2026-W11.html" in Page((tmp_path / "index.html").read_text()).addresses
    found = entries_of(tmp_path)
    assert ([one.name for one in found.digests], [one.name for one in found.postmortems], found.unread) == (
        ["digest-2026-W12", "digest-2026-W11"],
        ["inc_a"],
        [],
    )


def test_a_digest_of_a_later_form_or_a_broken_one_is_named_and_does_no_harm(document: Digest, tmp_path: Path) -> None:
    (tmp_path / "later.json").write_bytes(json_of(document).replace(b'"form": 1', b'"form": 99'))
    (tmp_path / "cut.json").write_bytes(json_of(document)[:200])
    (tmp_path / "time.json").write_bytes(json_of(document).replace(b'"since": "2026', b'"since": "soon'))
    write_index(tmp_path)
    assert entries_of(tmp_path).unread == ["cut.json", "later.json", "time.json"]


def test_a_postmortem_is_no_digest(tmp_path: Path) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_json(json_of(report()))


def test_a_full_disk_leaves_the_older_digest_whole(
    document: Digest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_digest(tmp_path, document).html.read_bytes()
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match="is full; free some"):
        write_digest(tmp_path, msgspec.structs.replace(document, summary="Other words."))
    assert (tmp_path / f"{name_of('2026-W11')}.html").read_bytes() == before
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".part"]
