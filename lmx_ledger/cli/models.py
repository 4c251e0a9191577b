"""`lmx models`: the models that are served and stored, and how one comes and goes."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import harmless, note, on_terminal, print_json, state_text, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.core.units import show_bytes
from lmx_ledger.store import shelf
from lmx_ledger.store.errors import BadModelId, StoreError
from lmx_ledger.store.shelf import StoredModel

if TYPE_CHECKING:
    from lmx_ledger.store.pull import Pulled

EXAMPLE: Final = "Example: lmx models list"

_ABOUT: Final = "The models that are served and stored."
_HOW_TO_PULL: Final = "bring one with: lmx models pull ORG/NAME"
_SHORT_REVISION: Final = 7

group = typer.Typer(help=_ABOUT, epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich")


@group.callback()
def _models() -> None:
    """The models that are served and stored."""


@group.command("list", epilog=EXAMPLE)
def list_models(home: Home = None, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List what the daemon serves and what this machine's store has."""
    connection = Connection(url, api_key)
    try:
        stored = shelf.list_models(home_folder(home)) if connection.is_local else []
    except StoreError as error:
        raise Failure(str(error)) from None
    rows = merged(_served(connection, stored), stored)
    if as_json:
        print_json({"models": rows})
    elif on_terminal():
        _show(rows)
        if not stored and connection.is_local:
            note(f"no model is stored; {_HOW_TO_PULL}")
    else:
        for row in rows:
            size = row["bytes"] if row["bytes"] is not None else row["weights_bytes"]
            served = (",".join(row.get("aliases", ())), row["state"], row.get("context", ""), size)
            fields = (row["id"], *served, row["revision"] or "", row["pulled_at"] or "")
            typer.echo("\t".join(harmless(str(field)) for field in fields))


