"""Rehearsals: readings and faults that are made up take the way of real ones, and every event meanwhile says so."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.errors import Conflict, InvalidRequest
from lmx_ledger.core.sensed import MemoryReading
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.flood import flood
from lmx_ledger.daemon.guarding import Guard
from lmx_ledger.daemon.heat_watch import HeatWatch
from lmx_ledger.guard.memory import Policy, headroom_bytes
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.sensor.drilled import Rehearsable
from lmx_ledger.server.context import DrillOrder
from lmx_ledger.serving.models import ModelTable, ServedModel

_AGAIN_S: Final = 1.0
_CALM_WITHIN_S: Final = 600.0
"""What a rehearsal has set off is labelled as its for so long at most."""
_COOL_MHZ: Final = 1_384.0
"""Where this machine's own is not known: the clock of a cool GPU under load."""
_SWAP_RATE: Final = 64 * 1024**2

Player = Callable[[dict[str, Any], float], Coroutine[Any, Any, dict[str, Any]]]


_TAKES: Final[Mapping[str, Mapping[str, Any]]] = {
    "thermal": {"gpu_drop": 0.21},
    "swap": {},
    "memory": {"limit": 0.5},
    "slow-disk": {"bytes_per_s": 2_000_000, "model": None},
    "engine-crash": {"model": None},
    "engine-hang": {"model": None},
    "flood": {"sessions": 100},
}
"""What each kind of drill takes, and what it is where nobody says."""
KINDS: Final = tuple(_TAKES)
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "for_s": (1.0, 3_600.0),
    "gpu_drop": (0.01, 0.99),
    "limit": (0.05, 1.0),
    "bytes_per_s": (10_000, 10**12),
    "sessions": (1, 1_000),
}


