"""What sensors of heat say becomes events, and only then is told: a script of readings, a real ledger."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.sensed import HeatReading, ThermalLevel
from lmx_ledger.daemon.heat_watch import HeatWatch
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.log_lines import render
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.sensor.scripted import PARTS, Script, ScriptedHeat
from tests.conftest import eventually
from tests.ledger.parts import locked, writing

MEMORY: dict[str, Any] = {"total_bytes": 1000, "available_bytes": 500}
FAST = {**MEMORY, "level": "nominal", "gpu_busy": 0.98, "gpu_mhz": 1384, "low_power": False}
SLOW = {**FAST, "gpu_mhz": 1093}
HEAVY = {**MEMORY, "level": "heavy", "celsius": 96.5, "low_power": False}
NOMINAL = {**HEAVY, "level": "nominal", "celsius": 60.0}
BEGIN_US = 1_700_000_000_000_000
BEGIN = "2023-11-14T22:13"


class Watched:
    """A watch, who follows it, and what they leave in the ledger."""

    def __init__(self, folder: Path, ledger: Ledger, *lines: dict[str, Any]) -> None:
        file = folder / "readings.jsonl"
        file.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
        self.now_s = 0.0
        self.slept_s = 500.0
        self.ledger = ledger
        self.told: list[tuple[str, object]] = []
        self.committed: list[bool] = []
        script = Script.load(file, lambda: int(self.now_s * 1e9))
        self.watch = HeatWatch(
            [ScriptedHeat(script, part) for part in PARTS],
            ledger,
            every_s=2.0,
            clock=lambda: BEGIN_US + int(self.now_s * 1e6),
            slept=lambda: self.slept_s,
        )
        self.watch.on_change = self._changed

    def _changed(self) -> None:
        seq = self.watch.cause
        self.told.append(("throttled" if self.watch.throttled else "recovered", seq))
        self.committed.append(seq is None or (isinstance(seq, int) and self.ledger.last_seq >= seq))

    async def look(self, until_s: float) -> None:
        while self.now_s < until_s:
            await self.watch.look()
            self.now_s += 2.0

    def events(self, *types: str) -> list[Recorded]:
        assert self.ledger.flush(10)
        reader = Reader.open(self.ledger.path)
        found = reader.events(EventFilter(types=types))
        reader.close()
        return list(found)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with writing(tmp_path / "ledger.db") as opened:
        yield opened


async def test_a_clock_that_falls_under_load_is_written_down_told_and_over_when_it_has_been_cool(
    tmp_path: Path, ledger: Ledger
) -> None:
    seen = Watched(tmp_path, ledger, {**FAST, "for_s": 30}, {**SLOW, "for_s": 20}, FAST)
    await seen.look(30)
    assert (seen.watch.throttled, seen.told) == (False, [])
    await seen.look(50)
    assert seen.watch.throttled
    (throttled,) = seen.events("sensor.thermal_*")
    assert (throttled.type, throttled.severity, throttled.stream) == (
        "sensor.thermal_throttled",
        Severity.WARNING,
        "sensor",
    )
    assert throttled.data == {
        "reason": "gpu_clock",
        "gpu_drop": 0.2103,
        "gpu_mhz": 1093.0,
        "baseline_mhz": 1384.0,
        "gpu_busy": 0.98,
        "level": "nominal",
    }
    assert render(throttled) == "[LMX-Guard] Thermal throttle detected (GPU freq drop 21%)."
    await seen.look(90)
    _, recovered = seen.events("sensor.thermal_*")
    assert (recovered.type, recovered.cause) == ("sensor.thermal_recovered", throttled.seq)
    assert recovered.data == {"cool_s": 30.0, "gpu_mhz": 1384.0, "level": "nominal"}
    assert seen.told == [("throttled", throttled.seq), ("recovered", None)]
    assert all(seen.committed)
    assert not seen.watch.throttled


async def test_each_reason_has_its_line(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, {**HEAVY, "for_s": 10}, {**NOMINAL, "for_s": 40}, {**FAST, "slowed": True})
    await seen.look(60)
    assert [render(event) for event in seen.events("sensor.thermal_throttled")] == [
        "[LMX-Guard] Thermal throttle detected (thermal pressure: heavy).",
        "[LMX-Guard] Thermal throttle detected (by the GPU's driver, at 1384 MHz).",
    ]


async def test_a_sensor_that_fails_is_told_once_until_it_is_back_and_takes_no_other_along(
    tmp_path: Path, ledger: Ledger
) -> None:
    broken = {**HEAVY, "gpu_busy": 0.5, "errors": {"gpu": "unplugged"}}
    seen = Watched(tmp_path, ledger, {**broken, "for_s": 10}, {**broken, "errors": {}, "for_s": 10}, broken)
    await seen.look(10)
    assert (seen.watch.throttled, seen.watch.level, seen.watch.gpu_busy) == (True, ThermalLevel.HEAVY, None)
    await seen.look(20)
    assert seen.watch.gpu_busy == 0.5
    await seen.look(30)
    kept = seen.events("sensor.sampled", "sensor.unavailable")
    assert [event.type.removeprefix("sensor.") for event in kept] == [
        "unavailable",
        "sampled",
        "sampled",
        "unavailable",
    ]
    assert kept[0].data == {"sensor": "scripted.gpu", "error": "unplugged"}
    assert [event.data["gpu_busy"] for event in kept[1:3]] == [None, 0.5]


async def test_a_sample_is_kept_once_a_minute_and_none_where_nothing_is_said(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, {**MEMORY, "for_s": 10}, {**NOMINAL, "gpu_busy": 0.25, "gpu_mhz": 461})
    await seen.look(200)
    first, *others = seen.events("sensor.sampled")
    assert len(others) == 3
    assert {name: value for name, value in first.data.items() if value is not None} == {
        "sensor": "heat",
        "level": "nominal",
        "celsius": 60.0,
        "gpu_busy": 0.25,
        "gpu_mhz": 461.0,
        "low_power": False,
    }
    assert render(first) == "[LMX-Guard] Heat: level nominal, 60 degrees, GPU busy 25% at 461 MHz."


async def test_a_clock_set_back_leaves_no_hour_without_a_sample(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, NOMINAL)
    seen.now_s = 7_200.0
    await seen.look(7_202)
    seen.now_s = 3_600.0
    await seen.look(3_604)
    assert len(seen.events("sensor.sampled")) == 2


async def test_a_machine_that_slept_is_told_when_it_wakes_and_what_was_before_proves_nothing(
    tmp_path: Path, ledger: Ledger
) -> None:
    seen = Watched(tmp_path, ledger, HEAVY)
    await seen.look(6)
    # It slept for a little while: no gap that the wall clock could show.
    seen.now_s, seen.slept_s = 8.0, 503.5
    await seen.look(12)
    slept, woke = seen.events("sensor.slept", "sensor.woke")
    assert (slept.data, woke.data) == ({"from_time": f"{BEGIN}:24.000000Z"}, {"slept_s": 3.5})
    assert (woke.cause, seen.told, seen.watch.throttled) == (slept.seq, [], False)
    await seen.look(16)
    assert [what for what, _ in seen.told] == ["throttled"]


async def test_low_power_mode_is_told_and_its_clocks_are_no_throttling(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(
        tmp_path, ledger, {**FAST, "for_s": 30}, {**SLOW, "gpu_mhz": 700, "low_power": True, "for_s": 60}, FAST
    )
    await seen.look(120)
    on, off = seen.events("sensor.power_mode_changed", "sensor.thermal_*")
    assert (on.data, off.data) == ({"low_power": True}, {"low_power": False})
    assert not seen.told


async def test_a_machine_that_says_nothing_is_watched_without_a_word(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, MEMORY)
    await seen.look(200)
    assert (seen.events("sensor.*"), seen.told, seen.watch.reading) == ([], [], HeatReading())


async def test_a_ledger_that_cannot_commit_does_not_stop_the_watch(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, HEAVY)
    with locked(ledger.path):
        await seen.look(8)
        assert seen.told == [("throttled", None)]
    assert len(seen.events("sensor.thermal_throttled")) == 1


async def test_it_looks_until_it_is_stopped_and_nobody_has_to_follow(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, NOMINAL)
    script = Script.load(tmp_path / "readings.jsonl")
    watch = HeatWatch([ScriptedHeat(script, "thermal")], ledger, every_s=0.01)
    running = asyncio.create_task(watch.run())
    await eventually(lambda: watch.level is ThermalLevel.NOMINAL)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    assert len(seen.events("sensor.sampled")) == 1
