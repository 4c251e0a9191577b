"""`lmx sessions`: conversations, what is kept of them, what their misses cost, and how one is erased."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import harmless, note, on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.core.clock import parse_rfc3339, utc_us
from lmx_ledger.core.units import show_bytes, show_duration

if TYPE_CHECKING:
    from lmx_ledger.ledger.query import Reader
    from lmx_ledger.session.book import Entry

EXAMPLE: Final = "Example: lmx sessions list"

_ABOUT: Final = "Conversations: what is kept of them, and what misses cost."
_LISTED: Final = 50

group = typer.Typer(help=_ABOUT, epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich")

Id = Annotated[str, typer.Argument(metavar="ID", help="As listed.", show_default=False)]


@group.callback()
def _sessions() -> None:
    """Conversations: what is kept of them, and what misses cost."""


@group.command("list", epilog=EXAMPLE)
def list_sessions(
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most so many.")] = _LISTED,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List conversations, the last used first, and what misses cost by reason; without a daemon from the ledger."""
    connection = Connection(url, api_key)
    try:
        answer = connection.get("/lmx/sessions", {"limit": limit})
    except NoDaemon as nobody:
        answer = _listed_offline(connection, home, limit, nobody)
    if as_json:
        print_json(answer)
    elif on_terminal():
        _show(answer)
    else:
        for row in answer["sessions"]:
            numbers = (row["turns"], row["tokens"], row["prompt_tokens"], row["cached_tokens"])
            sizes = ("" if size is None else size for size in (row["ram_bytes"], row["disk_bytes"]))
            fields = (row["id"], row["model"], row["last"], *numbers, *sizes)
            typer.echo("\t".join(harmless(str(field)) for field in fields))


