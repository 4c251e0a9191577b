"""`lmx ledger`: whether it is as it was written, what is in it, and what becomes of the past."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table

from lmx_ledger.cli.bundle import prove
from lmx_ledger.cli.connection import Connection, Failure, home_folder
from lmx_ledger.cli.display import note, on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, ConfigFile, Home, Url
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.core.reading import read_moment
from lmx_ledger.core.units import show_bytes

EXAMPLE: Final = "Example: lmx ledger verify"

_ABOUT: Final = "Whether the ledger is as it was written, and what becomes of the past."

group = typer.Typer(help=_ABOUT, epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich")


class Format(StrEnum):
    """How events are written out."""

    NDJSON = "ndjson"
    CLOUDEVENTS = "cloudevents"


@group.callback()
def _ledger() -> None:
    """Whether the ledger is as it was written, and what becomes of the past."""


def _file(home: Path | None, url: str | None, api_key: str | None) -> Path:
    Connection(url, api_key).must_be_local("its ledger is a file")
    return home_folder(home) / "ledger.db"


@group.command("verify", epilog=EXAMPLE)
def verify(
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Whether that bundle of an incident is what this ledger gives."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Hold every event against the chain, the sealed segments and the signed heads; name the first that is wrong."""
    from lmx_ledger.ledger.audit import GRACE, audit  # noqa: PLC0415 - a tenth of a second that help does without

    file = _file(home, url, api_key)
    if bundle is not None:
        prove(bundle, file, as_json=as_json)
        return
    found = audit(file)
    if as_json:
        print_json(found.public())
    elif found.ok:
        sealed = f", {found.sealed:,} of them in {_segments(found.segments)}" if found.segments else ""
        typer.echo(f"{found.events:,} events verify{sealed}; head {found.head_seq} {found.head_hash.hex()}")
        if found.heads:
            agree = "1 signed head agrees" if found.heads == 1 else f"{found.heads} signed heads agree"
            typer.echo(f"{agree}, up to event {found.signed_seq}")
        if found.unsigned > GRACE:
            note(f"the last {found.unsigned:,} events have no signed head: a rewrite of them would not be noticed")
    if not found.ok:
        raise Failure(f"{file}: wrong from event {found.bad_seq} on: {found.reason}; {found.events:,} are good")


@group.command("archive", epilog="Example: lmx ledger archive --before 30d")
def archive(
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="WHEN", help="Seal what is older.", show_default="[ledger] retention"),
    ] = None,
    home: Home = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Seal old events into compressed files beside the ledger; the database has room for new ones then.

    Whole blocks of 512 events are sealed, and never the last thousand. Beside a running daemon too.
    """
    from lmx_ledger.core.config import Retention, load_config  # noqa: PLC0415 - pydantic, which help does without
    from lmx_ledger.ledger.archive import archived_event, due, sealed_event, through_time  # noqa: PLC0415
    from lmx_ledger.ledger.segment import Segment, seal_through  # noqa: PLC0415
    from lmx_ledger.ledger.store import connect_to_read  # noqa: PLC0415
    from lmx_ledger.ledger.writer import Ledger  # noqa: PLC0415

    file = _file(home, url, api_key)
    settings = load_config(config or (found if (found := home_folder(home) / "config.toml").exists() else None))
    try:
        if before is None:
            through = due(file, Retention.parse(settings.ledger.retention), utc_us())
        else:
            try:
                moment = read_moment(before, utc_us())
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--before") from None
            with closing(connect_to_read(file)) as connection:
                through = through_time(connection, moment)
        done: list[Segment] = []
        writer = Ledger.open(file, boot=new_ulid(), synchronous=settings.ledger.synchronous, notice=note)
        try:
            for segment in seal_through(file, through):
                done.append(segment)
                writer.emit(sealed_event(segment))
                if on_terminal() and not as_json:
                    note(f"sealed events {segment.first_seq:,} to {segment.last_seq:,}")
        finally:
            if done:
                writer.emit(archived_event(done, "operator"))
            writer.close()
    except (OSError, sqlite3.Error) as error:
        raise Failure(f"{file}: not sealed ({error}); nothing is lost") from None
    events = sum(segment.last_seq - segment.first_seq + 1 for segment in done)
    if as_json:
        print_json({"segments": [segment.file for segment in done], "events": events})
    elif done:
        size = show_bytes(sum(segment.bytes for segment in done))
        typer.echo(
            f"{events:,} events are sealed in {_segments(len(done), 'new ')} ({size}) in {file.parent / 'segments'}"
        )
    else:
        typer.echo("nothing is due: whole blocks of 512 events are sealed, and never the last thousand")


@group.command("export", epilog="Example: lmx ledger export --since 1h > events.ndjson")
def export(
    format_: Annotated[Format, typer.Option("--format", help="One JSON object a line, or CloudEvents 1.0.")] = (
        Format.NDJSON
    ),
    since: Annotated[str | None, typer.Option("--since", metavar="WHEN", help="From then on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to then.")] = None,
    home: Home = None,
    _as_json: Annotated[bool, typer.Option("--json", help="As it does anyway: one JSON object a line.")] = True,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write every event to stdout, sealed ones included, oldest first, one JSON object a line."""
    from lmx_ledger.ledger.archive import walk  # noqa: PLC0415

    try:
        low = None if since is None else read_moment(since, utc_us())
        high = None if until is None else read_moment(until, utc_us())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    written = cloud_event if format_ is Format.CLOUDEVENTS else Recorded.public
    for event in _between(walk(_file(home, url, api_key)), low, high):
        typer.echo(msgspec.json.encode(written(event)))


