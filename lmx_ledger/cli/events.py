"""`lmx events`: questions to the ledger."""

from collections.abc import Iterable
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import SEVERITY_STYLE, harmless, note, on_terminal, one_line, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJsonLines, Home, Url
from lmx_ledger.cli.source import collect, follow, newest, open_source, sealed_before
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.reading import read_moment
from lmx_ledger.ledger.filter import EventFilter

EXAMPLE: Final = "Example: lmx events --type 'request.*' --since 10m -f"

_ON_TERMINAL: Final = 100
_ELSEWHERE: Final = 1000
_BACK: Final = 10
_ONE_LINE_FROM: Final = 120
_TYPE_WIDTH: Final = 22
_ABOUT_WIDTH: Final = 30


class Order(StrEnum):
    """Oldest or newest first."""

    ASC = "asc"
    DESC = "desc"


Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="From then on: 10m, or 2026-01-31T09:30:00Z.")
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")]


def moment(text: str | None, option: str) -> int | None:
    """What `--since` or `--until` names, in microseconds.

    Raises:
        typer.BadParameter: it is no time.
    """
    try:
        return None if text is None else read_moment(text, utc_us())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def severity_of(text: str | None, option: str) -> Severity | None:
    """The least severity that an option names.

    Raises:
        typer.BadParameter: there is no such severity.
    """
    try:
        return None if text is None else Severity.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def default_count(as_json: bool) -> int:
    """How many events are shown when nobody says: as many as a person reads, or a program."""
    return _ON_TERMINAL if on_terminal() and not as_json else _ELSEWHERE


def events(
    kinds: Annotated[
        list[str] | None, typer.Option("--type", metavar="T", help="A type, or paging.*; again: or.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Of this request (req_..., chatcmpl-...).")
    ] = None,
    session: Annotated[str | None, typer.Option("--session", metavar="ID", help="Of this session.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="Of this model.")] = None,
    incident: Annotated[str | None, typer.Option("--incident", metavar="ID", help="Of this incident.")] = None,
    severity: Annotated[
        str | None, typer.Option("--severity", metavar="LEVEL", help="At least debug, info, warning, error, critical.")
    ] = None,
    cause: Annotated[
        int | None, typer.Option("--cause", metavar="SEQ", min=1, help="That this event made happen.")
    ] = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", metavar="WHEN", help="Up to then.")] = None,
    order: Annotated[
        Order | None, typer.Option("--order", help="Which end to begin at; without it the newest ones, oldest first.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="At most so many.", show_default="100; 1000 when piped"),
    ] = None,
    following: Follow = False,
    home: Home = None,
    as_json: AsJsonLines = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Query the ledger: from the daemon, or from the file where none answers."""
    wanted = EventFilter(
        types=tuple(kinds or ()),
        request=request,
        session=session,
        model=model,
        incident=incident,
        severity=severity_of(severity, "--severity"),
        cause=cause,
        since_us=moment(since, "--since"),
        until_us=moment(until, "--until"),
        order="desc" if order is Order.DESC else "asc",
    )
    if following and (order is not None or until is not None):
        raise typer.BadParameter("-f goes on from now; it takes no --order and no --until", param_hint="--follow")
    source = open_source(Connection(url, api_key), home)
    if following:
        back = limit if limit is not None or since is not None else _BACK
        _show_coming(follow(source, wanted, back), as_json=as_json)
        return
    count = limit or default_count(as_json=as_json)
    take = newest if order is None else collect
    found, cut = take(source, wanted, count)
    if as_json:
        cursor = found[-1].seq if cut and order is not None else None
        print_json({"events": [event.public() for event in found], "next": cursor, "complete": not cut})
    else:
        _show(found)
    if not found:
        note("no event matches")
    if (not cut or order is Order.ASC) and (sealed := sealed_before(source, wanted.since_us)):
        note(f"events up to {sealed:,} are sealed and were not asked: lmx ledger export has them, too")
    if cut:
        which = "newest" if order in {None, Order.DESC} else "oldest"
        note(f"these are the {which} {count}; there are more: --limit {count * 10}, or a narrower question")


def _show_coming(coming: Iterable[Recorded], *, as_json: bool) -> None:
    lines = Lines(terminal()) if on_terminal() else None
    try:
        for event in coming:
            if as_json:
                print_json(event.public(), line=True)
            elif lines:
                lines.add(event)
            else:
                typer.echo(plain(event))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _show(found: list[Recorded]) -> None:
    if on_terminal():
        lines = Lines(terminal(), type_width=max((len(event.type) for event in found), default=0))
        for event in found:
            lines.add(event)
    else:
        for event in found:
            typer.echo(plain(event))


def plain(event: Recorded) -> str:
    """One line, uncut, fields separated by tabs: seq, time, severity, type, about, cause, data."""
    cause = "" if event.cause is None else str(event.cause)
    fields = (str(event.seq), rfc3339(event.time_us), event.severity.label, event.type, _about(event), cause)
    return "\t".join((*map(harmless, fields), one_line(event.data)))


class Lines:
    """Events for a person, one after the other: columns, the date when it changes, data cut to the width.

    Ids are never cut; where they leave no room, the data has a line of its own.
    """

    def __init__(self, console: Console, type_width: int = _TYPE_WIDTH) -> None:
        self._console = console
        self._type_width = max(type_width, 8)
        self._day: date | None = None

    def add(self, event: Recorded) -> None:
        """Print one."""
        at = datetime.fromtimestamp(event.time_us / 1e6).astimezone()
        if at.date() != self._day:
            self._day = at.date()
            self._console.print(Text(f"{at:%A, %Y-%m-%d} ({at:%Z})", style="bold"))
        line = Text(f"{event.seq:>6}  ", style="dim", end="")
        line.append(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  ", style="not dim")
        style = SEVERITY_STYLE[event.severity.label] or "not dim cyan"
        line.append(f"{harmless(event.type):<{self._type_width}}", style=style)
        about = harmless(_about(event))
        line.append(f"  {about:<{_ABOUT_WIDTH}}", style="not dim")
        cause = {} if event.cause is None else {"cause": event.cause}
        data = Text(one_line({**cause, **event.data}), style="dim")
        if self._console.width >= _ONE_LINE_FROM:
            line.append("  ")
            data.truncate(max(self._console.width - line.cell_len, 0), overflow="ellipsis")
            line.append_text(data)
            self._print(line)
        else:
            line.rstrip()
            self._print(line)
            if data:
                data.truncate(self._console.width - 8, overflow="ellipsis")
                self._print(Text("        ").append_text(data))

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)


def _about(event: Recorded) -> str:
    return event.request or event.incident or event.session or event.model or ""
