"""Reads the sensor of memory, has the guard judge what it says, and writes that down before anybody acts on it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.sensed import MemoryReading
from lmx_ledger.guard.memory import (
    Breached,
    Cleared,
    Decision,
    LimitChanged,
    Observed,
    Policy,
    Reason,
    State,
    SwapRecovered,
    SwapThrash,
    evolve,
    fraction,
)
from lmx_ledger.guard.recorded_memory import Asked
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.sensor.reading import Sensor, SensorError

SAMPLE_EVERY_S: Final = 60.0
MEMORY: Final = "memory"
"""What is used, against the limit in force."""
LIMIT: Final = "memory_limit"
"""The limit in force, against the configured one."""
_GUARD: Final = "guard"
_SENSOR: Final = "sensor"


class Account(Protocol):
    """What the guard has to know of ours, in bytes."""

    @property
    def used_bytes(self) -> int:
        """What our processes hold of the machine's memory.

        What is being loaded counts from before its first byte, and what is let go until it is gone: otherwise a
        reading takes it for other programs'.
        """

    @property
    def reserved_bytes(self) -> int:
        """What they may come to use."""

    @property
    def reserve(self) -> int:
        """Of a limit, what is nobody's."""

    @property
    def configured_bytes(self) -> int:
        """The limit that the operator set."""

    @property
    def floor_bytes(self) -> int:
        """What the limit must not be lowered beneath: what is in flight."""


class Follower(Protocol):
    """Who acts on what was decided, each time behind its event's commit. `seq` is that event's; None: it came late."""

    def on_limit(self, limit_bytes: int, seq: int | None) -> None:
        """The limit in force is another one."""

    def on_breach(self, seq: int | None) -> None:
        """What is used has reached the threshold."""

    def on_cleared(self, seq: int | None) -> None:
        """It is well below it again."""


