"""Thermal zones as files, and a GPU as NVML would say it."""

from pathlib import Path

import pytest

from lmx_ledger.core.sensed import HeatReading, ThermalLevel
from lmx_ledger.sensor.linux_heat import LinuxThermal, NvidiaGpu
from lmx_ledger.sensor.nvml import Nvml, NvmlError, NvmlReading
from lmx_ledger.sensor.reading import SensorError
from lmx_ledger.sensor.sleep import slept_s


def zone(root: Path, number: int, temp: str | None, *trips: tuple[str, int]) -> None:
    folder = root / f"thermal_zone{number}"
    folder.mkdir()
    if temp is not None:
        (folder / "temp").write_text(f"{temp}\n")
    for at, (kind, celsius) in enumerate(trips):
        (folder / f"trip_point_{at}_type").write_text(f"{kind}\n")
        (folder / f"trip_point_{at}_temp").write_text(f"{celsius}\n")


TRIPS = (("critical", 105_000), ("hot", 95_000), ("active", 50_000), ("passive", 85_000))


@pytest.mark.parametrize(
    ("temp", "level"),
    [
        (84_999, ThermalLevel.NOMINAL),
        (85_000, ThermalLevel.MODERATE),
        (95_000, ThermalLevel.HEAVY),
        (105_000, ThermalLevel.TRAPPING),
    ],
)
def test_the_level_is_the_last_trip_point_that_a_zone_has_reached(
    tmp_path: Path, temp: int, level: ThermalLevel
) -> None:
    zone(tmp_path, 0, str(temp), *TRIPS)
    assert LinuxThermal(tmp_path).read() == HeatReading(level=level, celsius=temp / 1000)


def test_a_zone_that_is_cooler_can_be_over_its_own_trip_points(tmp_path: Path) -> None:
    zone(tmp_path, 0, "70000", *TRIPS)
    zone(tmp_path, 1, "48500", ("passive", 45_000))
    assert LinuxThermal(tmp_path).read() == HeatReading(level=ThermalLevel.MODERATE, celsius=70.0)


def test_a_zone_without_trip_points_or_with_ones_that_are_off_has_no_level(tmp_path: Path) -> None:
    zone(tmp_path, 0, "61000", ("passive", -274_000), ("hot", 0))
    zone(tmp_path, 1, "58000")
    assert LinuxThermal(tmp_path).read() == HeatReading(celsius=61.0)


def test_a_zone_or_a_trip_point_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    zone(tmp_path, 0, None, *TRIPS)
    zone(tmp_path, 1, "warm", *TRIPS)
    with pytest.raises(SensorError, match="none of 2 zones"):
        LinuxThermal(tmp_path).read()
    zone(tmp_path, 2, "90000", *TRIPS)
    (tmp_path / "thermal_zone2" / "trip_point_3_temp").unlink()
    assert LinuxThermal(tmp_path).read() == HeatReading(level=ThermalLevel.NOMINAL, celsius=90.0)


def test_a_machine_without_zones_says_nothing_which_is_no_failure(tmp_path: Path) -> None:
    assert LinuxThermal(tmp_path / "nowhere").read() == HeatReading()


class Gpu(Nvml):
    def __init__(self, says: NvmlReading | NvmlError | None) -> None:
        super().__init__()
        self.says = says

    def read(self) -> NvmlReading | None:
        if isinstance(self.says, NvmlError):
            raise self.says
        return self.says


def test_what_nvml_says_is_the_reading_of_the_gpu() -> None:
    said = NvmlReading(busy=0.97, mhz=1_095, celsius=84, reasons=0x20)
    assert NvidiaGpu(Gpu(said)).read() == HeatReading(gpu_busy=0.97, gpu_mhz=1_095, celsius=84, slowed=True)
    assert NvidiaGpu(Gpu(None)).read() == HeatReading()
    with pytest.raises(SensorError, match="gave 15"):
        NvidiaGpu(Gpu(NvmlError("nvmlDeviceGetClockInfo gave 15"))).read()


def test_a_machine_has_slept_for_some_time_or_none_and_no_less_than_before() -> None:
    first = slept_s()
    # Two clocks are read one after the other: microseconds lie between.
    assert first > -1
    assert slept_s() - first > -1