@group.command("show", epilog="Example: lmx sessions show my-agent")
def show_session(
    id: Id,  # noqa: A002
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show a conversation turn by turn: what was cached, what was computed, and why."""
    connection = Connection(url, api_key)
    try:
        answer = connection.get(f"/lmx/sessions/{quote(id, safe='')}")
    except NoDaemon as nobody:
        answer = _shown_offline(connection, home, id, nobody)
    if as_json:
        print_json(answer)
        return
    for row in answer["sessions"]:
        _show_one(row)
    _show_turns(answer["turns"])


@group.command("rm", epilog="Example: lmx sessions rm my-agent --yes")
def remove_session(
    id: Id,  # noqa: A002
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Erase what is kept of a conversation, in memory and on disk; what others begin with as well stays."""
    if not (yes or as_json) and sys.stdin.isatty():
        typer.confirm(f"Erase the KV of session {harmless(id)}?", abort=True, err=True)
    connection = Connection(url, api_key)
    try:
        done = connection.delete(f"/lmx/sessions/{quote(id, safe='')}")
    except NoDaemon as nobody:
        done = _removed_offline(connection, home, id, nobody)
    if as_json:
        print_json(done)
    else:
        typer.echo(f"Erased {harmless(id)}: {show_bytes(done['erased_bytes'])}.")


# --- without a daemon ------------------------------------------------------------------------------------------------


def _known_offline(
    connection: Connection, home: Path | None, session: str | None, nobody: NoDaemon
) -> "tuple[Path, Reader, list[Entry]]":
    from lmx_ledger.ledger.history import History  # noqa: PLC0415 - HTTP does without SQLAlchemy
    from lmx_ledger.ledger.projection import FILE  # noqa: PLC0415
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415
    from lmx_ledger.session.book import entries  # noqa: PLC0415

    file = home_folder(home) / "ledger.db"
    if not connection.is_local or not file.exists():
        raise nobody
    reader = Reader.open(file)
    return file, reader, entries(file.with_name(FILE), History(file, reader), session=session)


def _listed_offline(connection: Connection, home: Path | None, limit: int, nobody: NoDaemon) -> dict[str, Any]:
    from lmx_ledger.session.report import shown, shown_totals  # noqa: PLC0415

    _, reader, known = _known_offline(connection, home, None, nobody)
    reader.close()
    rows = [shown(entry, None, in_flight=False) for entry in known[:limit]]
    return {"sessions": rows, "count": len(known), "totals": shown_totals(known)}


def _shown_offline(connection: Connection, home: Path | None, session: str, nobody: NoDaemon) -> dict[str, Any]:
    from lmx_ledger.session.report import shown, turns  # noqa: PLC0415

    _, reader, known = _known_offline(connection, home, session, nobody)
    try:
        if not known:
            raise Failure(f"there is no session {harmless(session)!r}; the known ones: lmx sessions list")
        rows = [shown(entry, None, in_flight=False) for entry in known]
        return {"sessions": rows, "turns": turns(reader, session)}
    finally:
        reader.close()


def _removed_offline(connection: Connection, home: Path | None, session: str, nobody: NoDaemon) -> dict[str, Any]:
    from lmx_ledger.core import events as ev  # noqa: PLC0415
    from lmx_ledger.core.ids import new_ulid  # noqa: PLC0415
    from lmx_ledger.ledger.writer import Ledger  # noqa: PLC0415
    from lmx_ledger.session.book import ERASED  # noqa: PLC0415
    from lmx_ledger.session.files import erase_files  # noqa: PLC0415

    file, reader, known = _known_offline(connection, home, session, nobody)
    reader.close()
    if not known:
        raise Failure(f"there is no session {harmless(session)!r}; the known ones: lmx sessions list")
    erased = 0
    ledger = Ledger.open(file, boot=new_ulid(), synchronous="FULL", notice=note)
    try:
        ordered = ev.OperatorCommanded(command="sessions.rm", arguments={"session": session}, via="cli")
        order = ledger.emit(ev.Event(data=ordered, stream=f"session:{session}", session=session))
        for entry in known:
            freed = 0
            for fingerprint, form in {(end.fingerprint, end.form) for end in entry.ends}:
                names = [bytes.fromhex(end.end) for end in entry.ends if end.form == form]
                freed += erase_files(file.parent, fingerprint, form, names)
            gone = ev.KvEvicted(pieces=len(entry.ends), bytes=freed, reason=ERASED)
            ledger.emit(
                ev.Event(data=gone, stream=f"session:{session}", session=session, model=entry.model, cause=order)
            )
            erased += freed
    except BlockingIOError:
        raise Failure("another process has these files; erase the session there, or stop that one first") from None
    except OSError as error:
        raise Failure(f"nothing more was erased: {error}; try again") from None
    finally:
        ledger.close()
    return {"id": session, "erased_bytes": erased}


# --- for people ------------------------------------------------------------------------------------------------------


def _show(answer: dict[str, Any]) -> None:
    rows, totals = answer["sessions"], answer["totals"]
    if not rows:
        note("no conversation yet; begin one with: lmx chat")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("session", overflow="fold", min_width=30)
    table.add_column("model", overflow="fold")
    table.add_column("last", no_wrap=True)
    for name in ("turns", "tokens", "cached", "memory", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text(harmless(row["id"]), style="bold"),
            Text(harmless(row["model"])),
            "now" if row["in_flight"] else _ago(row["last"]),
            f"{row['turns']:,}",
            f"{row['tokens']:,}",
            _share(row["cached_tokens"], row["prompt_tokens"]),
            _size(row["ram_bytes"]),
            _size(row["disk_bytes"]),
        )
    terminal().print(table)
    if answer["count"] > len(rows):
        note(f"{answer['count'] - len(rows)} more; see them with --limit")
    _show_costs(totals)


def _show_costs(totals: dict[str, Any]) -> None:
    console = terminal()
    cached = _share(totals["cached_tokens"], totals["prompt_tokens"])
    console.print()
    console.print(Text(f"{cached} of all prompt tokens came from kept KV; {totals['hits']:,} hits.", style="dim"))
    if totals["misses"]:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("misses, by reason")
        for name in ("times", "computed again", "about"):
            table.add_column(name, justify="right", no_wrap=True)
        for reason, cost in totals["misses"].items():
            table.add_row(reason, f"{cost['times']:,}", f"{cost['lost_tokens']:,}", _ms(cost["cost_ms"]))
        console.print(table)
    for advice in totals["advice"]:
        console.print(
            Text(f"{advice['breaker']} broke the prefix {advice['times']:,} times: {advice['mend']}.", style="yellow")
        )


def _show_one(row: dict[str, Any]) -> None:
    grid = Table.grid(padding=(0, 2))
    cached = _share(row["cached_tokens"], row["prompt_tokens"])
    grid.add_row("session", Text(harmless(row["id"]), style="bold"))
    grid.add_row("model", Text(harmless(row["model"])))
    grid.add_row("last", "now" if row["in_flight"] else f"{_ago(row['last'])} ago")
    grid.add_row("turns", f"{row['turns']:,}")
    grid.add_row("kept", f"{row['tokens']:,} tokens; memory {_size(row['ram_bytes'])}, disk {_size(row['disk_bytes'])}")
    grid.add_row("prompts", f"{row['prompt_tokens']:,} tokens, {cached} of them cached")
    terminal().print(grid)
    terminal().print()


def _show_turns(turns: list[dict[str, Any]]) -> None:
    if not turns:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("turn", no_wrap=True)
    for name in ("prompt", "cached", "computed", "first token"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("cache", overflow="fold")
    for turn in turns:
        prompt = turn.get("prompt_tokens")
        table.add_row(
            Text(turn["request"]),
            f"{prompt:,}" if prompt is not None else "-",
            _number(turn.get("reused_tokens")),
            _number(turn.get("computed_tokens")),
            _ms(turn.get("ttft_ms")),
            Text(_why(turn)),
        )
    terminal().print(table)


def _why(turn: dict[str, Any]) -> str:
    if turn.get("cache") != "missed":
        return str(turn.get("cache", turn["state"]))
    parts = [turn["reason"]]
    if turn["diverged_at"] is not None:
        parts.append(f"at token {turn['diverged_at']:,}")
    if turn["message_index"] is not None:
        parts.append(f"in message {turn['message_index']} ({harmless(turn['role'])})")
    elif turn["role"] is not None:
        parts.append(f"in the {harmless(turn['role'])}")
    if turn["breaker"] is not None:
        parts.append(f"by {turn['breaker']}")
    if turn["lost_tokens"]:
        parts.append(f"{turn['lost_tokens']:,} tokens again, about {_ms(turn['cost_ms'])}")
    return ", ".join(parts)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _size(value: int | None) -> str:
    return "-" if value is None else show_bytes(value)


def _ms(value: float | None) -> str:
    return "-" if value is None else show_duration(value / 1e3)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _ago(moment: str) -> str:
    past_us = utc_us() - parse_rfc3339(moment)
    if past_us < 86_400_000_000:
        return show_duration(max(past_us, 0) // 1_000_000)
    return datetime.fromtimestamp((utc_us() - past_us) / 1e6, UTC).strftime("%Y-%m-%d")
