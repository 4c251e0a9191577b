"""`lmx serve start`: the daemon in this terminal, or in a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder, reach_url
from lmx_ledger.cli.display import on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, ConfigFile, stored_models

if TYPE_CHECKING:
    from lmx_ledger.core.config import Config
    from lmx_ledger.daemon.runfile import RunFile

EXAMPLE: Final = "Example: lmx serve start --port 3456 --model ~/models/qwen3-4b --detach"

_POLL_S: Final = 0.1
_END_S: Final = 60.0


def start(
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65535, help="Port to listen on.", show_default="3456"),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="H", help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    config: ConfigFile = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", metavar="DIR", help="Folder of the ledger and the models.", show_default="LMX_HOME or ~/.lmx"
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ID|FOLDER",
            help="Serve this one: a pulled model, a folder, an id of the configuration; again: more.",
            autocompletion=stored_models,
        ),
    ] = None,
    detach: Annotated[
        bool | None,
        typer.Option(
            "--detach/--foreground",
            help="In a process of its own (returns when ready), or here.",
            show_default="--foreground",
        ),
    ] = None,
    drills: Annotated[bool, typer.Option("--drills", help="Allow rehearsals (lmx drill).")] = False,
    as_json: AsJson = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="Short for --host and --port together.", rich_help_panel="Connection"
        ),
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Start the daemon."""
    if url is not None:
        connection = Connection(url, api_key)
        if port not in {None, connection.port} or host not in {None, connection.host}:
            raise typer.BadParameter("--url names another address than --host and --port", param_hint="--url")
        host, port = connection.host, connection.port
    file = config or _file_of_home(home)
    overrides = _overrides(port, host, home, drills=drills)
    resolved = _resolve(file, overrides, models or [])
    if detach:
        _detach(resolved, file, models or [], as_json=as_json)
    else:
        reread = partial(_read_again, resolved, file, overrides, models or [])
        _foreground(resolved, file, reread, as_json=as_json)


def _file_of_home(home: Path | None) -> Path | None:
    file = home_folder(home) / "config.toml"
    return file if file.is_file() else None


def _overrides(port: int | None, host: str | None, home: Path | None, *, drills: bool) -> dict[str, dict[str, Any]]:
    server = {name: value for name, value in (("port", port), ("host", host)) if value is not None}
    storage = {} if home is None else {"home": str(home.expanduser().absolute())}
    rehearsals: dict[str, Any] = {"enabled": True} if drills else {}
    named = (("server", server), ("storage", storage), ("drills", rehearsals))
    return {name: values for name, values in named if values}


def _resolve(file: Path | None, overrides: dict[str, dict[str, Any]], models: list[str]) -> "Config":
    from lmx_ledger.core.config import load_config  # noqa: PLC0415

    config = load_config(file, overrides)
    if not models:
        return config
    return load_config(file, overrides, models=[_model(name, config) for name in dict.fromkeys(models)])


def _read_again(
    first: "Config", file: Path | None, overrides: dict[str, dict[str, Any]], models: list[str]
) -> "Config":
    """As at the start. Models that the command line named stay what they were found to be then."""
    from lmx_ledger.core.config import load_config  # noqa: PLC0415

    return load_config(file, overrides, models=[model.model_dump() for model in first.models] if models else None)


def _model(name: str, config: "Config") -> dict[str, Any]:
    """What the name means: an id of the configuration, a folder with a path, the embedded model, a pulled model."""
    from lmx_ledger.store import embedded, shelf  # noqa: PLC0415
    from lmx_ledger.store.errors import BadModelId, StoreError  # noqa: PLC0415

    for model in config.models:
        if name == model.id:
            return model.model_dump()
    folder = Path(name).expanduser().absolute()
    if folder.is_dir() and ("/" in name or (folder / "config.json").exists()):
        return {"id": folder.name, "path": str(folder)}
    if name == embedded.ID:
        return {"id": embedded.ID, "path": str(embedded.FOLDER)}
    try:
        stored = shelf.find(config.home, name)
    except BadModelId:
        stored = None
    except StoreError as error:
        raise Failure(f"--model {name}: {error}") from None
    if stored is not None:
        return {"id": stored.id, "path": str(stored.folder)}
    known = ", ".join((*(model.id for model in config.models), embedded.ID))
    raise Failure(
        f"--model {name}: no model folder, no id of the configuration ({known}) and not in the store; "
        f"lmx models list shows what is there, lmx models pull fetches one"
    )


