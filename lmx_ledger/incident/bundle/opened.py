"""A bundle as a ledger that can be read like any other: a temporary file, as long as it is open."""

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lmx_ledger.incident.bundle.form import BadBundle, Bundle, Manifest, opened_file, shown
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger.excerpt import write_excerpt
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.query import Reader


class Opened(NamedTuple):
    """`ledger` is the temporary file, `reader` reads it; the incident is the fold of what is in it."""

    ledger: Path
    reader: Reader
    manifest: Manifest
    incident: Incident


class _Reader(Reader):
    """Of a bundle: how its ledger's chain was is what the manifest says."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        super().__init__(path)
        self._manifest = manifest

    def broken_in(self, first: int, last: int) -> int | None:  # noqa: ARG002 - as `Reader`
        """The first event from which on the ledger was not as written, up to `last`."""
        broken = self._manifest.broken_from
        return broken if broken is not None and broken <= last else None


@contextmanager
def open_bundle(file: Path) -> Iterator[Opened]:
    """Read and verify it, all of it, before anything of it is given.

    Raises:
        BadBundle: it is none, is cut, damaged or altered, is too large, or of a later form.
        LedgerError: there is no room for the temporary file.
    """
    with tempfile.TemporaryDirectory(prefix="lmx-bundle-") as folder:
        path = Path(folder) / "ledger.db"
        manifest = _unpacked(file, path)
        reader = _Reader(path, manifest)
        try:
            yield Opened(path, reader, manifest, _incident(file, path, reader, manifest))
        finally:
            reader.close()


def _unpacked(file: Path, path: Path) -> Manifest:
    with opened_file(file) as stream:
        bundle = Bundle(stream, str(file))
        try:
            write_excerpt(path, bundle.events())
        except ValueError as error:
            raise BadBundle(f"{shown(file)} holds what no ledger does: {error}") from None
        except (sqlite3.Error, OSError) as error:
            raise BadBundle(
                f"{shown(file)} could not be unpacked into {path.parent}: {error}; TMPDIR names another"
            ) from None
    return bundle.manifest


def _incident(file: Path, path: Path, reader: Reader, manifest: Manifest) -> Incident:
    try:
        state = state_at(IncidentsFold(), History(path, reader), path.with_name(FILE), reader.head())
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # Sealed, and yet nothing that this program writes: it was made by hand, or by another one.
        raise BadBundle(f"{shown(file)} holds events that this lmx cannot read ({error!r})") from None
    found = next((one for one in state.all() if one.id == manifest.incident), None)
    if found is None:
        raise BadBundle(f"{shown(file)} has no event that opens its incident {manifest.incident[:80]!r}")
    return found
