"""`lmx serve`: start, stop, status and logs of the daemon."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from lmx_ledger.cli import residency, start, stop, watch
from lmx_ledger.cli.connection import Connection, Failure
from lmx_ledger.cli.display import SEVERITY_STYLE, harmless, note, on_terminal, print_json, state_text, terminal
from lmx_ledger.cli.events import Follow, Since, default_count, moment, severity_of
from lmx_ledger.cli.models import show_models
from lmx_ledger.cli.options import ApiKey, AsJson, AsJsonLines, Home, Port, Url, url_of
from lmx_ledger.cli.source import follow, newest, open_source, opened
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_bytes, show_duration
from lmx_ledger.ledger.filter import EventFilter

EXAMPLE: Final = "Example: lmx serve start --detach"

_BACK: Final = 20

group = typer.Typer(
    help="Start, stop and watch the daemon.", epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich"
)
group.command("start", epilog=start.EXAMPLE)(start.start)
group.command("stop", epilog=stop.EXAMPLE)(stop.stop)
group.command("metrics", epilog=watch.EXAMPLE)(watch.metrics)
residency.register(group)


@group.command("status", epilog="Example: lmx serve status --json")
def status(
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="WHEN", help="As it was then, from the ledger: 10m, or 2026-01-31T09:30:00Z."),
    ] = None,
    home: Home = None,
    port: Port = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Health and saturation, now or as they were at a moment."""
    connection = Connection(url_of(url, port), api_key)
    if (at_us := moment(at, "--at")) is None:
        found = connection.get("/lmx/status")
        facts = [] if as_json else _facts(found, connection.url, connection.readiness())
    else:
        asked = {"at": at} if port is None else {"at": at, "port": port}
        there = connection.answers()
        found = connection.get("/lmx/status", asked) if there else _from_file(connection, home, at_us, port)
        facts = [] if as_json else _facts_then(found)
    if as_json:
        print_json(found)
        return
    if not on_terminal():
        for name, value in facts:
            typer.echo(f"{name:<10}{value.plain}")
        for model in found["models"]:
            typer.echo(f"{'model':<10}{harmless(model['id'])} {model['state']}, {model['in_flight']} in flight")
    else:
        console = terminal()
        for name, value in facts:
            console.print(Text.assemble((f"{name:<10}", "dim"), value))
        console.print()
        show_models(found["models"])
    for other in found.get("others", ()):
        where = (
            f"on port {other['port']}; for it: --port {other['port']}" if other["port"] else "of which little is known"
        )
        note(f"another daemon was {other['state']} then, {where}")


def _from_file(connection: Connection, home: Path | None, at_us: int, port: int | None) -> dict[str, Any]:
    """The status at that moment, from the ledger file and what is folded beside it.

    Raises:
        NoDaemon: there is no ledger either.
        Failure: it tells nothing of that moment.
    """
    from lmx_ledger.ledger.history import History  # noqa: PLC0415 - with the ledger's room comes SQLAlchemy
    from lmx_ledger.ledger.projection import FILE  # noqa: PLC0415
    from lmx_ledger.serving.status import NothingThen, public, status_at  # noqa: PLC0415

    with opened(connection, home) as ground:
        history = History(ground.file, ground.reader)
        try:
            return public(status_at(history, ground.file.with_name(FILE), at_us, utc_us()), port)
        except NothingThen as nothing:
            raise Failure(str(nothing)) from None


def _facts_then(found: dict[str, Any]) -> list[tuple[str, Text]]:
    """What events tell of it; the rest is left out, not guessed."""
    event, ttft, prefill = found["event"], found["ttft_p95_ms"], found["prefill_tps"]
    version = "-"
    if found["uptime_s"] is not None:
        lived = "up" if found["ended"] is None else "was up"
        version = f"{harmless(found['version'])}, {lived} {show_duration(found['uptime_s'])}"
    state = Text.assemble(state_text(found["state"]), "" if found["ended"] is None else f" {found['ended']}")
    return [
        ("as of", Text(f"{found['as_of']}, event {event['seq']:,} ({event['time']})")),
        ("port", Text(str(found["port"] or "-"))),
        ("version", Text(version)),
        ("boot", Text(harmless(found["boot"]))),
        ("state", state),
        ("requests", Text(f"{found['in_flight']} in flight, {found['queued']} queued")),
        ("prefill", Text("-" if prefill is None else f"{prefill:,.1f} tokens/s")),
        ("TTFT p95", Text("-" if ttft is None else show_duration(ttft / 1000))),
        ("memory", Text(f"{show_bytes(found['memory']['weights_bytes'])} of weights resident")),
    ]