class Drills:
    """One at a time. `url` is where this daemon is reached, by the keys of `settings`."""

    def __init__(
        self,
        table: ModelTable,
        ledger: Ledger,
        accounts: Accounts,
        guard: Guard,
        sensors: Rehearsable,
        heat: HeatWatch,
        *,
        enabled: bool,
        url: str,
        settings: Settings,
    ) -> None:
        self._table, self._ledger, self._accounts, self._guard = table, ledger, accounts, guard
        self._sensors, self._heat = sensors, heat
        self._enabled, self._url, self._settings = enabled, url, settings
        self._beginning = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._playing: asyncio.Task[dict[str, Any]] | None = None
        self._now: dict[str, Any] | None = None
        self._end_reason = "time"
        self._play: dict[str, Player] = {
            "thermal": self._thermal,
            "swap": self._swap,
            "memory": self._others,
            "slow-disk": self._slow_disk,
            "engine-crash": self._crash,
            "engine-hang": self._hang,
            "flood": self._flood,
        }

    def public(self) -> dict[str, Any]:
        """`GET /lmx/drills`. `label`: the drill that events are labelled with, also behind its end until it is calm."""
        return {"enabled": self._enabled, "kinds": list(KINDS), "running": self._now, "label": self._ledger.drill}

    async def start(self, order: DrillOrder, cause: ev.Cause) -> None:
        """See `server.context.Drills`."""
        arguments = read_order(order)
        if not self._enabled:
            raise Conflict("drills are disabled; set [drills] enabled = true, or start with --drills, to allow them")
        async with self._beginning:
            if self._task is not None:
                running = self._now["kind"] if self._now is not None else "the last one; the guard is not calm yet"
                raise Conflict(f"a drill goes on: {running}; end it with lmx drill stop, or wait for it")
            model = self._table.find(order.model) if "model" in arguments else None
            if model is not None:
                arguments["model"] = model.id
            # Before anything else happens: the seq is what all that follows is labelled with.
            started = ev.DrillStarted(kind=order.kind, for_s=order.for_s, arguments=arguments)
            seq = await self._ledger.commit(ev.Event(data=started, stream="drill", cause=cause), within_s=5.0)
            if seq is None:
                unlabelled = ev.DrillFinished(kind=order.kind, reason="failed", ms=0.0, outcome={"error": "no label"})
                self._ledger.emit(ev.Event(data=unlabelled, stream="drill", cause=cause))
                raise Conflict("the ledger is behind, and no drill goes without its label; try again in a while")
            self._ledger.drill = seq
            self._now = {"kind": order.kind, "for_s": order.for_s, "arguments": arguments, "event": seq}
            self._end_reason = "time"
            self._playing = asyncio.create_task(self._play[order.kind](arguments, order.for_s))
            self._task = asyncio.create_task(self._run(order.kind, self._playing, seq))

    async def stop(self, reason: str = "operator") -> None:
        """End the one that goes on, if one does. What it has set off is its own until that is over."""
        self._end_reason = reason
        if (playing := self._playing) is not None:
            playing.cancel()
            await asyncio.wait({playing})

    async def close(self) -> None:
        """As `stop`, and nothing is waited for: the daemon ends."""
        await self.stop("daemon_stopped")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, kind: str, playing: "asyncio.Task[dict[str, Any]]", seq: int) -> None:
        began = mono_ns()
        try:
            await asyncio.wait({playing})
            self._sensors.as_they_are()
            self._now = self._playing = None
            reason, outcome = self._end_reason, dict[str, Any]()
            if not playing.cancelled():
                failed = playing.exception()
                reason = reason if failed is None else "failed"
                outcome = playing.result() if failed is None else {"error": repr(failed)}
            ended = ev.DrillFinished(kind=kind, reason=reason, ms=elapsed_ms(began), outcome=outcome)
            await self._ledger.commit(ev.Event(data=ended, stream="drill", cause=seq))
            await self._until_calm()
        finally:
            if not self._heat.throttled:
                # Or what told of heat would never tell that it is over.
                self._sensors.forget()
            self._ledger.drill = None
            self._task = None

    async def _until_calm(self) -> None:
        """What the drill has set off is still its own: until the guard has nothing raised."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CALM_WITHIN_S):
                await asyncio.sleep(2 * _AGAIN_S)
                await self._guard.until_calm()

    # --- readings ----------------------------------------------------------------------------------------------------

    async def _thermal(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        """The GPU is busy, and its clock is below that of a cool one."""
        baseline_mhz = self._heat.baseline_mhz
        cool_mhz = baseline_mhz or _COOL_MHZ
        self._heat.teach(cool_mhz)
        try:
            self._sensors.seem_hot(cool_mhz * (1 - float(arguments["gpu_drop"])))
            await asyncio.sleep(for_s)
        finally:
            # What was learned of a rehearsal is not this machine's.
            self._sensors.as_they_are()
            self._heat.teach(baseline_mhz)
        return {"cool_mhz": cool_mhz}

    async def _swap(self, _: dict[str, Any], for_s: float) -> dict[str, Any]:
        began = mono_ns()

        def swapping(reading: MemoryReading) -> MemoryReading:
            written = int(_SWAP_RATE * elapsed_ms(began) / 1e3)
            return msgspec.structs.replace(reading, swap_out_bytes=(reading.swap_out_bytes or 0) + written)

        self._sensors.memory.change = swapping
        await asyncio.sleep(for_s)
        return {}

    async def _others(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        """Other programs take memory until no more than a share of our limit is left to us."""
        share = float(arguments["limit"])

        def taken(reading: MemoryReading) -> MemoryReading:
            wanted = int(self._accounts.configured_bytes * share)
            available = wanted - self._accounts.used_bytes + headroom_bytes(reading.total_bytes, Policy())
            return msgspec.structs.replace(
                reading, available_bytes=max(min(available, reading.available_bytes), 0), cgroup_limit_bytes=None
            )

        self._sensors.memory.change = taken
        await asyncio.sleep(for_s)
        return {}

    # --- faults ------------------------------------------------------------------------------------------------------

    async def _slow_disk(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        model, until = self._table.find(arguments["model"]), asyncio.get_running_loop().time() + for_s
        try:
            while (left := until - asyncio.get_running_loop().time()) > 0:
                # Again and again: a worker that takes another one's place knows nothing of it.
                self._pace(model, int(arguments["bytes_per_s"]))
                await asyncio.sleep(min(_AGAIN_S, left))
        finally:
            self._pace(model, 0)
        return {}

    def _pace(self, model: ServedModel, bytes_per_s: int) -> None:
        if model.worker is not None and model.worker.alive:
            model.worker.slow_disk(bytes_per_s)

    async def _crash(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        """Its worker gets SIGSEGV, once; then it is watched for that time how it goes on."""
        pid = self._signal(arguments["model"], signal.SIGSEGV)
        await asyncio.sleep(for_s)
        return {"pid": pid}

    async def _hang(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        """Its worker is stopped: it has work, and gives nothing. Who is not replaced by then goes on."""
        pid = self._signal(arguments["model"], signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if pid is not None and any(one.worker and one.worker.pid == pid for one in self._table.all()):
                    os.kill(pid, signal.SIGCONT)
        return {"pid": pid}

    def _signal(self, name: str, number: signal.Signals) -> int | None:
        worker = self._table.find(name).worker
        if worker is None or not worker.alive:
            return None
        os.kill(worker.pid, number)
        return worker.pid

    async def _flood(self, arguments: dict[str, Any], for_s: float) -> dict[str, Any]:
        key = next(iter(self._settings.now.server.api_keys), None)
        return await flood(self._url, key, int(arguments["sessions"]), for_s)


def read_order(order: DrillOrder) -> dict[str, Any]:
    """The arguments of a drill, with what nobody said filled in.

    Raises:
        InvalidRequest: there is no such kind, it takes no such argument, or a value is out of bounds.
    """
    takes = _TAKES.get(order.kind)
    if takes is None:
        raise InvalidRequest(f"there is no drill {order.kind!r}; there are {', '.join(KINDS)}", param="kind")
    given = {name: value for name, value in msgspec.structs.asdict(order).items() if value is not None}
    given.pop("kind")
    for name, value in given.items():
        if name != "for_s" and name not in takes:
            theirs = ", ".join(takes) or "nothing but for_s"
            raise InvalidRequest(f"a drill of {order.kind} takes {theirs}, not {name}", param=name)
        low, high = _BOUNDS.get(name, (None, None))
        if low is not None and high is not None and not low <= value <= high:
            raise InvalidRequest(f"{name} goes from {low:g} to {high:g}", param=name)
    given.pop("for_s")
    return {**takes, **given}
