"""`lmx serve stop`: a graceful end, and what was waited for."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import note, print_json
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.units import show_duration

if TYPE_CHECKING:
    from lmx_ledger.daemon.runfile import RunFile

EXAMPLE: Final = "Example: lmx serve stop --port 3456"

_POLL_S: Final = 0.05
_SAY_AFTER_S: Final = 1.0
_DRAIN_S: Final = 30.0
_GRACE_S: Final = 30.0


def stop(
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65535, help="Which one.", show_default="the home's only one"),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Stop the daemon gracefully: what is in flight may finish, then it is gone."""
    connection = Connection(url, api_key)
    if url is not None:
        if not connection.is_local:
            raise typer.BadParameter("only a daemon of this machine can be stopped", param_hint="--url")
        if port not in {None, connection.port}:
            raise typer.BadParameter("--url and --port name different ports", param_hint="--port")
        port = connection.port
    folder = home_folder(home)
    run = _find(folder, port)
    began = mono_ns()
    _terminate(run)
    _wait_gone(run, folder, began)
    seconds = elapsed_ms(began) / 1000
    drained = _last(folder, run.boot, "daemon.drained")
    in_flight = (_last(folder, run.boot, "daemon.draining") or {}).get("in_flight", 0)
    cancelled = (drained or {}).get("cancelled", 0)
    if as_json:
        print_json(
            {
                "pid": run.pid,
                "port": run.port,
                "url": run.url,
                "waited_for": in_flight,
                "cancelled": cancelled,
                "stopped_ms": round(seconds * 1000, 3),
            }
        )
        return
    waited = f"it waited for {in_flight} in flight" if in_flight else "nothing was in flight"
    cut = f", {cancelled} of them did not finish in time" if cancelled else ""
    typer.echo(f"Stopped pid {run.pid} on port {run.port} in {show_duration(seconds)}: {waited}{cut}.")


def _find(folder: Path, port: int | None) -> "RunFile":
    from lmx_ledger.daemon import runfile  # noqa: PLC0415

    try:
        runs = runfile.all_of(folder) if port is None else [run for run in [runfile.read(folder, port)] if run]
    except OSError as error:
        raise Failure(f"{folder} cannot be read ({error.strerror}); name another folder with --home") from None
    if len(runs) > 1:
        raise Failure(f"several daemons of {folder} run; say which: --port {' or '.join(str(r.port) for r in runs)}")
    if runs:
        return runs[0]
    if port is None:
        raise NoDaemon(f"no daemon of {folder} runs; one of another home is named with --home")
    raise NoDaemon(f"no daemon of {folder} on port {port}{_elsewhere(port)}")


def _elsewhere(port: int) -> str:
    try:
        answers = Connection(f"http://127.0.0.1:{port}").answers()
    except Failure as failure:
        return f"; {failure}"
    return "; one of another home answers there: name its --home" if answers else ""


def _terminate(run: "RunFile") -> None:
    import psutil  # noqa: PLC0415

    try:
        psutil.Process(run.pid).terminate()
    except psutil.NoSuchProcess:
        # It has gone by itself in this moment, which is what was asked for.
        return
    except psutil.AccessDenied:
        raise Failure(f"pid {run.pid} belongs to another user; stop it as that user") from None


def _wait_gone(run: "RunFile", folder: Path, began_ns: int) -> None:
    from lmx_ledger.daemon import runfile  # noqa: PLC0415

    patience_s: float | None = None
    while runfile.is_alive(run):
        waited_s = elapsed_ms(began_ns) / 1000
        if waited_s > _SAY_AFTER_S and patience_s is None:
            draining = _last(folder, run.boot, "daemon.draining") or {}
            patience_s = draining.get("timeout_s", _DRAIN_S)
            in_flight = draining.get("in_flight", 0)
            if in_flight:
                note(f"waiting up to {show_duration(patience_s)} for {in_flight} in flight")
        if patience_s is not None and waited_s > patience_s + _GRACE_S:
            raise Failure(f"pid {run.pid} still runs after {show_duration(waited_s)}; end it with: kill -9 {run.pid}")
        time.sleep(_POLL_S)


def _last(folder: Path, boot: str, kind: str) -> dict[str, Any] | None:
    """The data of the newest event of that type in a run, as far as there is a ledger that can be read."""
    from lmx_ledger.ledger.filter import EventFilter  # noqa: PLC0415
    from lmx_ledger.ledger.query import Reader  # noqa: PLC0415
    from lmx_ledger.ledger.store import LedgerError  # noqa: PLC0415

    try:
        with closing(Reader.open(folder / "ledger.db")) as reader:
            found = reader.events(EventFilter(types=(kind,), boot=boot, order="desc", limit=1))
    except LedgerError as error:
        note(str(error))
        return None
    return found[0].data if found else None
