"""The page of all reports in a folder, from the JSON files in it: the newest first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from lmx_ledger.report.model import FORM, Header
from lmx_ledger.report.pages_read import filled
from lmx_ledger.report.text import harmless, lasted, moment, plain, us

FORMS: Final = ("html", "md", "json")
INDEX: Final = "index.html"


class _Beginning(msgspec.Struct, frozen=True):
    form: int
    header: Header


_decode: Final = msgspec.json.Decoder(_Beginning).decode


class Entry(NamedTuple):
    """A report: the name of its files without their ends, what it is about, and which forms are there."""

    name: str
    header: Header
    forms: tuple[str, ...]


def entries_of(folder: Path) -> tuple[list[Entry], list[str]]:
    """The reports of a folder, the newest first, and the names of JSON files that are none (any more).

    A folder that is not there has no reports.

    Raises:
        OSError: the folder cannot be read.
    """
    if not folder.exists():
        return [], []
    found, unread = list[Entry](), list[str]()
    for file in sorted(folder.iterdir()):
        if file.suffix != ".json" or file.name.startswith("."):
            continue
        try:
            beginning = _decode(file.read_bytes())
            if beginning.form > FORM:
                raise msgspec.ValidationError("a later form")
            us(beginning.header.started)
        except (OSError, ValueError, msgspec.DecodeError):
            unread.append(plain(file.name, 80))
            continue
        forms = tuple(form for form in FORMS if file.with_suffix(f".{form}").exists())
        found.append(Entry(file.stem, harmless(beginning.header), forms))
    found.sort(key=lambda one: one.name)
    found.sort(key=lambda one: one.header.started, reverse=True)
    return found, unread


def index_page(entries: Sequence[Entry], unread: Sequence[str] = ()) -> str:
    """The page; the same entries give the same bytes."""
    return filled("index.html", entries=entries, unread=unread, moment=moment, lasted=lasted, href=_href)


def _href(name: str, form: str) -> str:
    """Beside the page; what a name looks like makes no address of it."""
    return f"./{quote(name, safe='')}.{form}"
