"""`lmx serve load | unload | reload | pin | unpin | page-out | memory`: what is in memory, and an operator's orders."""

from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import harmless, on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, Port, Url, url_of
from lmx_ledger.core.units import parse_bytes, show_bytes, show_duration

_LOAD_S: Final = 900.0
"""What a load may take before this side gives up waiting; the daemon has its own bound."""

Model = Annotated[str, typer.Option("--model", metavar="ID", help="Which one.")]


def register(group: typer.Typer) -> None:
    """Put the commands into `lmx serve`."""
    for name, command, example in (
        ("load", load, "lmx serve load --model qwen3-8b"),
        ("unload", unload, "lmx serve unload --model qwen3-8b"),
        ("reload", reload, "lmx serve reload --model qwen3-8b"),
        ("pin", pin, "lmx serve pin --model qwen3-8b"),
        ("unpin", unpin, "lmx serve unpin --model qwen3-8b"),
        ("page-out", page_out, "lmx serve page-out --model qwen3-8b --free 2GB"),
        ("memory", memory, "lmx serve memory"),
    ):
        group.command(name, epilog=f"Example: {example}")(command)


def load(model: Model, port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Have a model in memory, all of it; of the store as well."""
    _order("load", model, Connection(url_of(url, port), api_key), as_json=as_json)


def unload(model: Model, port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """End a model's worker and give back all of its memory; its next request loads it again."""
    _order("unload", model, Connection(url_of(url, port), api_key), as_json=as_json)


def reload(model: Model, port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Read a model's files anew; where they cannot be served, it stays as it is."""
    _order("reload", model, Connection(url_of(url, port), api_key), as_json=as_json)


def pin(model: Model, port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Keep a model's weights in memory, whatever else needs room; across restarts."""
    _order("pin", model, Connection(url_of(url, port), api_key), as_json=as_json)


def unpin(model: Model, port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """Let a model's weights leave memory again when others need room."""
    _order("unpin", model, Connection(url_of(url, port), api_key), as_json=as_json)


def page_out(
    model: Annotated[str, typer.Option("--model", metavar="ID", help="Whose weights.")],
    free: Annotated[
        str | None, typer.Option("--free", metavar="SIZE", help="At least so much, layer by layer; else all.")
    ] = None,
    port: Port = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Take a model's weights out of memory; its next request has them read again, without being refused."""
    try:
        size = parse_bytes(free) if free is not None else 0
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--free") from None
    moved = Connection(url_of(url, port), api_key).post("/lmx/models/page-out", {"model": model, "bytes": size})
    if as_json:
        print_json(moved)
        return
    now = moved["model"]
    took = show_duration(moved["ms"] / 1e3)
    typer.echo(
        f"{harmless(now['id'])}: {moved['layers']} layers out, {show_bytes(moved['bytes'])} free in {took}, "
        f"{show_bytes(moved['written_bytes'])} written; {show_bytes(now['resident_bytes'])} in memory"
    )


def memory(port: Port = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """The account of memory, line by line."""
    found = Connection(url_of(url, port), api_key).get("/lmx/memory")
    if as_json:
        print_json(found)
        return
    rows = [_row(line["model"], line) for line in found["accounts"]]
    columns = ("model", "weights", "paged out", "KV in use", "KV at rest", "working", "spare", "in all")
    if on_terminal():
        table = Table(box=None, pad_edge=False, header_style="dim")
        for number, name in enumerate(columns):
            table.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=bool(number))
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console = terminal()
        if rows:
            console.print(table)
            console.print()
        for name, value in _totals(found):
            console.print(Text.assemble((f"{name:<10}", "dim"), value))
    else:
        for row in rows:
            typer.echo("\t".join(row))
        for name, value in _totals(found):
            typer.echo(f"{name:<10}{value}")


def _order(order: str, model: str, connection: Connection, *, as_json: bool) -> None:
    done = connection.post(f"/lmx/models/{order}", {"model": model}, patience_s=_LOAD_S)
    if as_json:
        print_json(done)
        return
    now = done["model"]
    pinned = ", pinned" if now["pinned"] else ""
    typer.echo(f"{harmless(now['id'])}: {now['state']}{pinned}, {show_bytes(now['resident_bytes'])} in memory")


def _row(name: str, line: dict[str, Any]) -> tuple[str, ...]:
    sizes = ("weights", "paged", "kv", "kept", "working", "spare", "total")
    return (harmless(name), *(show_bytes(line[f"{size}_bytes"]) for size in sizes))


def _totals(found: dict[str, Any]) -> list[tuple[str, str]]:
    limit, lowered = show_bytes(found["limit_bytes"]), ""
    if found["limit_bytes"] < found["configured_bytes"]:
        lowered = f", lowered from {show_bytes(found['configured_bytes'])} because others need memory"
    shares = f"over {found['page_at']:.0%} what is idle goes, down to {found['page_to']:.0%}"
    told = [
        ("reserved", f"{show_bytes(found['used_bytes'])} of {limit} ({found['used_fraction']:.0%})"),
        ("limit", f"{limit}{lowered}; {shares}"),
        ("taken", f"{show_bytes(found['measured_bytes'])} by the workers"),
        ("nobody's", show_bytes(found["reserved_bytes"])),
    ]
    if found["others_bytes"]:
        told.append(("others", f"{show_bytes(found['others_bytes'])} by other daemons of this home"))
    if (waiting := found["waiting"]) is not None:
        told.append(("waiting", f"{harmless(waiting['model'])}, for room for {waiting['for']}"))
    return told
