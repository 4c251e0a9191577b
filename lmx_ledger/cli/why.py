"""`lmx why`: where each millisecond of a request went, and which events made it so; with and without a daemon."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon
from lmx_ledger.cli.display import harmless, note, print_json, terminal
from lmx_ledger.cli.events import moment
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.cli.source import Ground, opened, opened_bundle
from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.units import show_bytes, show_duration

if TYPE_CHECKING:
    from lmx_ledger.core.events import Recorded
    from lmx_ledger.incident.bundle.form import Manifest

EXAMPLE: Final = "Example: lmx why --last"

_SINCE: Final = {"slowest": "1h", "costs": "7d"}
_BAR: Final = 20
_ROWS: Final = 12
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_STATE: Final = {"finished": "green", "rejected": "yellow", "cancelled": "yellow", "running": "cyan"}


def why(
    request: Annotated[
        str | None,
        typer.Argument(metavar="REQUEST_ID", help="As in X-Request-ID or in an answer's id.", show_default=False),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="The request that ended last.")] = False,
    slowest: Annotated[
        int | None, typer.Option("--slowest", metavar="N", min=1, max=100, help="The N slowest, with their reasons.")
    ] = None,
    costs: Annotated[bool, typer.Option("--costs", help="What misses, waiting and page-ins cost in all.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="WHEN",
            help="With --slowest and --costs: from then on, 10m or a time.",
            show_default="1h; 7d with --costs",
        ),
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="With --slowest: wall, or ttft.")] = "wall",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="FILE", help="Ask that bundle of an incident, not a daemon or a ledger."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Explain a request: where its time went, part by part, and which events made it so; also from the ledger alone."""
    if sum((request is not None, last, slowest is not None, costs)) != 1:
        raise typer.BadParameter("name a request, or give one of --last, --slowest N, --costs", param_hint="REQUEST_ID")
    if since is not None and (request is not None or last):
        raise typer.BadParameter("it goes with --slowest and --costs", param_hint="--since")
    if by not in {"wall", "ttft"}:
        raise typer.BadParameter("wall or ttft", param_hint="--by")
    if bundle is not None and costs:
        raise typer.BadParameter("a bundle has the time of one incident only", param_hint="--costs")
    kind = "costs" if costs else "slowest" if slowest is not None else "one"
    from_us = moment(since or _SINCE[kind], "--since") if kind in _SINCE else None
    if bundle is not None:
        with opened_bundle(bundle) as ground:
            answer = _explained(ground, request, slowest, by, from_us if since else None)
    else:
        connection = Connection(url, api_key)
        try:
            answer = _from_daemon(connection, request, slowest, by, from_us, costs=costs)
        except NoDaemon:
            with opened(connection, home) as ground:
                answer = _costs(ground, from_us) if costs else _explained(ground, request, slowest, by, from_us)
    if as_json:
        print_json(answer)
    elif costs:
        _show_costs(answer)
    elif slowest is not None:
        _show_slowest(answer["slowest"], by, bundle)
    else:
        _show(answer, bundle)


def _from_daemon(
    connection: Connection, request: str | None, count: int | None, by: str, since_us: int | None, *, costs: bool
) -> Any:
    since = {} if since_us is None else {"since": rfc3339(since_us)}
    if costs:
        return connection.get("/lmx/why/costs", since)
    if count is not None:
        return connection.get("/lmx/why", {"slowest": count, "by": by, **since})
    if request is None:
        return connection.get("/lmx/why", {"last": ""})
    return connection.get(f"/lmx/why/{quote(request, safe='')}")


def _costs(ground: Ground, since_us: int | None) -> dict[str, Any]:
    from lmx_ledger.incident import costs as dear  # noqa: PLC0415 - HTTP does without

    told = dear.costs(dear.events_since(ground.reader, since_us))
    return {"since": rfc3339(max(since_us or 0, 0)), **told}


