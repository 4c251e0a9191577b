"""`lmx incidents digest`: a week, or another time, as the ledger has it; with and without a daemon."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon
from lmx_ledger.cli.display import deliver, print_json
from lmx_ledger.cli.options import ApiKey, AsJson, Form, FormOption, Home, Into, Out, Url
from lmx_ledger.cli.source import ledger_file, note_file
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.week import read_period

if TYPE_CHECKING:
    from lmx_ledger.core.week import Period

EXAMPLE: Final = "Example: lmx incidents digest --week 2026-W47 --format html --out week.html"

_PATIENCE_S: Final = 600.0
"""A million events take half a minute, on a machine that has other things to do longer."""


def digest(
    week: Annotated[
        str | None,
        typer.Option(
            "--week", metavar="WEEK", help="An ISO week of UTC: 2026-W47.", show_default="the one that ended last"
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Instead of a week: from then on, 7d or a time.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="With --since: up to then.", show_default="now")
    ] = None,
    form: FormOption = None,
    out: Out = None,
    into: Into = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Tell of a week: budgets, incidents, what it cost and whom, traffic, and what would have saved most.

    Beside the week before. Of the same ledger and the same week it is the same, byte by byte.
    """
    if out is not None and into is not None:
        raise typer.BadParameter("give --out or --into, not both", param_hint="--into")
    try:
        period = read_period(week, since, until, utc_us())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since" if week is None else "--week") from None
    wanted = "json" if as_json or into is not None else (form or Form.MD).value
    connection = Connection(url, api_key)
    asked = {"since": rfc3339(period.since_us), "until": rfc3339(period.until_us), "format": wanted}
    try:
        body = connection.get_bytes("/lmx/digest", asked, patience_s=_PATIENCE_S)
    except NoDaemon:
        body = _offline(connection, home, period, wanted)
    if into is None:
        deliver(body, out)
    else:
        _write_into(into, body, as_json=as_json)


def _offline(connection: Connection, home: Path | None, period: "Period", form: str) -> bytes:
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415 - HTTP does without SQLAlchemy
    from lmx_ledger.report.digest import from_ledger  # noqa: PLC0415

    file = ledger_file(connection, home)
    reader = Reader.open(file)
    note_file(connection, file)
    try:
        return from_ledger.as_form(from_ledger.digest(file, reader, period), form)
    finally:
        reader.close()


def _write_into(folder: Path, body: bytes, *, as_json: bool) -> None:
    from lmx_ledger.report.digest.write import read_json, write_digest  # noqa: PLC0415
    from lmx_ledger.report.write import NotWritten  # noqa: PLC0415

    try:
        written = write_digest(folder, read_json(body))
    except NotWritten as error:
        raise Failure(str(error)) from None
    except msgspec.DecodeError as error:
        raise Failure(f"the digest cannot be read ({error}); is the daemon of another version?") from None
    if as_json:
        print_json({name: str(file) for name, file in written._asdict().items()})
    else:
        typer.echo(f"Written to {written.html}, beside it as .md and .json; all reports: {folder / 'index.html'}.")
