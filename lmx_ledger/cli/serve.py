"""`lmx serve`: the group, and its two commands that only look."""

from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli import start, stop
from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import SEVERITY_STYLE, harmless, note, on_terminal, print_json, state_text, terminal
from lmx_ledger.cli.events import Follow, Since, default_count, moment, severity_of
from lmx_ledger.cli.models import show_models
from lmx_ledger.cli.options import ApiKey, AsJson, AsJsonLines, Home, Port, Url, url_of
from lmx_ledger.cli.source import Wanted, follow, newest, open_source
from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_bytes, show_duration
from lmx_ledger.ledger.log_lines import render

_STATUS_EXAMPLE: Final = "Example: lmx serve status --json"
_LOGS_EXAMPLE: Final = "Example: lmx serve logs -f --level warning --time"
_BACK: Final = 10

group = typer.Typer(
    help="Start, stop and look at the daemon.",
    epilog="Example: lmx serve start --detach",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@group.callback()
def _serve() -> None:
    """Start, stop and look at the daemon."""


group.command("start", epilog=start.EXAMPLE)(start.start)
group.command("stop", epilog=stop.EXAMPLE)(stop.stop)


@group.command("status", epilog=_STATUS_EXAMPLE)
def status(port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Health and load of the daemon and its models."""
    connection = Connection(url_of(url, port), api_key)
    answer = connection.get("/lmx/status")
    ready = connection.readiness()
    if as_json:
        print_json({**answer, "ready": ready})
        return
    rows = _facts(connection.url, answer, ready)
    if not on_terminal():
        for name, value in rows:
            typer.echo(f"{name}\t{harmless(str(value))}")
        for model in answer["models"]:
            typer.echo(f"model\t{harmless(model['id'])}\t{model['state']}")
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(harmless(value)))
    console = terminal()
    console.print(table)
    console.print()
    show_models(answer["models"])


def _facts(url: str, answer: dict[str, Any], ready: dict[str, Any]) -> list[tuple[str, str | Text]]:
    memory, prefill, ttft = answer["memory"], answer["prefill_tps"], answer["ttft_p95_ms"]
    state = state_text(answer["state"])
    state.append(f", stage {answer['stage']}, ready: {ready.get('status', '?')}", style="default")
    if ready.get("reason"):
        state.append(f" ({harmless(ready['reason'])})", style="default")
    used = f"{show_bytes(memory['used_bytes'])} of {show_bytes(memory['limit_bytes'])} ({memory['used_fraction']:.1%})"
    return [
        ("daemon", f"lmx {answer['version']} on {url}, up {show_duration(answer['uptime_s'])}"),
        ("state", state),
        ("requests", f"{answer['in_flight']} in flight, {answer['queued']} waiting"),
        ("decode", f"{answer['decode_tps']:g} tokens/s over the last 10 s"),
        ("prefill", f"{prefill:g} tokens/s" if prefill else "nothing read yet"),
        ("first token", f"{show_duration(ttft / 1000)} (p95)" if ttft else "none yet"),
        ("memory", used),
        ("ledger", f"{answer['ledger']['seq']:,} events, {answer['ledger']['queue']} on their way"),
    ]


@group.command("logs", epilog=_LOGS_EXAMPLE)
def logs(
    following: Follow = False,
    since: Since = None,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help="At least debug, info, warning, error, critical.")
    ] = "info",
    with_time: Annotated[bool, typer.Option("--time", help="Put the time in front.")] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", min=1, help="At most so many.", show_default="100; 1000 when piped"),
    ] = None,
    home: Home = None,
    as_json: AsJsonLines = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """The ledger as log lines: from the daemon, or from the file where none answers."""
    wanted = Wanted(since_us=moment(since, "--since"), severity=severity_of(level, "--level"))
    source = open_source(Connection(url, api_key), home)
    if following:
        back = limit if limit is not None or since is not None else _BACK
        try:
            for event in follow(source, wanted, back):
                _log_line(event, with_time=with_time, as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
        return
    found, cut = newest(source, wanted, limit or default_count(as_json))
    if as_json:
        print_json({"lines": [_as_data(event, with_time=with_time) for event in found], "complete": not cut})
        return
    for event in found:
        _log_line(event, with_time=with_time, as_json=False)
    if not found:
        note("nothing has been logged")


def _log_line(event: Recorded, *, with_time: bool, as_json: bool) -> None:
    if as_json:
        print_json(_as_data(event, with_time=with_time), line=True)
    elif on_terminal():
        line = Text(render(event, with_time=with_time), style=SEVERITY_STYLE[event.severity.label])
        terminal().print(line, soft_wrap=True)
    else:
        typer.echo(render(event, with_time=with_time))


def _as_data(event: Recorded, *, with_time: bool) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "time": rfc3339(event.time_us),
        "severity": event.severity.label,
        "line": render(event, with_time=with_time),
    }