def _explained(ground: Ground, request: str | None, count: int | None, by: str, since_us: int | None) -> dict[str, Any]:
    import psutil  # noqa: PLC0415 - HTTP does without all of these

    from lmx_ledger.incident.evidence import gather  # noqa: PLC0415
    from lmx_ledger.incident.slowest import last_ended, slowest  # noqa: PLC0415
    from lmx_ledger.incident.why import why as explain  # noqa: PLC0415

    # Of a bundle's runs nothing is known but what is in it: what has no end there was going on then.
    is_alive = psutil.pid_exists if ground.bundle is None else _always
    zone = _here()
    if count is not None:
        return {"slowest": slowest(ground.reader, count, since_us, by, is_alive, zone), "by": by}
    wanted = request if request is not None else last_ended(ground.reader)
    if wanted is None:
        raise Failure("no request has ended yet; ask something, and look again")
    evidence = gather(ground.reader, wanted, is_alive)
    if evidence is None:
        raise Failure(_unknown(ground, wanted))
    answer = explain(evidence, zone).public()
    if ground.bundle is not None and not _is_inside(ground.bundle.manifest, evidence.own):
        said = "it began before the bundle's time, or ended behind it: of what happened around it not all is here"
        answer["notes"].insert(0, {"seq": evidence.own[0].seq, "text": said})
    return answer


def _is_inside(manifest: "Manifest", events: "Sequence[Recorded]") -> bool:
    return manifest.since_us <= events[0].time_us and events[-1].time_us < manifest.until_us


def _always(_: int) -> bool:
    return True


def _here() -> Any:
    from datetime import datetime  # noqa: PLC0415

    return datetime.now().astimezone().tzinfo


def _unknown(ground: Ground, wanted: str) -> str:
    from lmx_ledger.ledger.filter import EventFilter  # noqa: PLC0415

    named = harmless(wanted[:100])
    if ground.bundle is not None:
        return f"there is no request {named!r} in this bundle; some that are: lmx why --slowest 10 --bundle FILE"
    first = next((event.seq for event in ground.reader.events(EventFilter(limit=1))), 1)
    sealed = f"; events up to {first - 1:,} are sealed, and lmx ledger export has them" if first > 1 else ""
    return f"there is no request {named!r} in the ledger{sealed}; some that are: lmx why --slowest 10"


# --- for people ------------------------------------------------------------------------------------------------------


def _show(answer: dict[str, Any], bundle: Path | None) -> None:
    console = terminal()
    for one in answer["notes"]:
        said = Text(f"! {harmless(one['text'])}", style="yellow").append(f"  [{one['seq']}]", style="dim")
        _indented(console, said, 0)
    at = _clock(answer["time"])
    head = Text(harmless(answer["request"]), style="bold")
    head.append(f"  {answer['state']}", style=_STATE.get(answer["state"], "red"))
    about = [at, harmless(answer["model"] or ""), f"session {harmless(answer['session'])}" if answer["session"] else ""]
    head.append(f"  {', '.join(word for word in about if word)}", style="not bold dim")
    _indented(console, head, 0)
    _indented(console, Text(harmless(answer["text"])), 0)
    if not answer["parts"]:
        return
    widest = max(len(_label(part["name"])) for part in answer["parts"])
    for part in answer["parts"]:
        console.print()
        line = Text(f"{_label(part['name']):<{widest}}  ", style="bold")
        line.append(f"{_ms(part['ms']):>9}  {part['share']:>4.0%}  ", style="not bold")
        line.append(_bar(part["share"]), style="not bold cyan")
        line.append(f"  {harmless(part['means'])}", style="not bold dim")
        line.truncate(console.width, overflow="ellipsis")
        line.rstrip()
        console.print(line)
        for one in part["because"]:
            reason = Text(harmless(one["text"])).append(f"  [{one['seq']}]", style="dim")
            _indented(console, reason, 4)
    console.print()
    where = "of the bundle" if bundle is not None else "lmx events --request ID, or /lmx/events/n"
    console.print(Text(f"[n] is an event: {where}", style="dim"))


