"""What sysctl and vm_stat print, read from recorded text; no Mac was asked."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmx_ledger.core.sensed import MemoryReading, Pressure
from lmx_ledger.sensor.macos import MacMemory, parse, run_command
from lmx_ledger.sensor.reading import SensorError

RECORDED = Path(__file__).parents[1] / "fixtures" / "macos"
SYSCTL = (RECORDED / "sysctl.txt").read_text()
CRITICAL = (RECORDED / "sysctl_critical.txt").read_text()
VM_STAT = (RECORDED / "vm_stat.txt").read_text()
PAGE = 16_384


def test_a_recorded_machine_is_read() -> None:
    def printed(command: Sequence[str]) -> str:
        return {"/usr/sbin/sysctl": SYSCTL, "/usr/bin/vm_stat": VM_STAT}[command[0]]

    assert MacMemory(printed).read() == MemoryReading(
        total_bytes=34_359_738_368,
        available_bytes=(123_456 + 456_789 + 56_789) * PAGE,
        swap_used_bytes=1024 * 1024**2 + 512 * 1024,
        swap_in_bytes=123 * PAGE,
        swap_out_bytes=45 * PAGE,
        pressure=Pressure.NORMAL,
    )


@pytest.mark.parametrize(
    ("level", "pressure"), [("1", Pressure.NORMAL), ("2", Pressure.WARN), ("4", Pressure.CRITICAL), ("3", None)]
)
def test_the_levels_of_pressure_are_the_kernels(level: str, pressure: Pressure | None) -> None:
    assert parse(SYSCTL.replace("level: 1", f"level: {level}"), VM_STAT).pressure is pressure
    assert parse(CRITICAL, VM_STAT).pressure is Pressure.CRITICAL


def test_what_a_release_does_not_say_is_left_out() -> None:
    vm_stat = "".join(line for line in VM_STAT.splitlines(keepends=True) if not line.startswith("Swap"))
    reading = parse("hw.memsize: 34359738368\n", vm_stat)
    assert (reading.pressure, reading.swap_used_bytes, reading.swap_in_bytes, reading.swap_out_bytes) == (None,) * 4


def test_a_decimal_comma_is_a_decimal_point() -> None:
    assert parse(SYSCTL.replace("1024.50M", "1024,50M"), VM_STAT) == parse(SYSCTL, VM_STAT)


def test_no_more_is_available_than_there_is() -> None:
    assert parse(SYSCTL, VM_STAT.replace("456789", "99999999")).available_bytes == 34_359_738_368


@pytest.mark.parametrize(
    ("sysctl", "vm_stat", "says"),
    [
        ("", VM_STAT, "hw.memsize"),
        ("hw.memsize: 0\n", VM_STAT, "hw.memsize"),
        ("hw.memsize: a lot\n", VM_STAT, "hw.memsize"),
        (SYSCTL, "", "vm_stat"),
        (SYSCTL, VM_STAT.replace("page size", "size"), "vm_stat"),
        (SYSCTL, VM_STAT.replace("Pages free", "Pages"), "vm_stat"),
    ],
)
def test_without_its_size_and_what_is_free_there_is_no_reading(sysctl: str, vm_stat: str, says: str) -> None:
    with pytest.raises(SensorError, match=says):
        parse(sysctl, vm_stat)


def test_a_program_that_is_not_there_is_an_error_of_the_sensor() -> None:
    with pytest.raises(SensorError, match="/nowhere/vm_stat cannot be run"):
        run_command(["/nowhere/vm_stat"])


def test_one_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmx_ledger.sensor.macos._TIMEOUT_S", 0.05)
    with pytest.raises(SensorError, match="timed out"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"])


def test_what_it_prints_counts_whatever_its_status() -> None:
    assert run_command([sys.executable, "-c", "print('hw.memsize: 1'); raise SystemExit(1)"]) == "hw.memsize: 1\n"