def _between(events: Iterator[Recorded], low: int | None, high: int | None) -> Iterator[Recorded]:
    # Not until the first one that is late: a clock that jumped back brings earlier ones again.
    for event in events:
        if (low is None or event.time_us >= low) and (high is None or event.time_us < high):
            yield event


def cloud_event(event: Recorded) -> dict[str, Any]:
    """CloudEvents 1.0, structured; what is about a request and the like are extension attributes, absent if null."""
    own = {
        "request": event.request,
        "session": event.session,
        "model": event.model,
        "incident": event.incident,
        "cause": event.cause,
    }
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"urn:lmx:boot:{event.boot}",
        "type": f"lmx.{event.type}",
        "time": rfc3339(event.time_us),
        "subject": event.stream,
        "datacontenttype": "application/json",
        "dataschemaversion": event.v,
        "seq": event.seq,
        "severity": event.severity.label,
        **{name: value for name, value in own.items() if value is not None},
        "data": event.data,
    }


@group.command("stats", epilog="Example: lmx ledger stats")
def stats(home: Home = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """How many events there are, of which types, from when to when, and what they take on the disk."""
    from lmx_ledger.ledger.stats import stats_of  # noqa: PLC0415

    found = stats_of(_file(home, url, api_key))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    console = terminal()
    head = Table.grid(padding=(0, 2))
    live = found.events - found.sealed_events
    per = f", {(found.bytes - found.free_bytes) / live:,.0f} bytes each" if live else ""
    free = f", {show_bytes(found.free_bytes)} of it free for new ones" if found.free_bytes else ""
    head.add_row("events", f"{found.events:,}" + (f", {found.sealed_events:,} sealed" if found.sealed_events else ""))
    head.add_row("database", f"{show_bytes(found.bytes)}{per}{free}")
    if found.segments:
        head.add_row("sealed", f"{_segments(found.segments)}, {show_bytes(found.sealed_bytes)}")
    if found.first_us is not None and found.last_us is not None:
        head.add_row("from", f"{_moment(found.first_us)} to {_moment(found.last_us)}")
    head.add_row("head", f"{found.head_seq} {found.head_hash}")
    console.print(head)
    if found.types:
        console.print()
        drawn = Table(box=None, pad_edge=False, header_style="dim")
        drawn.add_column("type")
        drawn.add_column("events", justify="right")
        drawn.add_column("bytes of data", justify="right")
        for row in found.types:
            drawn.add_row(row.type, f"{row.events:,}", f"{row.data_bytes:,}")
        console.print(drawn)


def _segments(count: int, new: str = "") -> str:
    return f"{count} {new}segment{'' if count == 1 else 's'}"


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