def _facts(found: dict[str, Any], url: str, ready: dict[str, Any]) -> list[tuple[str, Text]]:
    memory, ledger, ttft = found["memory"], found["ledger"], found["ttft_p95_ms"]
    unready = "" if ready["status"] in {"ok", found["state"]} else f" ({ready['status']}: {ready['reason']})"
    reasons = f" ({', '.join(found['reasons'])})" if found["reasons"] else ""
    stage = f", stage {found['stage']}{', safe mode' if found['safe_mode'] else ''}{reasons}"
    state = Text.assemble(state_text(found["state"]), unready, stage)
    drill = []
    if (running := found["drill"]) is not None:
        named = f"{harmless(running['kind'])} for {show_duration(running['for_s'])}, event {running['event']}"
        drill = [("drill", Text(f"{named}; what is shown is a rehearsal", style="bold magenta"))]
    wait = f"; the next one waits about {show_duration(found['wait_s'])}" if found["wait_s"] else ""
    held, trouble = show_bytes(memory["measured_bytes"]), f", {ledger['error']}" if ledger["error"] else ""
    return [
        ("url", Text(url)),
        ("version", Text(f"{found['version']}, up {show_duration(found['uptime_s'])}")),
        ("boot", Text(found["boot"])),
        ("state", state),
        *drill,
        ("requests", Text(f"{found['in_flight']} in flight, {found['queued']} of them waiting{wait}")),
        ("decode", Text(f"{found['decode_tps'] or 0:,.1f} tokens/s")),
        ("prefill", Text(f"{found['prefill_tps'] or 0:,.1f} tokens/s")),
        ("TTFT p95", Text("-" if ttft is None else show_duration(ttft / 1000))),
        (
            "memory",
            Text(
                f"{show_bytes(memory['used_bytes'])} of {show_bytes(memory['limit_bytes'])} reserved "
                f"({memory['used_fraction']:.0%}), {held} held by the workers"
            ),
        ),
        ("context", Text(f"up to {found['max_context_tokens']:,} tokens")),
        ("ledger", Text(f"event {ledger['seq']:,}, {ledger['queue']} waiting to be written{harmless(trouble)}")),
    ]


@group.command("logs", epilog="Example: lmx serve logs -f --since 10m --level warning --time")
def logs(
    following: Follow = False,
    since: Since = None,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help="At least debug, info, warning, error or critical.")
    ] = "info",
    with_time: Annotated[bool, typer.Option("--time", help="Put the time (UTC) in front.")] = False,
    home: Home = None,
    port: Port = None,
    as_json: AsJsonLines = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """The ledger, rendered as log lines."""
    wanted = EventFilter(severity=severity_of(level, "--level"), since_us=moment(since, "--since"))
    source = open_source(Connection(url_of(url, port), api_key), home)
    if following:
        try:
            _print_lines(follow(source, wanted, None if since else _BACK), with_time=with_time, as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
        return
    count = None if since else default_count(as_json=as_json)
    found, cut = newest(source, wanted, count)
    if as_json:
        print_json({"lines": [_line(event) for event in found], "complete": not cut})
    else:
        _print_lines(found, with_time=with_time, as_json=False)
    if not found:
        note(f"nothing to show at level {level}")
    if cut:
        note(f"these are the newest {count} lines; for more: --since 1d")


def _print_lines(events: Iterable[Recorded], *, with_time: bool, as_json: bool) -> None:
    from lmx_ledger.ledger.log_lines import render  # noqa: PLC0415 - with the ledger's room comes SQLAlchemy

    console = terminal() if on_terminal() else None
    for event in events:
        if as_json:
            print_json(_line(event), line=True)
        elif console:
            style = SEVERITY_STYLE[event.severity.label]
            console.print(Text(render(event, with_time=with_time), style=style), soft_wrap=True)
        else:
            typer.echo(render(event, with_time=with_time))


def _line(event: Recorded) -> dict[str, Any]:
    from lmx_ledger.ledger.log_lines import render  # noqa: PLC0415

    severity = event.severity.label
    return {"seq": event.seq, "time": rfc3339(event.time_us), "severity": severity, "line": render(event)}
