"""`lmx replay`: what would have been decided under other rules, of what was then."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, NoDaemon
from lmx_ledger.cli.display import harmless, note, on_terminal, print_json, terminal
from lmx_ledger.cli.events import moment
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.cli.source import ledger_file, note_file
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.units import show_duration

EXAMPLE: Final = "Example: lmx replay --since 1h --set memory.page_at=0.75"

_SHOWN: Final = 50


def replay(
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help="From then on: 10m, or a time.")] = "1h",
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Up to then.", show_default="now")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A rule that was otherwise; again: more of them."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Decide again what was decided, by the same functions: as it was, or with rules set otherwise.

    Without --set every decision must come out as the ledger has it. With it, each one says what the other rules would
    have decided there, of things as they were: what would have followed is not known.
    """
    wanted = dict(_pair(one) for one in given or [])
    since_us, until_us = moment(since, "--since"), moment(until, "--until")
    connection = Connection(url, api_key)
    order: dict[str, Any] = {"since": since, "set": wanted} | ({} if until is None else {"until": until})
    try:
        found = connection.post("/lmx/replay", order)
    except NoDaemon:
        found = _offline(connection, home, since_us or 0, until_us or utc_us(), wanted)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key or not value:
        raise typer.BadParameter(f"{text!r} is no KEY=VALUE", param_hint="--set")
    return key.strip(), value.strip()


def _offline(
    connection: Connection, home: Path | None, since_us: int, until_us: int, given: dict[str, str]
) -> dict[str, Any]:
    from lmx_ledger.incident import replayed  # noqa: PLC0415 - HTTP does without pydantic and SQLAlchemy
    from lmx_ledger.incident.rules import BadRule  # noqa: PLC0415
    from lmx_ledger.ledger.history import Whole  # noqa: PLC0415
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415

    file = ledger_file(connection, home)
    reader = Reader.open(file)
    note_file(connection, file)
    try:
        return replayed.replay(Whole(file, reader), since_us, until_us, given).public()
    except BadRule as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None
    finally:
        reader.close()


def _show(found: dict[str, Any]) -> None:
    rules = ", ".join(f"{key} = {value}" for key, value in found["set"].items())
    under = f"With {rules}" if rules else "With the rules that were in force"
    typer.echo(f"{under}: {found['decisions']:,} decisions, {found['different']:,} of them different.")
    before, after = found["stages_s"]["recorded"], found["stages_s"]["replayed"]
    for stage in dict.fromkeys((*before, *after)):
        typer.echo(f"  {stage}: {_time(before.get(stage))} then, {_time(after.get(stage))} with these rules")
    differences = found["differences"]
    if not differences:
        if not found["decisions"]:
            note("nothing was decided in that time; for more: --since 1d")
        return
    rows = [
        (row["time"], str(row["seq"] or "-"), row["recorded"] or "nothing", row["replayed"] or "nothing")
        for row in differences[:_SHOWN]
    ]
    if on_terminal():
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("time", "event", "was decided", "would have been"):
            table.add_column(name, overflow="fold", no_wrap=name in {"time", "event"})
        for row in rows:
            table.add_row(*(Text(harmless(cell)) for cell in row))
        terminal().print(table)
    else:
        for row in rows:
            typer.echo("\t".join(harmless(cell) for cell in row))
    if len(differences) > _SHOWN:
        note(f"these are the first {_SHOWN} of {len(differences):,}; for all: --json")


def _time(seconds: float | None) -> str:
    return "none" if not seconds else show_duration(seconds)
