"""`lmx models`: the models that the daemon serves."""

from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import harmless, on_terminal, print_json, state_text, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, Url
from lmx_ledger.core.units import show_bytes

EXAMPLE: Final = "Example: lmx models list"

group = typer.Typer(
    help="The models that the daemon serves.", epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich"
)


@group.callback()
def _models() -> None:
    """The models that the daemon serves."""


@group.command("list", epilog=EXAMPLE)
def list_models(as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List them: id, aliases, state, context, weights."""
    answer = Connection(url, api_key).get("/lmx/models")
    if as_json:
        print_json(answer)
    elif on_terminal():
        show_models(answer["models"])
    else:
        for model in answer["models"]:
            fields = (model["id"], ",".join(model["aliases"]), model["state"], model["context"], model["weights_bytes"])
            typer.echo("\t".join(harmless(str(field)) for field in fields))


def show_models(models: list[dict[str, Any]]) -> None:
    """The table for people; why a model is not served stands under it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("model", "aliases", "state"):
        table.add_column(name, overflow="fold")
    for name in ("context", "weights", "in flight"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in models:
        table.add_row(
            Text(harmless(model["id"]), style="bold"),
            Text(harmless(", ".join(model["aliases"])) or "-"),
            state_text(model["state"]),
            f"{model['context']:,}" if model["context"] else "-",
            show_bytes(model["weights_bytes"]) if model["weights_bytes"] else "-",
            str(model["in_flight"]),
        )
    console = terminal()
    console.print(table)
    for model in models:
        if model["failure"]:
            console.print(Text(f"{model['id']}: {harmless(model['failure'])}", style="red"))
