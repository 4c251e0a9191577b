"""The options that commands share, each written once."""

import enum
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from lmx_ledger.cli.connection import DEFAULT_URL, home_folder

_CONNECTION: Final = "Connection"

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Where the daemon is.", show_default=DEFAULT_URL, rich_help_panel=_CONNECTION
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="LMX_API_KEY",
        help="Key to send, where the daemon asks for one.",
        rich_help_panel=_CONNECTION,
    ),
]
Home: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="Folder of the ledger and the run files.", show_default="LMX_HOME or ~/.lmx"
    ),
]
ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration to read.", show_default="HOME/config.toml if there"),
]
Port: TypeAlias = Annotated[
    int | None, typer.Option("--port", metavar="N", min=1, max=65535, help="Short for --url on this machine.")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
AsJsonLines: TypeAlias = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; with -f one object per line.")
]


class Form(enum.StrEnum):
    """Of a report."""

    MD = "md"
    HTML = "html"
    JSON = "json"


FormOption: TypeAlias = Annotated[
    Form | None, typer.Option("--format", help="md, html (one file, offline) or json.", show_default="md")
]
Out: TypeAlias = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it there.")]
Into: TypeAlias = Annotated[
    Path | None,
    typer.Option("--into", metavar="FOLDER", help="Write all three forms there, and an index of its reports."),
]


def url_of(url: str | None, port: int | None) -> str | None:
    """The URL that `--url` and `--port` name together.

    Raises:
        typer.BadParameter: both are given.
    """
    if port is None:
        return url
    if url is not None:
        raise typer.BadParameter("give --url or --port, not both", param_hint="--port")
    return f"http://127.0.0.1:{port}"


def stored_models(incomplete: str) -> list[str]:
    """What the tab key offers for a model: the embedded one and those of the store."""
    from lmx_ledger.store import embedded, shelf  # noqa: PLC0415
    from lmx_ledger.store.errors import StoreError  # noqa: PLC0415

    try:
        names = [embedded.ID, *(model.id for model in shelf.list_models(home_folder(None)))]
    except StoreError:
        names = [embedded.ID]
    return [name for name in names if name.startswith(incomplete)]
