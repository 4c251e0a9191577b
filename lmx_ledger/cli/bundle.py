"""`lmx incidents bundle`: one incident as a redacted file that says whether it is as it was written; and its proof."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon
from lmx_ledger.cli.display import harmless, note, print_json
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.cli.source import Ground, opened
from lmx_ledger.core.units import show_bytes

if TYPE_CHECKING:
    from lmx_ledger.incident.bundle.form import Manifest
    from lmx_ledger.incident.state import Incident

_PATIENCE_S = 600.0


def bundle(
    id: Annotated[  # noqa: A002
        str, typer.Argument(metavar="ID", help="As listed, or the beginning of it, or `last`.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it there, or into that folder.", show_default="ID.bundle.gz"),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write one incident's events to a file for others: redacted, and verified by whoever reads it.

    Without a daemon, on any machine, `show`, `timeline` and `report` take it in place of an id.
    Sessions, clients, hosts and paths are renamed, free text is left out.
    Its requests: lmx why --bundle FILE. Its proof: lmx ledger verify --bundle FILE.
    """
    connection = Connection(url, api_key)
    try:
        body = connection.get_bytes(f"/lmx/incidents/{quote(id, safe='')}/bundle", patience_s=_PATIENCE_S)
    except NoDaemon:
        with opened(connection, home) as ground:
            body = _made(ground, id)
    manifest = _manifest_of(body, connection)
    file = _written(body, out, manifest)
    _warn(manifest)
    if as_json:
        print_json({"file": str(file), "bytes": len(body), **_public(manifest)})
    else:
        changed = sum(manifest.redacted.values())
        size = show_bytes(len(body))
        said = f"{manifest.incident}, {manifest.events:,} events, {size}, {changed:,} values renamed or left out"
        typer.echo(harmless(f"Written to {file}: {said}."))


def known_to(ground: Ground) -> "list[Incident]":
    """The ledger's incidents, the newest first."""
    from lmx_ledger.incident.fold import IncidentsFold  # noqa: PLC0415 - HTTP does without SQLAlchemy
    from lmx_ledger.ledger.fold import state_at  # noqa: PLC0415
    from lmx_ledger.ledger.history import History  # noqa: PLC0415
    from lmx_ledger.ledger.projection import FILE  # noqa: PLC0415

    history = History(ground.file, ground.reader)
    return state_at(IncidentsFold(), history, ground.file.with_name(FILE), ground.reader.head()).all()


def named(known: "list[Incident]", name: str) -> "Incident":
    """The one of that name.

    Raises:
        Failure: there is none, or several have names that begin so.
    """
    from lmx_ledger.incident.state import find  # noqa: PLC0415

    try:
        found = find(known, name)
    except LookupError as error:
        raise Failure(str(error)) from None
    if found is None:
        raise Failure(f"there is no incident {harmless(name[:80])!r}; the known ones: lmx incidents list")
    return found


def prove(file: Path, ledger: Path, *, as_json: bool) -> None:
    """Make it again from the ledger, and say whether it is the same.

    Raises:
        Failure: it is not; the message names what differs first.
        StartupError: it is no bundle, or the ledger cannot be read.
    """
    from lmx_ledger.incident.bundle import prove as owner  # noqa: PLC0415
    from lmx_ledger.ledger.heads import key_of  # noqa: PLC0415
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415

    reader = Reader.open(ledger)
    try:
        found = owner.prove(file, ledger, reader, key_of(ledger))
    finally:
        reader.close()
    manifest = found.manifest
    if as_json:
        print_json({"ok": found.ok, "wrong": found.wrong, **_public(manifest)})
    elif found.ok:
        said = f"{manifest.incident}, {manifest.events:,} events, as of event {manifest.head_seq} {manifest.head_hash}"
        typer.echo(harmless(f"{file} is what this ledger gives: {said}"))
        _warn(manifest)
    if not found.ok:
        raise Failure(harmless(f"{file} is not what this ledger gives: {'; '.join(found.wrong)}"))


def _made(ground: Ground, name: str) -> bytes:
    from lmx_ledger.incident.bundle.write import bundle as make  # noqa: PLC0415
    from lmx_ledger.ledger.heads import key_of  # noqa: PLC0415

    incident = named(known_to(ground), name)
    return make(ground.file, ground.reader, incident.id, key_of(ground.file))


def _manifest_of(body: bytes, connection: Connection) -> "Manifest":
    import io  # noqa: PLC0415

    from lmx_ledger.incident.bundle.form import Bundle  # noqa: PLC0415

    return Bundle(io.BytesIO(body), f"what {connection.url} answers").manifest


def _written(body: bytes, out: Path | None, manifest: "Manifest") -> Path:
    from lmx_ledger.incident.bundle.form import file_name  # noqa: PLC0415
    from lmx_ledger.report.write import NotWritten, put  # noqa: PLC0415

    name = file_name(manifest.incident)
    file = Path(name) if out is None else out / name if out.is_dir() else out
    try:
        put(file.parent, {file: body}, "bundle")
    except NotWritten as error:
        raise Failure(str(error)) from None
    return file


def _warn(manifest: "Manifest") -> None:
    if manifest.broken_from is not None:
        note(
            f"the ledger is not as it was written from event {manifest.broken_from} on (lmx ledger verify); the bundle "
            "says so to everybody who reads it"
        )
    if manifest.cut:
        note("the incident's time has more events than are read of one; the bundle has the first of them")
    if manifest.status == "open":
        note(f"the incident goes on; the bundle has what was known at event {manifest.head_seq}")


def _public(manifest: "Manifest") -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    told: dict[str, Any] = msgspec.to_builtins(manifest)
    return {name: value for name, value in told.items() if name != "kept"}