def _foreground(config: "Config", file: Path | None, reread: Callable[[], "Config"], *, as_json: bool) -> None:
    from lmx_ledger.daemon.main import run  # noqa: PLC0415 - the whole server

    if sys.stderr.isatty():
        names = ", ".join(model.id for model in config.models) or "the embedded model"
        typer.echo(f"Starting on {reach_url(config.server.host, config.server.port)}, loading {names}...", err=True)
    code = run(config, source=file, reread=reread, announce=not as_json)
    if as_json:
        print_json({"state": "stopped", "port": config.server.port, "home": str(config.home), "exit_status": code})
    if code:
        raise typer.Exit(code)


class _Child(NamedTuple):
    """The daemon that is being started, and where it writes: its own output begins at `offset`."""

    process: subprocess.Popen[bytes]
    log: Path
    offset: int

    def last_words(self) -> str:
        """Why it ended: the last thing that it wrote."""
        with self.log.open("rb") as log:
            log.seek(self.offset)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
        reason = next((line for line in reversed(lines) if line.startswith("lmx: ")), lines[-1] if lines else "")
        return reason.removeprefix("lmx: ")

    def end(self) -> None:
        """Leave no process behind: SIGTERM, and SIGKILL for one that will not."""
        self.process.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _detach(config: "Config", file: Path | None, models: list[str], *, as_json: bool) -> None:
    child = _spawn(config, file, models)
    try:
        run = _wait_ready(child, config)
    except BaseException:
        child.end()
        raise
    url = reach_url(run.host, run.port)
    if as_json:
        print_json({"pid": run.pid, "url": url, "port": run.port, "home": str(config.home), "log": str(child.log)})
        return
    typer.echo(f"LMX serves on {url}, pid {run.pid}")
    if on_terminal():
        typer.echo(f"output: {child.log}\nstop it with: lmx serve stop --port {run.port}")


def _spawn(config: "Config", file: Path | None, models: list[str]) -> _Child:
    command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground"]
    command += ["--home", str(config.home), "--host", config.server.host, "--port", str(config.server.port)]
    command += [] if file is None else ["--config", str(file.absolute())]
    command += ["--drills"] if config.drills.enabled else []
    command += [argument for model in models for argument in ("--model", model)]
    log = config.home / "run" / f"daemon-{config.server.port}.log"
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise Failure(
            f"{log} cannot be written ({error.strerror}); give this user the folder, or name another with --home"
        ) from None
    with os.fdopen(descriptor, "ab") as output:
        offset = output.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    return _Child(process, log, offset)


def _wait_ready(child: _Child, config: "Config") -> "RunFile":
    """Until our child (not somebody else on that port) says that it is ready."""
    from lmx_ledger.daemon import runfile  # noqa: PLC0415

    connection = Connection(reach_url(config.server.host, config.server.port))
    console = terminal(stderr=True)
    with console.status("starting...") if console.is_terminal else contextlib.nullcontext() as status:
        while child.process.poll() is None:
            run = runfile.read(config.home, config.server.port)
            if run is not None and run.pid == child.process.pid:
                ready = _readiness(connection)
                if ready.get("status") == "ok":
                    return run
                if status and ready.get("reason"):
                    status.update(f"{ready['reason']}...")
            time.sleep(_POLL_S)
    code = child.process.returncode
    raise Failure(f"{child.last_words() or f'the daemon ended with status {code}'} (its output: {child.log})")


def _readiness(connection: Connection) -> dict[str, Any]:
    try:
        return connection.readiness()
    except NoDaemon:
        # Not listening yet, or just gone: the next look at the process tells which.
        return {}
