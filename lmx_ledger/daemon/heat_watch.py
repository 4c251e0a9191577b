"""Reads the sensors of heat, has the guard judge what they say, and writes it down before anybody acts on it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.sensed import HeatReading, ThermalLevel, together
from lmx_ledger.guard import sleep, thermal
from lmx_ledger.guard.thermal import Policy, PowerModeChanged, ThermalRecovered, ThermalThrottled
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.sensor.reading import Sensor, SensorError
from lmx_ledger.sensor.sleep import slept_s

SAMPLE_EVERY_S: Final = 60.0
HEAT: Final = "heat"
"""The sensor of a sample: what all of them say between them."""
_SENSOR: Final = "sensor"


class HeatWatch:
    """One per daemon."""

    def __init__(
        self,
        sensors: Sequence[Sensor[HeatReading]],
        ledger: Ledger,
        *,
        every_s: float,
        policy: Policy | None = None,
        clock: Callable[[], int] = utc_us,
        slept: Callable[[], float] = slept_s,
    ) -> None:
        """`clock` gives wall time in microseconds, `slept` the seconds that the machine has slept since its start."""
        self._sensors = sensors
        self._ledger = ledger
        self._every_s = every_s
        self.on_change: Callable[[], None] = lambda: None
        """Called when `throttled` has changed, behind the event."""
        self._policy = (policy or Policy()).read_every(every_s)
        self._clock = clock
        self._slept = slept
        self._state = thermal.State()
        self._sleep = sleep.State()
        self._missing: set[str] = set()
        self._sampled_us: int | None = None
        self._throttled: ev.Cause = None
        self.reading = HeatReading()
        """The last one: what all sensors say between them."""

    @property
    def throttled(self) -> bool:
        """Whether heat slows the machine."""
        return self._state.throttled is not None

    @property
    def cause(self) -> ev.Cause:
        """The event that said that it does; None where it does not."""
        return self._throttled

    def figures(self) -> dict[str, float | None]:
        """For `/metrics`."""
        mhz = self.reading.gpu_mhz
        return {
            "lmx_gpu_busy_ratio": self.reading.gpu_busy,
            "lmx_gpu_frequency_hertz": None if mhz is None else mhz * 1e6,
            "lmx_thermal_throttled": float(self.throttled),
        }

    @property
    def baseline_mhz(self) -> float | None:
        """The clock of a cool GPU under load, as far as it was learned."""
        return self._state.baseline_mhz

    def teach(self, baseline_mhz: float | None) -> None:
        """For a rehearsal: from now on it is that, and no clock is remembered."""
        self._state = self._state._replace(baseline_mhz=baseline_mhz, clocks=())

    @property
    def level(self) -> ThermalLevel | None:
        """What the system said last of its heat."""
        return self.reading.level

    @property
    def gpu_busy(self) -> float | None:
        """For which share of the time the GPU had work, when it was asked last."""
        return self.reading.gpu_busy

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Once: read, decide, write down, tell."""
        parts = await asyncio.gather(*(self._read(sensor) for sensor in self._sensors))
        self.reading = together(parts)
        at_us = self._clock()
        self._sample(at_us)
        observed = thermal.Observed(at_us, self.reading, slept=self._look_for_sleep(at_us))
        decisions = thermal.decide(self._state, observed, self._policy)
        self._state = thermal.evolve(self._state, observed, self._policy)
        for decision in decisions:
            await self._carry_out(decision)

    async def _read(self, sensor: Sensor[HeatReading]) -> HeatReading:
        try:
            reading = await asyncio.to_thread(sensor.read)
        except SensorError as error:
            if sensor.name not in self._missing:
                self._missing.add(sensor.name)
                self._emit(ev.SensorUnavailable(sensor=sensor.name, error=str(error)[:500]))
            return HeatReading()
        if sensor.name in self._missing:
            # The next sample says that it is back.
            self._missing.discard(sensor.name)
            self._sampled_us = None
        return reading

    def _sample(self, at_us: int) -> None:
        if self.reading == HeatReading():
            return
        since_us = None if self._sampled_us is None else at_us - self._sampled_us
        # Also where the clock went back, or there would be none for as long as it did.
        if since_us is None or not 0 <= since_us < SAMPLE_EVERY_S * 1e6:
            self._sampled_us = at_us
            self._emit(ev.SensorSampled(sensor=HEAT, **msgspec.structs.asdict(self.reading)))

    def _look_for_sleep(self, at_us: int) -> bool:
        look = sleep.Observed(at_us, self._slept())
        decisions = sleep.decide(self._sleep, look)
        self._sleep = sleep.evolve(self._sleep, look)
        cause: ev.Cause = None
        for decision in decisions:
            match decision:
                case sleep.Slept(from_us):
                    cause = self._emit(ev.SensorSlept(from_time=rfc3339(from_us)))
                case sleep.Woke(seconds):
                    self._emit(ev.SensorWoke(slept_s=round(seconds, 3)), cause)
        return bool(decisions)

    async def _carry_out(self, decision: thermal.Decision) -> None:
        match decision:
            case ThermalThrottled():
                self._throttled = await self._ledger.commit(_event(_throttled(decision)))
                self._state = thermal.evolve(self._state, decision, self._policy)
                self.on_change()
            case ThermalRecovered(cool_s, mhz, level):
                data = ev.SensorThermalRecovered(cool_s=round(cool_s, 3), gpu_mhz=mhz, level=level)
                await self._ledger.commit(_event(data, self._throttled))
                self._state = thermal.evolve(self._state, decision, self._policy)
                self._throttled = None
                self.on_change()
            case PowerModeChanged(low_power):
                self._emit(ev.SensorPowerModeChanged(low_power=low_power))
                self._state = thermal.evolve(self._state, decision, self._policy)

    def _emit(self, data: ev.EventData, cause: ev.Cause = None) -> ev.Ticket:
        return self._ledger.emit(_event(data, cause))


def _event(data: ev.EventData, cause: ev.Cause = None) -> ev.Event:
    return ev.Event(data=data, stream=_SENSOR, cause=cause)


def _throttled(decision: ThermalThrottled) -> ev.EventData:
    return ev.SensorThermalThrottled(
        reason=decision.reason.value,
        gpu_drop=None if decision.drop is None else round(decision.drop, 4),
        gpu_mhz=decision.mhz,
        baseline_mhz=decision.baseline_mhz,
        gpu_busy=decision.busy,
        level=decision.level,
    )
