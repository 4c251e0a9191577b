"""The daemon, composed: socket, ledger, models, HTTP; and the order in which it all starts and stops."""

import asyncio
import contextlib
import os
import platform
import signal
import socket
import sqlite3
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from lmx_ledger import __version__
from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns, rfc3339, utc_us
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon import runfile
from lmx_ledger.daemon.banner import banner
from lmx_ledger.daemon.composition import Parts, Work
from lmx_ledger.daemon.projector import Projector
from lmx_ledger.daemon.reread import Rereader
from lmx_ledger.daemon.retention import Keeper
from lmx_ledger.daemon.socket import listen
from lmx_ledger.daemon.terminal import Terminal, say, warn
from lmx_ledger.daemon.verifier import Verifier
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.ledger.fold import Folded, PerBoot, state_at
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE, Projection, Projections
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.memory.residency import ResidencyFold
from lmx_ledger.server.app import create_app
from lmx_ledger.server.connections import serve_http
from lmx_ledger.server.context import Context
from lmx_ledger.serving.models import ModelState, ModelTable
from lmx_ledger.serving.service import Serving
from lmx_ledger.serving.status import status_projection
from lmx_ledger.session.book import SessionBook, entries
from lmx_ledger.session.table import SESSIONS, remembered
from lmx_ledger.slo.objective import objectives_of
from lmx_ledger.slo.recall import ObjectivesFold
from lmx_ledger.slo.rollup import RollupProjection, rollups

_AGAIN_S: Final = 1.0
_DAY_US: Final = 86_400_000_000


def run(config: Config, *, source: Path | None, reread: Callable[[], Config], announce: bool = True) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. `announce`: print where and what, when ready.

    `reread` reads the configuration as it was read for this start; SIGHUP asks for that.

    Raises:
        StartupError: it cannot start; one line says why and what to do.
    """
    prepare_home(config.home)
    sock = listen(config.server.host, config.server.port)
    with sock:
        return asyncio.run(Daemon(config, source, reread, announce=announce).serve(sock))


def projections() -> list[Projection]:
    """All that is folded; a room that has a new one is named here."""
    return [
        Folded(PerBoot(ResidencyFold())),
        Folded(status_projection()),
        RollupProjection(),
        SessionBook(),
        Folded(ObjectivesFold()),
        Folded(IncidentsFold()),
    ]


def prepare_home(home: Path) -> None:
    """Make the home folder, 0700, and see that it can be written.

    Raises:
        StartupError: it cannot.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = home / f".write-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise StartupError(
            f"{home} cannot be written ({error.strerror}); "
            "give this user the folder, or name another one with --home or LMX_HOME"
        ) from None


