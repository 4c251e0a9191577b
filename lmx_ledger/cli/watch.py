"""`lmx serve metrics`: asks a daemon how it is, once or again and again, and shows that."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, Final, NamedTuple, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from lmx_ledger.cli.connection import Connection, Failure
from lmx_ledger.cli.display import on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, Port, Url, url_of
from lmx_ledger.cli.page import Away, Page
from lmx_ledger.cli.reading import ASKED, Line, Reading, pick, read
from lmx_ledger.cli.rows import History, plain
from lmx_ledger.core.clock import mono_ns, rfc3339, utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import parse_duration

EXAMPLE: Final = "Example: lmx serve metrics --watch 2s"

_PATIENCE_S: Final = 5.0
"""For an answer while watching: a page that stands still for longer says nothing."""
_LOOK_S: Final = 0.25
"""How soon a terminal of another size is seen."""
_BOUNDS: Final = (0.1, 3600.0)


def metrics(
    watch: Annotated[
        str | None, typer.Option("--watch", metavar="TIME", help="Go on, with a fresh page this often, until Ctrl-C.")
    ] = None,
    port: Port = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; with --watch one object per line.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Guard, memory, latencies, queue, models and the last events on one page; live with --watch."""
    every_s = _interval(watch)
    connection = Connection(url_of(url, port), api_key)
    first = ask(connection)
    if every_s is None:
        _show(first, as_json=as_json)
        return
    try:
        console = terminal()
        if as_json or not on_terminal() or console.is_dumb_terminal:
            _print_on(connection, first, every_s, as_json=as_json)
        else:
            _draw_on(connection, first, every_s, console)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def ask(connection: Connection, patience_s: float = 30.0) -> Reading:
    """How the daemon is now.

    Raises:
        NoDaemon: nobody listens there.
        Failure: it refuses, gives no answer in time, or is of another version.
    """
    from lmx_ledger.ledger.log_lines import render  # noqa: PLC0415 - with the ledger's room comes SQLAlchemy

    answers = connection.get_all(ASKED, patience_s=patience_s)
    try:
        events = [Recorded.of_public(event) for event in pick(answers)]
        lines = [
            Line(event.seq, rfc3339(event.time_us), event.severity.label, render(event), event.data.get("drill"))
            for event in events
        ]
        return read(connection.url, utc_us(), answers, lines)
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(
            f"{connection.url} answers with figures that this lmx cannot read ({error!r}); is it as new?"
        ) from None


def _interval(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        every_s = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--watch") from None
    low, high = _BOUNDS
    if not low <= every_s <= high:
        raise typer.BadParameter("from 100ms to 1h", param_hint="--watch")
    return every_s


def _show(reading: Reading, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(reading))
    elif on_terminal():
        terminal().print(Page(reading, History(), 0.0, away=None, whole=True))
    else:
        for line in plain(reading):
            typer.echo(line)


class _Round(NamedTuple):
    """What was found, or why nothing was; and when to look again, on `mono_ns`."""

    found: Reading | Failure
    due_ns: int

    @property
    def left_s(self) -> float:
        """Until then."""
        return (self.due_ns - mono_ns()) / 1e9


def _rounds(connection: Connection, first: Reading, every_s: float) -> Iterator[_Round]:
    """One after the other; whoever takes them waits in between."""
    every_ns = int(every_s * 1e9)
    yield _Round(first, mono_ns() + every_ns)
    while True:
        began_ns, found = mono_ns(), _asked_again(connection)
        # However long an answer takes, a busy daemon is not asked without a pause.
        yield _Round(found, max(began_ns + every_ns, mono_ns() + every_ns // 4))


def _asked_again(connection: Connection) -> Reading | Failure:
    try:
        return ask(connection, _PATIENCE_S)
    except Failure as failure:
        return failure


def _print_on(connection: Connection, first: Reading, every_s: float, *, as_json: bool) -> None:
    """A page, or an object, after the other: for programs, and for terminals that cannot go back."""
    for found, due_ns in _rounds(connection, first, every_s):
        if isinstance(found, Reading):
            if as_json:
                print_json(msgspec.to_builtins(found), line=True)
            else:
                _show(found, as_json=False)
        elif as_json:
            print_json({"time": rfc3339(utc_us()), "url": connection.url, "error": str(found)}, line=True)
        else:
            typer.echo(f"no answer: {found}")
        if not as_json:
            typer.echo()
        time.sleep(max((due_ns - mono_ns()) / 1e9, 0.0))


def _draw_on(connection: Connection, first: Reading, every_s: float, console: Console) -> None:
    """The same page again and again, on a screen of its own."""
    history, last, away_ns = History(), first, 0
    with _ended_by_sigterm(), Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
        for one in _rounds(connection, first, every_s):
            found, away = one.found, None
            if isinstance(found, Reading):
                last, away_ns = found, 0
                history.add(found)
            else:
                away_ns = away_ns or mono_ns()
                away = Away((mono_ns() - away_ns) / 1e9, str(found))
                history.add(None)
            size = None
            while one.left_s > 0:
                if console.size != size:
                    size = console.size
                    live.update(Page(last, history, every_s, away=away, whole=False), refresh=True)
                time.sleep(max(min(one.left_s, _LOOK_S), 0.0))


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends it as Ctrl-C does: the terminal gets its own screen and its cursor back."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
