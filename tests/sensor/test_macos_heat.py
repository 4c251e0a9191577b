"""Heat, the GPU and the power mode as macOS prints them, from published output; no Mac was asked."""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmx_ledger.core.sensed import LEVELS, HeatReading, ThermalLevel
from lmx_ledger.engine.worker.footprint import phys_footprint
from lmx_ledger.sensor.macos import Run
from lmx_ledger.sensor.macos_heat import (
    MacGpu,
    MacGpuClock,
    MacPower,
    MacThermal,
    find_macmon,
    level_of,
    notify_state,
    parse_ioreg,
    parse_macmon,
    parse_notifyutil,
    parse_pmset,
)
from lmx_ledger.sensor.reading import SensorError

RECORDED = Path(__file__).parents[1] / "fixtures" / "macos"
NOTIFYUTIL, IOREG, MACMON, PMSET, POWERMODE = (
    (RECORDED / name).read_text()
    for name in ("notifyutil.txt", "ioreg.txt", "macmon.json", "pmset.txt", "pmset_powermode.txt")
)


def printing(text: str, asked: list[Sequence[str]] | None = None) -> Run:
    def run(command: Sequence[str]) -> str:
        if asked is not None:
            asked.append(command)
        return text

    return run


def refuse() -> int:
    raise SensorError("no notify(3) here")


def fails(command: Sequence[str]) -> str:
    raise SensorError(f"{command[0]} cannot be run")


# --- thermal pressure -----------------------------------------------------------------------------------------------


def test_thermal_pressure_is_asked_of_notify_and_no_program_is_started() -> None:
    assert MacThermal(lambda: 1, fails).read() == HeatReading(level=ThermalLevel.MODERATE)


def test_where_notify_cannot_be_called_notifyutil_is() -> None:
    asked: list[Sequence[str]] = []
    assert MacThermal(refuse, printing(NOTIFYUTIL, asked)).read() == HeatReading(level=ThermalLevel.HEAVY)
    assert asked == [("/usr/bin/notifyutil", "-g", "com.apple.system.thermalpressurelevel")]
    with pytest.raises(SensorError, match="notifyutil cannot be run"):
        MacThermal(refuse, fails).read()


@pytest.mark.parametrize("number", range(5))
def test_its_levels_are_counted_from_nominal(number: int) -> None:
    assert level_of(number) is LEVELS[number]
    assert parse_notifyutil(NOTIFYUTIL.replace("2", str(number))) is LEVELS[number]


@pytest.mark.parametrize("text", ["", "com.apple.system.thermalpressurelevel", "x -1", "x 5", "x 18446744073709551615"])
def test_what_is_no_level_is_an_error(text: str) -> None:
    with pytest.raises(SensorError):
        parse_notifyutil(text)


def lib_system(register: int = 0, get: int = 0, state: int = 3) -> tuple[SimpleNamespace, list[str]]:
    called: list[str] = []

    def notify_register_check(name: bytes, token: Any) -> int:
        called.append(name.decode())
        token._obj.value = 42
        return register

    def notify_get_state(token: int, out: Any) -> int:
        called.append(f"get {token}")
        out._obj.value = state
        return get

    def notify_cancel(token: int) -> int:
        called.append(f"cancel {token}")
        return 0

    functions: tuple[Callable[..., int], ...] = (notify_register_check, notify_get_state, notify_cancel)
    return SimpleNamespace(**{function.__name__: function for function in functions}), called


def test_a_token_of_notify_is_given_back_whatever_it_says() -> None:
    library, called = lib_system()
    assert notify_state(library) == 3
    assert called == ["com.apple.system.thermalpressurelevel", "get 42", "cancel 42"]
    library, called = lib_system(get=1)
    with pytest.raises(SensorError, match="notify_get_state gave 1"):
        notify_state(library)
    assert called[-1] == "cancel 42"


