"""The options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

from lmx_ledger.cli.connection import Connection, reach_url

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="One JSON document; with -f one object per line.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Where the daemon is.", show_default="LMX_URL or http://127.0.0.1:3456"),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", metavar="KEY", help="Key, where it has keys.", show_default="LMX_API_KEY")
]
Home = Annotated[
    Path | None, typer.Option("--home", metavar="DIR", help="Home folder.", show_default="LMX_HOME or ~/.lmx")
]
Port = Annotated[int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="Port on this machine.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration file.", show_default="HOME/config.toml if there"),
]
Model = Annotated[str | None, typer.Option("--model", metavar="M", help="Of this model.")]


def url_of(url: str | None, port: int | None) -> str | None:
    """The URL that `--url` or `--port` names; None when neither was given.

    Raises:
        typer.BadParameter: they name different ports.
    """
    if port is None:
        return url
    if url is not None and Connection(url).port != port:
        raise typer.BadParameter("--url and --port name different ports", param_hint="--port")
    return url or reach_url("127.0.0.1", port)
