"""What a sensor says becomes events, and only then acts: a script of readings, a real ledger."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.sensed import HeatReading
from lmx_ledger.daemon.watch import MemoryWatch
from lmx_ledger.guard.recorded_memory import TYPES, asked, is_of
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.log_lines import render
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.sensor.scripted import Script, ScriptedMemory
from tests.conftest import eventually
from tests.ledger.parts import locked, writing

GB = 10**9
HEAT = HeatReading.__struct_fields__
TOTAL = 32 * GB
HEADROOM = 640 * 10**6
ROOMY: dict[str, Any] = {"total_bytes": TOTAL, "available_bytes": 28 * GB}
TIGHT: dict[str, Any] = {"total_bytes": TOTAL, "available_bytes": 4 * GB}


class Clock:
    """The watch's microseconds and the script's nanoseconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def us(self) -> int:
        return 1_700_000_000_000_000 + int(self.now_s * 1e6)

    def ns(self) -> int:
        return int(self.now_s * 1e9)


class Ours:
    def __init__(self) -> None:
        self.used = [4 * GB]
        self.configured_bytes = 24 * GB
        self.reserved_bytes = 0
        self.floor_bytes = 1 * GB
        self.reserve = 0

    @property
    def used_bytes(self) -> int:
        """Each once, the last one for good."""
        return self.used.pop(0) if len(self.used) > 1 else self.used[0]


class Watched:
    """A watch, who follows it, and what they leave in the ledger."""

    def __init__(self, folder: Path, ledger: Ledger, *lines: dict[str, Any]) -> None:
        script = folder / "readings.jsonl"
        script.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
        self.clock = Clock()
        self.account = Ours()
        self.ledger = ledger
        self.told: list[tuple[str, int | None]] = []
        self.committed: list[bool] = []
        sensor = ScriptedMemory(Script.load(script, self.clock.ns))
        self.watch = MemoryWatch(sensor, self.account, self, ledger, every_s=2.0, clock=self.clock.us)

    def on_limit(self, limit_bytes: int, seq: int | None) -> None:
        self._tell(f"limit {limit_bytes}", seq)

    def on_breach(self, seq: int | None) -> None:
        self._tell("breach", seq)

    def on_cleared(self, seq: int | None) -> None:
        self._tell("cleared", seq)

    def _tell(self, what: str, seq: int | None) -> None:
        self.told.append((what, seq))
        self.committed.append(seq is not None and self.ledger.last_seq >= seq)

    async def look(self, until_s: float) -> None:
        while self.clock.now_s < until_s:
            await self.watch.look()
            self.clock.now_s += 2.0

    def events(self, *types: str) -> list[Recorded]:
        assert self.ledger.flush(10)
        reader = Reader.open(self.ledger.path)
        found = reader.events(EventFilter(types=types))
        reader.close()
        for event in found:
            # Asked again, the guard comes to the same.
            if (question := asked(event)) is not None:
                assert any(is_of(decision, event) for decision in question.decide()), event
            else:
                assert event.type not in TYPES
        return list(found)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with writing(tmp_path / "ledger.db") as opened:
        yield opened


async def test_others_take_memory_and_give_it_back(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, {**ROOMY, "for_s": 10}, {**TIGHT, "for_s": 10}, ROOMY)
    await seen.look(10)
    assert (seen.watch.limit_bytes, seen.told) == (24 * GB, [])
    await seen.look(20)
    to = 8 * GB - HEADROOM
    assert seen.watch.limit_bytes == to
    (lowered,) = seen.events("guard.*")
    assert (lowered.type, lowered.severity, lowered.stream) == ("guard.threshold_breached", Severity.INFO, "guard")
    assert {name: value for name, value in lowered.data.items() if value is not None and name != "asked"} == {
        "name": "memory_limit",
        "used_bytes": 4 * GB,
        "limit_bytes": to,
        "fraction": 0.5435,
        "reason": "other_programs",
        "from_bytes": 24 * GB,
        "to_bytes": to,
        "readings": {
            "configured_bytes": 24 * GB,
            "floor_bytes": 1 * GB,
            "headroom_bytes": HEADROOM,
            "total_bytes": TOTAL,
            "available_bytes": 4 * GB,
        },
    }
    await seen.look(60)
    _, raised = seen.events("guard.*")
    assert (raised.type, raised.data["name"]) == ("guard.threshold_cleared", "memory_limit")
    assert (raised.data["from_bytes"], raised.data["to_bytes"]) == (to, 24 * GB)
    assert seen.told == [(f"limit {to}", lowered.seq), (f"limit {24 * GB}", raised.seq)]
    assert all(seen.committed)