def test_a_refusal_of_notify_and_a_library_without_it_are_errors() -> None:
    library, called = lib_system(register=1_000_000)
    with pytest.raises(SensorError, match="notify_register_check gave 1000000"):
        notify_state(library)
    assert called == ["com.apple.system.thermalpressurelevel"]
    with pytest.raises(SensorError, match="cannot be called"):
        notify_state(SimpleNamespace())


# --- the GPU --------------------------------------------------------------------------------------------------------


def test_how_busy_the_gpu_is_is_read_from_ioreg_and_of_several_it_is_the_busiest() -> None:
    assert MacGpu(printing(IOREG)).read() == HeatReading(gpu_busy=0.34)
    assert parse_ioreg(IOREG + IOREG.replace("=34", "=91")) == 0.91
    assert parse_ioreg(IOREG.replace("=34", "=104")) == 1.0


@pytest.mark.parametrize("text", ["", IOREG.replace("Device", "Tiler")])
def test_a_registry_without_a_gpu_is_an_error(text: str) -> None:
    with pytest.raises(SensorError, match="Device Utilization"):
        parse_ioreg(text)


def test_its_clock_is_macmons() -> None:
    asked: list[Sequence[str]] = []
    sensor = MacGpuClock(printing(MACMON, asked), lambda: "/opt/homebrew/bin/macmon")
    assert sensor.read() == HeatReading(gpu_mhz=461, gpu_busy=0.09, celsius=36.95167)
    assert asked[0][:2] == ("/opt/homebrew/bin/macmon", "pipe")


def test_without_macmon_the_clock_is_not_known_which_is_no_failure() -> None:
    assert MacGpuClock(fails, lambda: None).read() == HeatReading()


def test_macmon_is_found_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "macmon"
    file.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_macmon() == str(file)


def test_an_older_macmon_says_it_in_a_pair_and_the_last_line_counts() -> None:
    older = '{"gpu_usage": [1380, 0.97]}'
    assert parse_macmon(MACMON + older + "\n") == HeatReading(gpu_mhz=1_380, gpu_busy=0.97)


@pytest.mark.parametrize("text", ["", "Error: no such channel\n", "[]", '{"gpu_freq_mhz": "fast"}', "{}", '{"gpu'])
def test_what_is_not_macmons_is_an_error(text: str) -> None:
    with pytest.raises(SensorError, match="macmon"):
        parse_macmon(text)


# --- the power mode -------------------------------------------------------------------------------------------------


def test_low_power_mode_is_read_from_pmset() -> None:
    assert MacPower(printing(PMSET)).read() == HeatReading(low_power=True)
    assert parse_pmset(PMSET.replace("lowpowermode         1", "lowpowermode         0")) is False


def test_where_there_is_a_high_power_mode_one_is_low_and_two_is_not() -> None:
    assert parse_pmset(POWERMODE) is False
    assert parse_pmset(POWERMODE.replace("powermode            2", "powermode            1")) is True


def test_a_machine_without_such_a_mode_does_not_say() -> None:
    assert parse_pmset(PMSET.replace("lowpowermode", "proximitywake")) is None
    with pytest.raises(SensorError, match="pmset"):
        parse_pmset("")


# --- a process's footprint ------------------------------------------------------------------------------------------


def test_a_footprint_is_what_proc_pid_rusage_has_of_the_process() -> None:
    def proc_pid_rusage(pid: int, flavour: int, out: Any) -> int:
        # struct rusage_info_v0: 16 bytes of UUID, then phys_footprint as the eighth of ten 64-bit figures.
        assert (flavour, ctypes.sizeof(out._obj)) == (0, 96)
        ctypes.c_uint64.from_buffer(out._obj, 16 + 7 * 8).value = 5_000_000_000 + pid
        return 0 if pid == 7 else -1

    library = SimpleNamespace(proc_pid_rusage=proc_pid_rusage)
    assert phys_footprint(7, library) == 5_000_000_007
    assert phys_footprint(8, library) is None
    assert phys_footprint(7, SimpleNamespace()) is None


def test_another_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert phys_footprint(1) is None
