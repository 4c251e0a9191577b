"""`lmx drill`: a rehearsal, labelled as such in the ledger."""

from typing import Annotated, Any, Final

import typer

from lmx_ledger.cli.connection import Connection
from lmx_ledger.cli.display import harmless, print_json
from lmx_ledger.cli.options import ApiKey, AsJson, Port, Url, url_of
from lmx_ledger.core.units import parse_bytes, parse_duration, show_duration

EXAMPLE: Final = "Example: lmx drill thermal --gpu-drop 21% --for 60s"

_STATUS: Final = "status"
_STOP: Final = "stop"
_Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        help="thermal, swap, memory, slow-disk, engine-crash, engine-hang or flood; status and stop: of the one that "
        "goes on.",
    ),
]


def drill(
    kind: _Kind,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long it lasts.")] = "60s",
    gpu_drop: Annotated[
        str | None,
        typer.Option("--gpu-drop", metavar="SHARE", help="thermal: by how much the GPU's clock drops (21%)."),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option("--limit", metavar="SHARE", help="memory: how much of its limit other programs leave (50%)."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="SIZE", help="slow-disk: so many bytes per second (2MB).")
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--sessions", help="flood: so many clients, with new sessions (100).")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="slow-disk, engine-*: whose worker.")] = None,
    port: Port = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Rehearse trouble: readings or faults that are made up, through the same path as real ones."""
    connection = Connection(url_of(url, port), api_key)
    if kind == _STATUS:
        found = connection.get("/lmx/drills")
    else:
        order: dict[str, Any] = {"kind": kind}
        if kind != _STOP:
            order |= {
                "for_s": _read(parse_duration, "--for", for_),
                "gpu_drop": _read(_share, "--gpu-drop", gpu_drop),
                "limit": _read(_share, "--limit", limit),
                "bytes_per_s": _read(parse_bytes, "--rate", rate),
                "sessions": clients,
                "model": model,
            }
        found = connection.post("/lmx/drills", {name: value for name, value in order.items() if value is not None})
    if as_json:
        print_json(found)
        return
    running = found["running"]
    if running is None:
        typer.echo("No drill goes on." if found["enabled"] else "No drill goes on, and drills are disabled.")
        return
    typer.echo(
        f"A drill goes on: {harmless(running['kind'])} for {show_duration(running['for_s'])}, event "
        f"{running['event']}. Every event meanwhile is labelled."
    )
    typer.echo("Watch it with lmx serve logs -f, end it with lmx drill stop.")


def _share(text: str) -> float:
    """`21%` or `0.21`.

    Raises:
        ValueError: it is neither.
    """
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"{text!r} is no share; write it like 21% or 0.21") from None
    return value / 100 if percent else value


def _read(parse: Any, option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