async def test_a_limit_that_falls_beneath_what_is_used_is_the_cause_of_the_breach(
    tmp_path: Path, ledger: Ledger
) -> None:
    seen = Watched(
        tmp_path, ledger, {**ROOMY, "available_bytes": 1 * GB, "for_s": 2}, {**ROOMY, "available_bytes": 2 * GB}
    )
    await seen.look(2)
    lowered, breached = seen.events("guard.threshold_breached")
    assert (breached.cause, breached.data["reason"], breached.severity) == (
        lowered.seq,
        "other_programs",
        Severity.WARNING,
    )
    assert render(breached) == "[LMX-Core] VRAM threshold (85%) breached."
    assert seen.watch.breached
    seen.account.used = [3 * GB]
    await seen.look(4)
    (cleared,) = seen.events("guard.threshold_cleared")
    assert (cleared.data["page_at"], cleared.data["page_to"]) == (0.85, 0.75)
    assert [what for what, _ in seen.told] == [f"limit {5 * GB - HEADROOM}", "breach", "cleared"]
    assert not seen.watch.breached


async def test_without_other_programs_the_threshold_is_breached_by_what_is_used(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, ROOMY)
    seen.account.used = [21 * GB]
    await seen.look(4)
    (breached,) = seen.events("guard.*")
    assert (breached.data["fraction"], breached.data["reason"], breached.cause) == (0.875, "used", None)
    assert seen.told == [("breach", breached.seq)]


async def test_swapping_is_told_before_the_limit_that_it_lowers(tmp_path: Path, ledger: Ledger) -> None:
    swapping = [{**ROOMY, "swap_out_bytes": number * 200 * 10**6, "for_s": 2} for number in range(12)]
    seen = Watched(tmp_path, ledger, *swapping)
    await seen.look(60)
    thrash, recovered = seen.events("sensor.swap_*")
    lowered, *_ = seen.events("guard.*")
    assert (thrash.data["bytes_per_s"], thrash.data["window_s"], thrash.stream) == (100 * 10**6, 10.0, "sensor")
    assert (lowered.cause, lowered.data["reason"]) == (thrash.seq, "swap")
    assert recovered.type == "sensor.swap_recovered"


async def test_a_sample_is_kept_once_a_minute_and_when_the_sensor_is_back(tmp_path: Path, ledger: Ledger) -> None:
    reading = {**ROOMY, "pressure": "normal", "swap_used_bytes": 5, "stalled_some": 0.12}
    outage = {"error": "unplugged"}
    seen = Watched(
        tmp_path, ledger, reading, {**outage, "at_s": 130}, {**reading, "at_s": 140}, {**outage, "at_s": 150}
    )
    await seen.look(160)
    kept = seen.events("sensor.*")
    assert [event.type.removeprefix("sensor.") for event in kept] == [
        *("sampled", "sampled", "sampled", "unavailable", "sampled", "unavailable")
    ]
    assert kept[3].data == {"sensor": "scripted", "error": "unplugged"}
    assert {name: value for name, value in kept[0].data.items() if name not in HEAT} == {
        "sensor": "scripted",
        "used_bytes": 4 * GB,
        "total_bytes": TOTAL,
        "available_bytes": 28 * GB,
        "cgroup_limit_bytes": None,
        "cgroup_used_bytes": None,
        "figures": None,
        "swap_used_bytes": 5,
        "swap_in_bytes": None,
        "swap_out_bytes": None,
        "pressure": "normal",
        "stalled_some": 0.12,
        "stalled_full": None,
        "at_us": None,
    }
    assert all(kept[0].data[name] is None for name in HEAT)


async def test_a_clock_set_back_leaves_no_hour_without_a_sample(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, ROOMY)
    seen.clock.now_s = 7_200.0
    await seen.look(7_202)
    seen.clock.now_s = 3_600.0
    await seen.look(3_604)
    assert len(seen.events("sensor.sampled")) == 2


async def test_what_is_freed_or_taken_during_a_reading_is_ours(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, {**ROOMY, "available_bytes": 4 * GB})
    seen.account.used = [20 * GB, 6 * GB]
    await seen.look(2)
    assert seen.watch.limit_bytes == 24 * GB - HEADROOM


async def test_it_looks_until_it_is_stopped(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, TIGHT)
    running = asyncio.create_task(seen.watch.run())
    await eventually(lambda: bool(seen.told))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()


async def test_a_ledger_that_cannot_commit_does_not_stop_the_guard(tmp_path: Path, ledger: Ledger) -> None:
    seen = Watched(tmp_path, ledger, TIGHT)
    with locked(ledger.path):
        await seen.look(2)
        assert seen.told == [(f"limit {8 * GB - HEADROOM}", None)]
    assert len(seen.events("guard.*")) == 1
