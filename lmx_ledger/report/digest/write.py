"""A digest to disk, beside the postmortems of its incidents."""

from pathlib import Path
from typing import Final

import msgspec

from lmx_ledger.report.digest.html import html
from lmx_ledger.report.digest.markdown import markdown
from lmx_ledger.report.digest.model import KIND, Digest
from lmx_ledger.report.write import Written, json_of, put_report

_PREFIX: Final = "digest-"


def name_of(period: str) -> str:
    """Of its files, without their ends: `digest-2026-W47`."""
    return f"{_PREFIX}{period}"


def read_json(data: bytes) -> Digest:
    """What `json_of` wrote.

    Raises:
        msgspec.DecodeError: it is no digest, or of a form that this program does not know.
    """
    document = msgspec.json.decode(data, type=Digest)
    if document.kind != KIND:
        raise msgspec.ValidationError("it is no digest")
    return document


def write_digest(folder: Path, document: Digest) -> Written:
    """Its three forms under `name_of`, with links to the postmortems that are in the folder; and the folder's index.

    Raises:
        NotWritten: the folder cannot be made or written, or the disk is full.
    """
    linked = with_links(folder, document)
    return put_report(
        folder,
        name_of(document.header.name),
        markdown=markdown(linked),
        html=html(linked),
        json=json_of(linked),
    )


def with_links(folder: Path, document: Digest) -> Digest:
    """Each incident with the name of its postmortem, where that is in the folder."""
    found = [
        msgspec.structs.replace(one, report=one.id if _has(folder, one.id) else None) for one in document.incidents
    ]
    return msgspec.structs.replace(document, incidents=found)


def _has(folder: Path, name: str) -> bool:
    file = f"{name}.html"
    # A name of an incident leads to no other folder.
    return Path(file).name == file and (folder / file).is_file()