def _show_slowest(rows: list[dict[str, Any]], by: str, bundle: Path | None) -> None:
    if not rows:
        note("no request ended in that time" + ("" if bundle else "; look further back with --since 7d"))
        return
    console = terminal()
    for row in rows:
        state = row["state"]
        line = Text(f"{_ms(row['wall_ms' if by == 'wall' else 'ttft_ms']):>9}  ", style="bold")
        line.append(harmless(row["request"]), style="not bold")
        line.append(f"  {_clock(row['time'])}  {harmless(row['model'] or '')}", style="not bold dim")
        if state != "finished":
            line.append(f"  {state}", style=f"not bold {_STATE.get(state, 'red')}")
        console.print(line)
        told = Text(f"{_label(row['part'])} {_ms(row['part_ms'])}: ", style="cyan") if row["part"] else Text()
        told.append(harmless(row["reason"]), style="not bold default")
        _indented(console, told, 11)
    console.print()
    of_bundle = f" --bundle {shlex.quote(harmless(str(bundle)))}" if bundle is not None else ""
    console.print(Text(f"All of one: lmx why {rows[0]['request']}{of_bundle}", style="dim"), soft_wrap=True)


def _show_costs(answer: dict[str, Any]) -> None:
    console = terminal()
    requests = answer["requests"]
    if not requests and not answer["misses"] and not answer["page_ins"]:
        note("nothing was asked in that time; look further back with --since 30d")
        return
    console.print(Text(f"{requests:,} requests since {_day(answer['since'])}, {_ms(answer['wall_ms'])} in all."))
    console.print(Text("Of requests side by side each has its own time.", style="dim"))
    whole = answer["wall_ms"] or 1.0
    _table(
        "where their time went",
        ("requests", "time", "share"),
        [
            (f"{_label(p['name'])}: {p['means']}", f"{p['requests']:,}", _ms(p["ms"]), f"{p['ms'] / whole:.0%}")
            for p in answer["parts"]
        ],
    )
    _table(
        "KV that was missed, by reason",
        ("times", "computed again", "about"),
        [
            (
                harmless(m["reason"]) + (f", {harmless(m['breaker'])}" if m["breaker"] else ""),
                f"{m['times']:,}",
                f"{m['lost_tokens']:,}",
                _ms(m["ms"]) if m["lost_tokens"] else "-",
            )
            for m in answer["misses"]
        ],
    )
    _table(
        "weights that came back, by why they were out",
        ("times", "bytes", "time"),
        [
            (
                f"{harmless(p['model'])}, put out {harmless(p['why'])}",
                f"{p['times']:,}",
                show_bytes(p["bytes"]),
                _ms(p["ms"]),
            )
            for p in answer["page_ins"]
        ],
    )
    _table(
        "streams that started over, by reason",
        ("times", "read again", "time"),
        [
            (harmless(r["reason"]), f"{r['times']:,}", f"{r['reread_tokens']:,}", _ms(r["ms"]))
            for r in answer["resumes"]
        ],
    )
    _table(
        "sessions that lost most",
        ("computed again", "lost"),
        [(harmless(s["session"]), f"{s['lost_tokens']:,}", _ms(s["ms"])) for s in answer["sessions"]],
    )


def _indented(console: Console, text: Text, by: int) -> None:
    for line in text.wrap(console, console.width - by):
        line.rstrip()
        console.print(Text(" " * by).append_text(line))


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """The dearest rows, which come first."""
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows[:_ROWS]:
        table.add_row(*map(Text, row))
    terminal().print()
    terminal().print(table)
    if len(rows) > _ROWS:
        terminal().print(Text(f"and {len(rows) - _ROWS} more: --json has all", style="dim"))


def _label(part: str) -> str:
    return harmless(part).replace("_", " ")


def _bar(share: float) -> str:
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(_BAR)


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 9.95 else show_duration(value / 1e3)


def _clock(moment_text: str) -> str:
    from datetime import datetime  # noqa: PLC0415

    return f"{datetime.fromtimestamp(parse_rfc3339(moment_text) / 1e6).astimezone():%Y-%m-%d %H:%M:%S}"


def _day(moment_text: str) -> str:
    return _clock(moment_text)[:16]
