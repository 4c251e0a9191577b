"""`lmx doctor`: what is wrong with this machine, and how to mend it."""

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import harmless, on_terminal, print_json, state_text, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, ConfigFile, Home, Port, Url, url_of

if TYPE_CHECKING:
    from lmx_ledger.cli.checks import Check

EXAMPLE: Final = "Example: lmx doctor --home ~/.lmx"


def doctor(
    home: Home = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Check this machine; every warning comes with its mend."""
    from lmx_ledger.cli import checks  # noqa: PLC0415

    address = url_of(url, port)
    connection = Connection(address, api_key) if address else None
    # The checks take seconds (MLX is started, the ledger is walked): a person sees each as it is done.
    console = terminal(stderr=True)
    rows: list[checks.Check] = []
    with console.status("checking...") if console.is_terminal and not as_json else nullcontext() as status:
        for row in checks.all_checks(home, config, connection):
            rows.append(row)
            if status:
                status.update(f"{row.name}: {row.state}...")
    failed = sum(row.state == "fail" for row in rows)
    if as_json:
        print_json({"ok": not failed, "checks": [row._asdict() for row in rows]})
    else:
        _show(rows)
    if failed:
        names = ", ".join(row.name for row in rows if row.state == "fail")
        typer.echo(f"lmx: {failed} of {len(rows)} checks failed ({names}); each says how to mend it", err=True)
        raise typer.Exit(1)


def _show(rows: "Iterable[Check]") -> None:
    if not on_terminal():
        for row in rows:
            typer.echo("\t".join(map(harmless, (row.state, row.name, row.found, row.mend))))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for row in rows:
        found = Text(harmless(row.found))
        if row.mend:
            found.append(f"\n-> {harmless(row.mend)}", style="yellow" if row.state == "warn" else "red")
        table.add_row(state_text(row.state), row.name, found)
    terminal().print(table)
