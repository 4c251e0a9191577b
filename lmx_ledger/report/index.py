"""The page of all reports in a folder, from the JSON files in it, digests apart from postmortems: the newest first."""

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from lmx_ledger.report.digest import model as digest
from lmx_ledger.report.model import FORM, Header
from lmx_ledger.report.pages_read import filled
from lmx_ledger.report.text import harmless, lasted, moment, plain, us

FORMS: Final = ("html", "md", "json")
INDEX: Final = "index.html"


class _Kind(msgspec.Struct, frozen=True):
    form: int
    kind: str = ""


class _Beginning(msgspec.Struct, frozen=True):
    header: Header


class _DigestBeginning(msgspec.Struct, frozen=True):
    header: digest.Header


class Entry(NamedTuple):
    """A postmortem: the name of its files without their ends, what it is about, and which forms are there."""

    name: str
    header: Header
    forms: tuple[str, ...]


class DigestEntry(NamedTuple):
    """A digest, as `Entry`."""

    name: str
    header: digest.Header
    forms: tuple[str, ...]


class Entries(NamedTuple):
    """The reports of a folder, the newest first, and the names of JSON files that are none (any more)."""

    postmortems: list[Entry]
    digests: list[DigestEntry]
    unread: list[str]


def entries_of(folder: Path) -> Entries:
    """Of that folder; one that is not there has no reports.

    Raises:
        OSError: the folder cannot be read.
    """
    found = Entries([], [], [])
    if not folder.exists():
        return found
    for file in sorted(folder.iterdir()):
        if file.suffix != ".json" or file.name.startswith("."):
            continue
        forms = tuple(form for form in FORMS if file.with_suffix(f".{form}").exists())
        try:
            header = _header(file.read_bytes())
        except (OSError, ValueError, msgspec.DecodeError):
            found.unread.append(plain(file.name, 80))
            continue
        if isinstance(header, Header):
            found.postmortems.append(Entry(file.stem, header, forms))
        else:
            found.digests.append(DigestEntry(file.stem, header, forms))
    for entries in (found.postmortems, found.digests):
        entries.sort(key=lambda one: one.name)
    found.postmortems.sort(key=lambda one: one.header.started, reverse=True)
    found.digests.sort(key=lambda one: (one.header.since, one.header.until), reverse=True)
    return found


def _header(content: bytes) -> Header | digest.Header:
    kind = msgspec.json.decode(content, type=_Kind)
    if kind.form > (digest.FORM if kind.kind == digest.KIND else FORM):
        raise msgspec.ValidationError("a later form")
    if kind.kind == digest.KIND:
        found = msgspec.json.decode(content, type=_DigestBeginning).header
        us(found.since), us(found.until)
        return harmless(found)
    header = msgspec.json.decode(content, type=_Beginning).header
    us(header.started)
    return harmless(header)


def index_page(found: Entries) -> str:
    """The page; the same entries give the same bytes."""
    return filled("index.html", **found._asdict(), moment=moment, lasted=lasted, href=href)


def href(name: str, form: str) -> str:
    """Beside the page; what a name looks like makes no address of it."""
    return f"./{quote(name, safe='')}.{form}"