class MemoryWatch:
    """One per daemon."""

    def __init__(
        self,
        sensor: Sensor[MemoryReading],
        account: Account,
        follower: Follower,
        ledger: Ledger,
        *,
        every_s: float,
        policy: Policy | None = None,
        clock: Callable[[], int] = utc_us,
    ) -> None:
        """`clock` gives wall time in microseconds."""
        self._sensor = sensor
        self._account = account
        self._follower = follower
        self._ledger = ledger
        self._every_s = every_s
        self._policy = (policy or Policy()).read_every(every_s)
        self._clock = clock
        self._state = State()
        self._available = True
        self._sampled_us: int | None = None
        self._thrashed: ev.Cause = None
        self._breach: ev.Cause = None
        self._lowered: ev.Cause = None

    @property
    def limit_bytes(self) -> int:
        """The limit in force."""
        return self._state.limit_bytes(self._account.configured_bytes)

    @property
    def thrashing(self) -> bool:
        """Whether the machine swaps without end."""
        return self._state.thrashing

    @property
    def thrashed(self) -> ev.Cause:
        """The event that said so."""
        return self._thrashed

    @property
    def breach(self) -> ev.Cause:
        """The event of the breach that goes on."""
        return self._breach

    @property
    def breached(self) -> bool:
        """Whether the threshold is."""
        return self._state.breached

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Once: read, decide, write down, tell."""
        before = self._account.used_bytes
        reading = await self._read()
        observed = Observed(
            at_us=self._clock(),
            # What comes or goes during the reading is ours, whether the reading has it or not.
            used_bytes=max(before, self._account.used_bytes),
            configured_bytes=self._account.configured_bytes,
            floor_bytes=self._account.floor_bytes,
            reading=reading,
            reserved_bytes=self._account.reserved_bytes,
            spare_bytes=self._account.reserve,
        )
        self._sample(observed)
        asked = Asked(self._state, observed, self._policy)
        self._state = evolve(self._state, observed, self._policy)
        for decision in asked.decide():
            await self._carry_out(decision, asked)

    async def judge(self, reserved_bytes: int) -> int | None:
        """So much is about to be reserved: the event of the breach that this is, None where it is none."""
        observed = Observed(
            at_us=self._clock(),
            used_bytes=0,
            configured_bytes=self._account.configured_bytes,
            floor_bytes=0,
            reading=None,
            reserved_bytes=reserved_bytes,
        )
        asked = Asked(self._state, observed, self._policy, judged=True)
        for decision in asked.decide():
            seq = await self._ledger.commit(self._event(decision, asked))
            self._state = evolve(self._state, decision, self._policy)
            self._breach = seq
            return seq
        return None

    async def _read(self) -> MemoryReading | None:
        try:
            reading = await asyncio.to_thread(self._sensor.read)
        except SensorError as error:
            if self._available:
                self._available = False
                data = ev.SensorUnavailable(sensor=self._sensor.name, error=str(error)[:500])
                self._ledger.emit(ev.Event(data=data, stream=_SENSOR))
            return None
        if not self._available:
            # The next sample says that it is back.
            self._available, self._sampled_us = True, None
        return reading

    def _sample(self, observed: Observed) -> None:
        if observed.reading is None:
            return
        since_us = None if self._sampled_us is None else observed.at_us - self._sampled_us
        # Also where the clock went back, or there would be none for as long as it did.
        if since_us is None or not 0 <= since_us < SAMPLE_EVERY_S * 1e6:
            self._sampled_us = observed.at_us
            fields = msgspec.structs.asdict(observed.reading)
            data = ev.SensorSampled(sensor=self._sensor.name, used_bytes=observed.used_bytes, **fields)
            self._ledger.emit(ev.Event(data=data, stream=_SENSOR))

    async def _carry_out(self, decision: Decision, asked: Asked) -> None:
        seq = await self._ledger.commit(self._event(decision, asked))
        self._state = evolve(self._state, decision, self._policy)
        match decision:
            case LimitChanged():
                self._lowered = seq
                self._follower.on_limit(decision.to_bytes, seq)
            case Breached():
                self._breach = seq
                self._follower.on_breach(seq)
            case Cleared():
                self._breach = None
                self._follower.on_cleared(seq)
            case SwapThrash():
                self._thrashed = seq
            case SwapRecovered():
                self._thrashed = None

    def _event(self, decision: Decision, asked: Asked) -> ev.Event:
        data: ev.EventData
        told = asked.told()
        match decision:
            case SwapThrash(bytes_per_s):
                data = ev.SensorSwapThrash(bytes_per_s=bytes_per_s, window_s=self._policy.swap.window_s, asked=told)
                return ev.Event(data=data, stream=_SENSOR)
            case SwapRecovered(bytes_per_s):
                data = ev.SensorSwapRecovered(bytes_per_s=bytes_per_s, window_s=self._policy.swap.window_s, asked=told)
                return ev.Event(data=data, stream=_SENSOR)
            case LimitChanged():
                cause = self._thrashed if decision.reason is Reason.SWAP else None
                # What follows from it is loud: on a machine that others use too it happens many times a day.
                severity = ev.Severity.INFO
                return ev.Event(data=_limit_changed(decision, told), stream=_GUARD, cause=cause, severity=severity)
            case Breached():
                data = ev.GuardThresholdBreached(**_threshold(decision), page_at=self._policy.page_at, asked=told)
                return ev.Event(data=data, stream=_GUARD, cause=self._lowered if decision.reason else None)
            case Cleared():
                page_at, page_to = self._policy.page_at, self._policy.page_to
                data = ev.GuardThresholdCleared(**_threshold(decision), page_at=page_at, page_to=page_to, asked=told)
                return ev.Event(data=data, stream=_GUARD)


def _limit_changed(decision: LimitChanged, told: list[Any]) -> ev.EventData:
    kind = ev.GuardThresholdCleared if decision.reason is Reason.RECOVERED else ev.GuardThresholdBreached
    used, limit = decision.observed.used_bytes, decision.to_bytes
    return kind(
        name=LIMIT,
        used_bytes=used,
        limit_bytes=limit,
        fraction=round(fraction(used, limit), 4),
        reason=decision.reason.value,
        from_bytes=decision.from_bytes,
        to_bytes=decision.to_bytes,
        readings=_readings(decision),
        asked=told,
    )


def _readings(decision: LimitChanged) -> dict[str, Any]:
    """What the change was taken from; what the machine does not say is left out."""
    observed = decision.observed
    said = msgspec.structs.asdict(observed.reading) if observed.reading is not None else {}
    own = {
        "configured_bytes": observed.configured_bytes,
        "floor_bytes": observed.floor_bytes,
        "headroom_bytes": decision.headroom_bytes,
    }
    return {**own, **{name: value for name, value in said.items() if value is not None}}


def _threshold(decision: Breached | Cleared) -> dict[str, Any]:
    return {
        "name": MEMORY,
        "used_bytes": decision.used_bytes,
        "limit_bytes": decision.limit_bytes,
        "fraction": round(decision.fraction, 4),
        "reason": decision.reason.value if decision.reason else "used",
    }