class Daemon:
    """One run, from the first event to `daemon.stopped`."""

    def __init__(self, config: Config, source: Path | None, reread: Callable[[], Config], *, announce: bool) -> None:
        """Nothing is begun yet.

        Raises:
            StartupError: an objective is configured that could never alert.
        """
        self.settings = Settings(config)
        self.state = "starting"
        self._promised = objectives_of(config.slo)
        self._source = source
        self._announce = announce
        self._rereader = Rereader(self.settings, source, reread)
        self._terminal = Terminal()
        self._boot = new_ulid()
        self._began_ns = mono_ns()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stop_reason = ""

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.settings.now

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return elapsed_ms(self._began_ns) / 1e3

    async def serve(self, sock: socket.socket) -> int:
        """The whole run.

        Raises:
            StartupError: no model could be loaded.
        """
        self._handle_signals()
        path = self.config.home / "ledger.db"
        ledger = Ledger.open(path, boot=self._boot, synchronous=self.config.ledger.synchronous, notice=warn)
        reader = Reader.open(path)
        projector = Projector(Projections(path.with_name(FILE), projections(), History(path, reader)), warn)
        projector.start()
        try:
            started = await self._open_history(ledger, reader)
            rules = await ledger.commit(
                _daemon_event(
                    ev.ConfigLoaded(source=str(self._source) if self._source else None, changed=self.config.changed()),
                    cause=started,
                )
            )
            self.settings.put_in_force(self.config, rules)
            code = await self._serve(sock, ledger, reader)
        finally:
            projector.ask_to_stop()
            whole = await asyncio.to_thread(ledger.close)
            await asyncio.to_thread(projector.join)
            reader.close()
            if not whole:
                warn(
                    f"{ledger.lost} events of this run are lost, {path} could not be written ({ledger.error}); "
                    "what it has is whole: make room or put it back, then start again"
                )
        return code if whole else 1

    async def _open_history(self, ledger: Ledger, reader: Reader) -> int | None:
        run = await asyncio.to_thread(reader.last_run_without_end, self._boot)
        if run is not None and not _still_runs(run.pid, run.started_us):
            crashed = ev.DaemonCrashDetected(
                boot=run.boot,
                pid=run.pid,
                last_seq=run.last_seq,
                last_time=rfc3339(run.last_time_us),
                last_acts=run.last_acts,
            )
            await ledger.commit(_daemon_event(crashed, cause=run.last_seq))
        return await ledger.commit(
            _daemon_event(
                ev.DaemonStarted(
                    version=__version__,
                    pid=os.getpid(),
                    host=self.config.server.host,
                    port=self.config.server.port,
                    platform=platform.platform(),
                    python=platform.python_version(),
                )
            )
        )

    async def _serve(self, sock: socket.socket, ledger: Ledger, reader: Reader) -> int:
        parts = Parts(self.settings, ledger, reader, self._promised, boot=self._boot, url=self._url())
        await self._remember_sessions(parts.serving, reader)
        await self._remember_pins(parts.table, reader)
        await asyncio.to_thread(self._remember_service_times, parts.table)
        context = Context(
            serving=parts.serving,
            ledger=ledger,
            reader=reader,
            settings=self.settings,
            daemon=self,
            paging=parts.pager,
            residency=parts.residency,
            memory=parts.budget,
            guard=parts.guard,
            drills=parts.drills,
            metrics=parts.metrics,
            objectives=parts.objectives,
            incidents=parts.incidents,
            boot=self._boot,
            started_s=utc_us() // 1_000_000,
        )
        closing = asyncio.Event()
        http = asyncio.create_task(
            serve_http(create_app(context), sock, send_timeout=lambda: self.config.server.send_timeout, closing=closing)
        )
        own: tuple[Work, ...] = (
            partial(self._rereader.run, ledger),
            Keeper(self.settings, ledger, warn).run,
            Verifier(ledger, warn).run,
        )
        working = [asyncio.create_task(_kept_up(work)) for work in (*own, *parts.works)]
        file = self._write_run_file()
        try:
            parts.supervisor.start(self.settings.rules_seq or None)
            await self._until_ready(parts, ledger)
            parts.objectives.start()
            parts.reports.start()
            await self._until_stopped(http)
            await self._drain(parts.serving, ledger)
        finally:
            self.state = "stopping"
            for task in working:
                task.cancel()
            await parts.stop()
            closing.set()
            await http
            file.unlink(missing_ok=True)
            await ledger.commit(
                _daemon_event(ev.DaemonStopped(reason=self._stop_reason or "failed", uptime_s=round(self.uptime_s, 3)))
            )
        self._say("Stopped.")
        return 0

    async def _remember_sessions(self, serving: Serving, reader: Reader) -> None:
        """The conversations of earlier runs, so that their next turns are known for what they are."""
        path = self.config.home / "ledger.db"
        try:
            history = History(path, reader)
            known = await asyncio.to_thread(entries, path.with_name(FILE), history, limit=SESSIONS)
        except LedgerError as error:
            warn(f"conversations of earlier runs are not known: {error}")
            return
        serving.sessions.restore(remembered(known))

    async def _remember_pins(self, table: ModelTable, reader: Reader) -> None:
        """What an operator pinned in an earlier run."""
        path = self.config.home / "ledger.db"
        try:
            projection = PerBoot(ResidencyFold())
            runs = await asyncio.to_thread(
                state_at, projection, History(path, reader), path.with_name(FILE), reader.head()
            )
        except LedgerError as error:
            warn(f"pins of earlier runs are not known: {error}")
            return
        known = [*runs.running.values(), *([runs.ended] if runs.ended is not None else [])]
        pinned = known[0].pinned if known else frozenset()
        for model in table.all():
            model.pinned = model.pinned or model.id in pinned

    def _remember_service_times(self, table: ModelTable) -> None:
        """How long requests took in the day before: how long a line is, the guard has to know before the first ends."""
        now_us = utc_us()
        for model in table.all():
            # Of a home without a history there is none.
            with contextlib.suppress(sqlite3.Error):
                file = self.config.home / FILE
                wall = rollups(file, now_us - _DAY_US, now_us, model.id, "wall_ms").mean
                queued = rollups(file, now_us - _DAY_US, now_us, model.id, "queue_ms").mean
                if wall is not None and queued is not None:
                    model.queue.expect(max(wall - queued, 0.0) / 1e3)

    async def _until_ready(self, parts: Parts, ledger: Ledger) -> None:
        table = parts.table
        settled = asyncio.create_task(parts.supervisor.settled())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({settled, stopped}, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        stopped.cancel()
        if self._stop.is_set():
            return
        resident = [m.id for m in table.all() if m.state is ModelState.RESIDENT]
        failed = [f"{m.id}: {m.failure}" for m in table.all() if m.state is ModelState.FAILED]
        if not resident and all(m.state is ModelState.FAILED for m in table.all()):
            self._stop_reason = "no model could be loaded"
            raise StartupError("no model could be loaded: " + "; ".join(failed))
        for line in failed:
            warn(f"not served: {line}")
        url = self._url()
        await ledger.commit(
            _daemon_event(
                ev.DaemonReady(url=url, models=resident, startup_ms=elapsed_ms(self._began_ns)),
                cause=self.settings.rules_seq or None,
            )
        )
        self.state = "running"
        self._say(banner(url, table.all(), self.config))

    async def _until_stopped(self, http: asyncio.Task[None]) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({stopped, http}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if http.done() and not self._stop.is_set():
            self._stop_reason = "the HTTP server ended"

    def _say(self, text: str) -> None:
        """A line for whoever watches the terminal."""
        if self._announce:
            say(text)

    async def _drain(self, serving: Serving, ledger: Ledger) -> None:
        self.state = "draining"
        if serving.in_flight:
            self._say(
                f"Stopping: {serving.in_flight} in flight may finish within "
                f"{self.config.server.drain_timeout:g} s; again to cut them off"
            )
        began, timeout_s = mono_ns(), self.config.server.drain_timeout
        order = await ledger.commit(
            _daemon_event(ev.OperatorCommanded(command="stop", arguments={}, via=self._stop_reason))
        )
        draining = _daemon_event(
            ev.DaemonDraining(reason=self._stop_reason, in_flight=serving.in_flight, timeout_s=timeout_s), cause=order
        )
        serving.draining = ticket = ledger.emit(draining)
        await ledger.seq_of(ticket)
        serving.refuse_waiting(ticket)
        cancelled = 0
        if not await self._idle_in_time(serving, timeout_s):
            cancelled = serving.end_all("daemon_stopped")
            await serving.wait_idle(1.0)
        await ledger.commit(_daemon_event(ev.DaemonDrained(cancelled=cancelled, ms=elapsed_ms(began)), cause=ticket))

    async def _idle_in_time(self, serving: Serving, timeout_s: float) -> bool:
        idle = asyncio.create_task(serving.wait_idle(timeout_s))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({idle, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if idle.done():
            return idle.result()
        idle.cancel()
        return False

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, number: signal.Signals) -> None:
        """The first one drains; a second one waits for nobody."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop_reason = self._stop_reason or number.name
        self._stop.set()

    def _on_hangup(self) -> None:
        """A daemon in the foreground ends with its terminal; otherwise it means: read the configuration again."""
        if self._terminal.closed:
            self._on_signal(signal.SIGHUP)
        else:
            self._rereader.ask()

    def _url(self) -> str:
        host = self.config.server.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.config.server.port}"

    def _write_run_file(self) -> Path:
        return runfile.write(
            self.config.home,
            runfile.RunFile(
                pid=os.getpid(),
                create_time=psutil.Process().create_time(),
                host=self.config.server.host,
                port=self.config.server.port,
                url=self._url(),
                boot=self._boot,
                profile="desktop",
                started=rfc3339(utc_us()),
            ),
        )


async def _kept_up(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A task that fails is a fault of ours: it is said at once, and what it does for everybody goes on."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - whatever it is, nobody is to wait for ever because of it
            warn(traceback.format_exc())
            await asyncio.sleep(_AGAIN_S)


def _daemon_event(data: ev.EventData, cause: ev.Cause = None) -> ev.Event:
    return ev.Event(data=data, stream="daemon", cause=cause)


def _still_runs(pid: int, started_us: int) -> bool:
    """Whether that daemon lives: a process of that pid that began no later than its first event (two share a home)."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() * 1e6 <= started_us + 1e6
    except psutil.Error:
        return False
