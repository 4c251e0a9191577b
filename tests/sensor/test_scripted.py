"""A script of readings: what holds when, and what is wrong with a bad one."""

from pathlib import Path

import pytest

from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.sensed import HeatReading, MemoryReading, Pressure, ThermalLevel
from lmx_ledger.sensor.choose import choose
from lmx_ledger.sensor.linux import LinuxMemory
from lmx_ledger.sensor.linux_heat import LinuxThermal, NvidiaGpu
from lmx_ledger.sensor.macos import MacMemory
from lmx_ledger.sensor.macos_heat import MacGpu, MacGpuClock, MacPower, MacThermal
from lmx_ledger.sensor.reading import SensorError
from lmx_ledger.sensor.scripted import PARTS, Script, ScriptedHeat, ScriptedMemory, ScriptError

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
    return ScriptedMemory(Script.load(file, clock)), clock


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
        choose(str(file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match="cannot be read as a script"):
        choose(str(file))


def test_without_a_script_the_platforms_sensors_are_chosen(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds() -> list[type]:
        sensors = choose(None)
        return [type(sensors.memory), *map(type, sensors.heat)]

    file.write_text(LINE)
    scripted = choose(str(file))
    assert isinstance(scripted.memory, ScriptedMemory)
    assert [sensor.name for sensor in scripted.heat] == ["scripted.thermal", "scripted.gpu", "scripted.power"]
    monkeypatch.setattr("sys.platform", "darwin")
    assert kinds() == [MacMemory, MacThermal, MacGpu, MacGpuClock, MacPower]
    monkeypatch.setattr("sys.platform", "linux")
    assert kinds() == [LinuxMemory, LinuxThermal, NvidiaGpu]


# --- heat -----------------------------------------------------------------------------------------------------------

HOT = (
    ', "level": "heavy", "celsius": 96.5, "gpu_busy": 0.98, "gpu_mhz": 1093, "slowed": true, "low_power": false,'
    ' "for_s": 2'
)


def heat(script: Script) -> tuple[HeatReading, HeatReading, HeatReading]:
    thermal, gpu, power = (ScriptedHeat(script, part).read() for part in PARTS)
    return thermal, gpu, power


def test_each_sensor_of_heat_recites_its_part_and_a_line_without_it_says_nothing(file: Path) -> None:
    file.write_text(f"{line(1, HOT)}\n{LINE}\n")
    clock = Clock()
    script = Script.load(file, clock)
    assert heat(script) == (
        HeatReading(level=ThermalLevel.HEAVY, celsius=96.5),
        HeatReading(gpu_busy=0.98, gpu_mhz=1093, slowed=True),
        HeatReading(low_power=False),
    )
    clock.now_s += 2
    assert heat(script) == (HeatReading(),) * 3
    assert ScriptedMemory(script).read() == MemoryReading(total_bytes=1000, available_bytes=500)


def test_every_field_of_heat_is_some_sensors() -> None:
    assert sorted(name for part in PARTS.values() for name in part) == sorted(HeatReading.__struct_fields__)


def test_one_sensor_can_fail_alone_and_an_outage_is_everybodys(file: Path) -> None:
    file.write_text(line(1, ', "errors": {"gpu": "unplugged"}, "for_s": 2') + '\n{"error": "all dark"}\n')
    clock = Clock()
    script = Script.load(file, clock)
    assert ScriptedHeat(script, "thermal").read() == HeatReading()
    assert ScriptedMemory(script).read().available_bytes == 1
    with pytest.raises(SensorError, match="unplugged"):
        ScriptedHeat(script, "gpu").read()
    clock.now_s += 2
    for part in PARTS:
        with pytest.raises(SensorError, match="all dark"):
            ScriptedHeat(script, part).read()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (', "level": "warm"', "warm"),
        (', "gpu_busy": "all"', "float"),
        (', "low_power": 1', "bool"),
        (', "errors": {"fan": "stuck"}', "fan"),
        (', "errors": {"gpu": ""}', "length >= 1"),
    ],
)
def test_a_mistake_in_a_line_of_heat_is_told(file: Path, more: str, says: str) -> None:
    with pytest.raises(ScriptError, match=says):
        load(file, line(1, more))
