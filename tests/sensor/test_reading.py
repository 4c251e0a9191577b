"""What several sensors of heat say between them, and which figures cannot be."""

import math

import pytest

from lmx_ledger.core.sensed import LEVELS, HeatReading, ThermalLevel, plausible, together


def test_the_levels_are_macoss_from_cool_to_hot() -> None:
    assert [level.rank for level in LEVELS] == [0, 1, 2, 3, 4]
    assert ThermalLevel.HEAVY.rank == 2


def test_each_sensor_says_its_part_the_first_word_counts_and_of_temperatures_the_hottest() -> None:
    parts = [
        HeatReading(level=ThermalLevel.MODERATE, celsius=61.0),
        HeatReading(gpu_busy=0.5, slowed=False),
        HeatReading(gpu_busy=0.9, gpu_mhz=1_200, celsius=74.5),
        HeatReading(low_power=False),
    ]
    assert together(parts) == HeatReading(
        level=ThermalLevel.MODERATE, celsius=74.5, gpu_busy=0.5, gpu_mhz=1_200, low_power=False, slowed=False
    )
    assert together([]) == HeatReading()


@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf, -1.0, 1e9])
def test_a_figure_that_cannot_be_is_none_and_does_not_hide_one_that_can(absurd: float) -> None:
    wrong = HeatReading(gpu_busy=absurd, gpu_mhz=absurd, celsius=absurd if absurd != -1.0 else -300.0)
    assert plausible(wrong) == HeatReading()
    right = HeatReading(gpu_busy=0.0, gpu_mhz=338.0, celsius=-4.0)
    assert together([wrong, right]) == right


def test_a_clock_that_stands_still_is_none() -> None:
    assert plausible(HeatReading(gpu_mhz=0.0)) == HeatReading()