@group.command("pull", epilog="Example: lmx models pull mlx-community/Qwen3-4B-4bit")
def pull_model(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where it is on the hub: ORG/NAME.", show_default=False)],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="R", help="Branch, tag or commit.", show_default="the main branch"),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Bring a model from the hub into the store; a pull that broke off goes on where it was.

    HF_ENDPOINT names another hub, HF_TOKEN opens gated and private models.
    """
    connection = Connection(url, api_key)
    try:
        # 300 ms of imports that no other command needs.
        from lmx_ledger.cli.pull_bar import watched  # noqa: PLC0415
        from lmx_ledger.store.pull import pull  # noqa: PLC0415

        with watched(quiet=as_json) as progress:
            done = pull(repo, home_folder(home), revision, progress=progress)
    except KeyboardInterrupt:
        raise Failure("stopped; run it again to go on") from None
    except BadModelId as error:
        raise typer.BadParameter(harmless(str(error)), param_hint="REPO") from None
    except StoreError as error:
        raise Failure(harmless(str(error))) from None
    for line in done.notes:
        note(harmless(line))
    if as_json:
        print_json(
            {
                "id": done.id,
                "path": str(done.folder),
                "bytes": done.bytes,
                "revision": done.revision,
                "replaced_revision": done.replaced,
                "resumed_bytes": done.resumed_bytes,
                "fetched_bytes": done.fetched_bytes,
                "notes": list(done.notes),
            }
        )
    else:
        _say_pulled(done)
    if done.replaced in {None, done.revision}:
        return
    try:
        if at := _server_of(done.id, done.folder, connection, home, api_key):
            note(f"{at} goes on serving the revision before until it is started again")
    except Failure as failure:
        note(f"whether a daemon still serves the revision before is not known: {failure}")


@group.command("rm", epilog="Example: lmx models rm mlx-community/Qwen3-4B-4bit --yes")
def remove_model(
    name: Annotated[str, typer.Argument(metavar="ID", help="As listed, or its last part.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a stored model, or what an unfinished pull of it left. One that is served is kept."""
    connection = Connection(url, api_key)
    folder = home_folder(home)
    try:
        found = shelf.find(folder, name) or StoredModel(name, shelf.models_folder(folder) / name, 0)
        if at := _server_of(found.id, found.folder, connection, home, api_key):
            raise Failure(f"{found.id} is served at {at}; stop that first with: lmx serve stop, or serve another model")
        if found.bytes and not (yes or as_json) and sys.stdin.isatty():
            typer.confirm(f"Delete {found.id} ({show_bytes(found.bytes)}) from {found.folder}?", abort=True, err=True)
        freed = shelf.remove(folder, found.id)
    except BadModelId as error:
        raise typer.BadParameter(harmless(str(error)), param_hint="ID") from None
    except StoreError as error:
        raise Failure(harmless(str(error))) from None
    if as_json:
        print_json({"id": found.id, "path": str(found.folder), "freed_bytes": freed})
    else:
        typer.echo(f"Deleted {found.id}: {show_bytes(freed)} are free again.")


def merged(served: Sequence[dict[str, Any]], stored: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """One row per model: the daemon's with what the store knows of them, then those that are only stored."""
    rows, seen = [], set()
    for model in served:
        match = next((s for s in stored if model["id"] == s.id or model.get("path") == str(s.folder)), None)
        seen.add(match)
        rows.append({**model, **_of_store(match)})
    rest = [s for s in stored if s not in seen]
    return [*rows, *({"id": s.id, "state": "stored", "path": str(s.folder), **_of_store(s)} for s in rest)]


def show_models(models: list[dict[str, Any]]) -> None:
    """The table of what is served, for people; why a model is not stands under it."""
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
    terminal().print(table)
    _show_trouble(models)


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("model", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("revision", no_wrap=True)
    table.add_column("pulled", no_wrap=True)
    for row in rows:
        size = row["bytes"] if row["bytes"] is not None else row["weights_bytes"]
        name = Text(harmless(row["id"]), style="bold")
        if aliases := row.get("aliases"):
            name.append(f" {harmless(', '.join(aliases))}", style="not bold dim")
        table.add_row(
            name,
            state_text(row["state"]),
            show_bytes(size) if size else "-",
            harmless((row["revision"] or "-")[:_SHORT_REVISION]),
            harmless((row["pulled_at"] or "-")[:10]),
        )
    terminal().print(table)
    _show_trouble(rows)


def _show_trouble(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for trouble in filter(None, (row.get("failure"), row.get("problem"))):
            terminal().print(Text(harmless(f"{row['id']}: {trouble}"), style="red"))


def _of_store(model: StoredModel | None) -> dict[str, Any]:
    if model is None:
        return dict.fromkeys(("bytes", "revision", "pulled_at", "problem"))
    return {
        "bytes": model.bytes,
        "revision": model.revision,
        "pulled_at": model.pulled_at,
        "problem": model.problem,
    }


def _served(connection: Connection, stored: Sequence[StoredModel]) -> list[dict[str, Any]]:
    """What the daemon serves; without one the store alone is an answer, unless there is nothing in it."""
    try:
        models: list[dict[str, Any]] = connection.get("/lmx/models")["models"]
    except NoDaemon as nobody:
        if stored:
            return []
        raise NoDaemon(f"{nobody}; no model is stored either, {_HOW_TO_PULL}") from None
    return models


def _server_of(
    id: str,  # noqa: A002
    folder: Path,
    connection: Connection,
    home: Path | None,
    api_key: str | None,
) -> str | None:
    """The URL of a daemon that serves this model: of the one that was named, and of all of this home."""
    from lmx_ledger.daemon import runfile  # noqa: PLC0415

    own = {run.url: Connection(run.url, api_key) for run in runfile.all_of(home_folder(home))}
    for url, each in {**own, connection.url: connection}.items():
        try:
            models = each.get("/lmx/models")["models"]
        except NoDaemon:
            continue
        if any(model["id"] == id or model.get("path") == str(folder) for model in models):
            return url
    return None


def _say_pulled(done: "Pulled") -> None:
    what = f"{done.id} ({show_bytes(done.bytes)}, revision {done.revision[:_SHORT_REVISION]})"
    if done.replaced == done.revision and not done.fetched_bytes:
        typer.echo(f"{what} is here already, in {done.folder}")
    else:
        before = f"; {show_bytes(done.resumed_bytes)} of it were here from before" if done.resumed_bytes else ""
        typer.echo(f"Pulled {what} to {done.folder}{before}")
    typer.echo(f"Serve it with: lmx serve start --model {done.id}")
