"""Whether a bundle is what the ledger gives: the owner makes it again and holds the two against each other."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger import __version__
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.bundle.form import Bundle, Manifest, line_of, opened_file, seal_of
from lmx_ledger.incident.bundle.gather import NoIncident
from lmx_ledger.incident.bundle.write import make
from lmx_ledger.ledger import heads
from lmx_ledger.ledger.event_id import digest_of
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.query import Reader

_TOLD: Final = 5
_NOT_OF_EVENTS: Final = frozenset({"version", "signed_seq"})
"""What may be otherwise today: the program, and a head that was signed since."""


class Proof(NamedTuple):
    """`wrong`: why the file is not what this ledger gives, the first reasons of it; empty where it is."""

    manifest: Manifest
    wrong: list[str]

    @property
    def ok(self) -> bool:
        """Whether it is."""
        return not self.wrong


def prove(file: Path, ledger: Path, reader: Reader, key: bytes) -> Proof:
    """Hold a bundle against the ledger that it is said to be of.

    Raises:
        BadBundle: the file is none, or damaged.
        LedgerError: the ledger cannot be read.
    """
    with opened_file(file) as stream:
        bundle = Bundle(stream, str(file))
        manifest = bundle.manifest
        there = {event.seq: event for event in bundle.events()}
    assert bundle.seal is not None  # noqa: S101 - `events` came to its end
    wrong = []
    if bundle.seal != seal_of(bytes.fromhex(bundle.seal.sha256), key):
        wrong.append("its seal was not made with this ledger's key: it was altered, or is of another ledger")
    wrong += islice(_differences(manifest, there, ledger, reader, key), _TOLD)
    return Proof(manifest, wrong)


def _differences(
    manifest: Manifest, there: dict[int, Recorded], ledger: Path, reader: Reader, key: bytes
) -> Iterator[str]:
    head_seq, head_hash = manifest.head_seq, bytes.fromhex(manifest.head_hash)
    found = History(ledger, reader).events(EventFilter(types=("*",), after=head_seq - 1, limit=1))
    if not found or found[0].seq != head_seq or digest_of(found[0].id) != head_hash[:10]:
        yield f"event {head_seq}, which was the ledger's newest one, is not there with that hash"
        return
    if manifest.signed_seq and manifest.signed_seq not in heads.seqs(ledger):
        yield f"event {manifest.signed_seq} has no signed head any more"
    try:
        here = make(ledger, reader, manifest.incident, key, (head_seq, head_hash))
    except NoIncident:
        yield f"incident {manifest.incident} is not in this ledger"
        return
    for seq in sorted(there.keys() | here.lines.keys()):
        if seq not in there:
            yield f"event {seq} is missing in it"
        elif seq not in here.lines:
            yield f"event {seq} is none that belongs to it"
        elif line_of(there[seq]) != here.lines[seq]:
            names = _differing(there[seq].public(), msgspec.json.decode(here.lines[seq]))
            yield f"event {seq} is not what the ledger has ({', '.join(names)}){_by_version(manifest)}"
    mine, its = msgspec.structs.asdict(here.manifest), msgspec.structs.asdict(manifest)
    if names := [name for name in mine if mine[name] != its[name] and name not in _NOT_OF_EVENTS]:
        yield f"its manifest says otherwise of: {', '.join(names)}{_by_version(manifest)}"


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the fields, not what is in them."""
    names = [name for name in one if one[name] != other.get(name) and name != "data"]
    mine, its = one["data"], other["data"]
    return names + [f"data.{name}" for name in sorted(mine.keys() | its.keys()) if mine.get(name) != its.get(name)]


def _by_version(manifest: Manifest) -> str:
    made = manifest.version
    return (
        "" if made == __version__ else f"; it was made by lmx {made[:40]}, and this is {__version__}: verify with that"
    )
