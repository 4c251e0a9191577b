"""A script of readings: what holds when, and what is wrong with a bad one."""

from pathlib import Path

import pytest

from lmx_ledger.core.errors import StartupError
from lmx_ledger.sensor.choose import choose_memory
from lmx_ledger.sensor.linux import LinuxMemory
from lmx_ledger.sensor.macos import MacMemory
from lmx_ledger.sensor.reading import MemoryReading, Pressure, SensorError
from lmx_ledger.sensor.scripted import ScriptedMemory, ScriptError

LINE = '{"total_bytes": 1000, "available_bytes": 500}'


def line(available: int, more: str = "") -> str:
    return f'{{"total_bytes": 1000, "available_bytes": {available}{more}}}'


class Clock:
    """Nanoseconds."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


def load(file: Path, text: str) -> tuple[ScriptedMemory, Clock]:
    file.write_text(text)
    clock = Clock()
    return ScriptedMemory.load(file, clock), clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "readings.jsonl"


def test_each_line_holds_for_its_while_from_the_first_read_on_and_the_last_one_for_good(file: Path) -> None:
    lines = [line(1, ', "for_s": 2'), line(2, ', "for_s": 0.5'), "", line(3), line(4, ', "at_s": 10')]
    sensor, clock = load(file, "\n".join(lines))
    clock.now_s += 500
    began_s, seen = clock.now_s, []
    for elapsed_s in (0, 1.9, 2, 2.4, 2.5, 9.9, 10, 10_000):
        clock.now_s = began_s + elapsed_s
        seen.append(sensor.read().available_bytes)
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_line_can_have_all_that_a_reading_has(file: Path) -> None:
    sensor, _ = load(file, line(1, ', "cgroup_limit_bytes": 9, "swap_out_bytes": 7, "pressure": "critical"'))
    assert sensor.read() == MemoryReading(
        total_bytes=1000, available_bytes=1, cgroup_limit_bytes=9, swap_out_bytes=7, pressure=Pressure.CRITICAL
    )


def test_a_line_can_be_an_outage(file: Path) -> None:
    sensor, clock = load(file, f'{{"error": "unplugged", "for_s": 2}}\n{LINE}\n')
    with pytest.raises(SensorError, match="unplugged"):
        sensor.read()
    clock.now_s += 2
    assert sensor.read().available_bytes == 500


@pytest.mark.parametrize(
    ("text", "number", "says"),
    [
        (f"{LINE}\n{{", 2, "truncated"),
        (f"\n{LINE}\n[]", 3, "Expected `object`"),
        ('{"total_bytes": 1000}', 1, "available_bytes"),
        (line(-1), 1, ">= 0"),
        (line(1, ', "avilable": 1'), 1, "avilable"),
        (line(1, ', "pressure": "high"'), 1, "high"),
        (line(1, ', "swap_in_bytes": 1.5'), 1, "Expected `int"),
        (line(1, ', "swap_in_bytes": NaN'), 1, "malformed"),
        (line(1, ', "for_s": 0'), 1, "> 0"),
        (line(1, ', "for_s": 1e999'), 1, "out of range"),
        ('{"error": ""}', 1, "error"),
        ('{"error": "x", "available_bytes": 1}', 1, "available_bytes"),
        (f"{LINE}\n{LINE}", 2, "for_s"),
        (line(1, ', "for_s": 5') + "\n" + line(1, ', "at_s": 0'), 2, "not behind"),
    ],
)
def test_a_mistake_is_told_with_its_line(file: Path, text: str, number: int, says: str) -> None:
    with pytest.raises(ScriptError) as error:
        load(file, text)
    assert str(error.value).startswith(f"{file}:{number}: ")
    assert says in str(error.value)


@pytest.mark.parametrize("text", ["", "\n\n", line(1, ', "at_s": 3')])
def test_a_script_says_something_from_the_beginning(file: Path, text: str) -> None:
    with pytest.raises(ScriptError, match="begins at 0 s"):
        load(file, text)


def test_a_file_that_cannot_be_read_ends_a_start(file: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read as a script"):
        choose_memory(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match="cannot be read as a script"):
        choose_memory(str(file))


def test_without_a_script_the_platforms_sensor_is_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(LINE)
    assert isinstance(choose_memory(str(file)), ScriptedMemory)
    monkeypatch.setattr("sys.platform", "darwin")
    assert isinstance(choose_memory(None), MacMemory)
    monkeypatch.setattr("sys.platform", "linux")
    assert isinstance(choose_memory(None), LinuxMemory)
