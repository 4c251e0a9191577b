"""Reports to disk: each file whole or not at all."""

import errno
import os
import re
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from lmx_ledger.report.html import html
from lmx_ledger.report.index import INDEX, entries_of, index_page
from lmx_ledger.report.markdown import markdown
from lmx_ledger.report.model import Postmortem
from lmx_ledger.report.text import harmless

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class NotWritten(Exception):
    """It could not be written, and no half of it is there; the message says why and what to do."""


class Written(NamedTuple):
    """Where the forms of a report are."""

    json: Path
    markdown: Path
    html: Path


def json_of(document: msgspec.Struct) -> bytes:
    """The document as JSON, for people to read as well; the same document gives the same bytes."""
    encoded = msgspec.json.encode(harmless(document), order="deterministic")
    return msgspec.json.format(encoded, indent=2) + b"\n"


def read_json(data: bytes) -> Postmortem:
    """What `json_of` wrote.

    Raises:
        msgspec.DecodeError: it is no postmortem, or of a form that this program does not know.
    """
    return msgspec.json.decode(data, type=Postmortem)


def write(folder: Path, name: str, document: Postmortem) -> Written:
    """NAME.json, NAME.md and NAME.html, and the folder's index; an older report of that name is replaced.

    Raises:
        NotWritten: the folder cannot be made or written, the disk is full, or the name is none for a file.
    """
    return put_report(folder, name, markdown=markdown(document), html=html(document), json=json_of(document))


def put_report(folder: Path, name: str, *, markdown: str, html: str, json: bytes) -> Written:
    """The three forms of a report, and the folder's index.

    Raises:
        NotWritten: as `write`.
    """
    if not _NAME.fullmatch(name):
        raise NotWritten(f"{name[:80]!r} is no name for a report: letters, digits, '.', '_' and '-', 128 at most")
    written = Written(folder / f"{name}.json", folder / f"{name}.md", folder / f"{name}.html")
    # JSON last: the index goes by it, so that what it shows has its other forms.
    put(folder, {written.markdown: markdown.encode(), written.html: html.encode(), written.json: json})
    write_index(folder)
    return written


def write_index(folder: Path) -> Path:
    """index.html of a folder's reports.

    Raises:
        NotWritten: as `write`.
    """
    try:
        page = index_page(entries_of(folder))
    except OSError as error:
        raise NotWritten(_why(folder, error, "report")) from None
    put(folder, {folder / INDEX: page.encode()})
    return folder / INDEX


def put(folder: Path, files: dict[Path, bytes], what: str = "report") -> None:
    """Write files into a folder, which is made: all of them or none, a full disk leaves what was there before.

    Raises:
        NotWritten: it cannot be made or written, or the disk is full; `what` is what was not written.
    """
    parts: dict[Path, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            # Two that write the same report do not write into one file.
            part = parts[file] = folder / f".{file.name}.{secrets.token_hex(4)}.part"
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for file, part in parts.items():
            part.replace(file)
        _sync(folder)
    except OSError as error:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise NotWritten(_why(folder, error, what)) from None


def _sync(folder: Path) -> None:
    """So that the names are there behind a loss of power, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(folder: Path, error: OSError, what: str) -> str:
    if error.errno in _FULL:
        return f"the {what} was not written: the disk of {folder} is full; free some of it, or name another folder"
    return f"the {what} was not written to {folder}: {error.strerror}; mend its permissions, or name another folder"
