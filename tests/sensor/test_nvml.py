"""NVML as a library that is handed in: what it says, what it does not, and what is an error."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.sensor import nvml
from lmx_ledger.sensor.nvml import Nvml, NvmlError, NvmlReading


class Library:
    """One GPU. `status` is what a call gives, where that is not success; `missing` are functions of a newer driver."""

    def __init__(self, **status: int) -> None:
        self.status = status
        self.missing: set[str] = set()
        self.reasons = 0x1
        self.count = 1
        self.opened = self.closed = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name in self.missing:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            return self.status.get(name, 0) or self._answer(name, *arguments)

        return call

    def _answer(self, name: str, *arguments: Any) -> int:
        match name, arguments:
            case "nvmlInit_v2", ():
                self.opened += 1
            case "nvmlShutdown", ():
                self.closed += 1
            case "nvmlDeviceGetCount_v2", (out,):
                out._obj.value = self.count
            case "nvmlDeviceGetHandleByIndex_v2", (index, out):
                out._obj.value = 4_711 + index.value
            case "nvmlDeviceGetUtilizationRates", (_, out):
                out._obj.gpu, out._obj.memory = 97, 41
            case "nvmlDeviceGetClockInfo", (device, graphics, out):
                assert (device.value, graphics.value) == (4_711, 0)
                out._obj.value = 1_095
            case "nvmlDeviceGetTemperature", (_, _, out):
                out._obj.value = 84
            case (("nvmlDeviceGetCurrentClocksEventReasons" | "nvmlDeviceGetCurrentClocksThrottleReasons"), (_, out)):
                out._obj.value = self.reasons
            case _:
                raise AssertionError(name)
        return 0


def gpu(library: Library) -> Nvml:
    return Nvml(load=lambda _: library)


def test_a_gpu_is_read_and_opened_once() -> None:
    library = Library()
    one = gpu(library)
    expected = NvmlReading(busy=0.97, mhz=1_095, celsius=84, reasons=0x1)
    assert (one.read(), one.read(), library.opened) == (expected, expected, 1)
    one.close()
    assert (library.closed, one.read()) == (1, expected)


@pytest.mark.parametrize(
    ("reasons", "slowed"),
    [
        (0x0, False),
        (0x1, False),
        (0x4, False),
        (0x20, True),
        (0x40, True),
        (0x48, True),
        (0x8, True),
        (0x88, False),
        (0xC8, True),
        (0x24, True),
    ],
)
def test_heat_is_told_from_idleness_and_from_limits_of_power(reasons: int, slowed: bool) -> None:
    library = Library()
    library.reasons = reasons
    said = gpu(library).read()
    assert said is not None
    assert said.slowed is slowed


def test_a_driver_before_535_has_the_reasons_by_their_older_name() -> None:
    library = Library()
    library.missing = {"nvmlDeviceGetCurrentClocksEventReasons"}
    library.reasons = 0x40
    said = gpu(library).read()
    assert said is not None
    assert said.slowed is True


def test_what_a_gpu_does_not_support_it_does_not_say() -> None:
    library = Library(
        nvmlDeviceGetUtilizationRates=3,
        nvmlDeviceGetClockInfo=4,
        nvmlDeviceGetTemperature=3,
        nvmlDeviceGetCurrentClocksEventReasons=13,
        nvmlDeviceGetCurrentClocksThrottleReasons=3,
    )
    said = gpu(library).read()
    assert said == NvmlReading(None, None, None, None)
    assert said.slowed is None


def test_no_library_no_driver_and_no_gpu_are_no_reading_and_no_failure() -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    assert Nvml(load=missing).read() is None
    assert gpu(Library(nvmlInit_v2=9)).read() is None
    none = Library()
    none.count = 0
    assert (gpu(none).read(), none.closed) == (None, 1)
    hidden = Library(nvmlDeviceGetHandleByIndex_v2=4)
    assert (gpu(hidden).read(), hidden.closed) == (None, 1)


@pytest.mark.parametrize(
    "name", ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetClockInfo"]
)
def test_a_refusal_is_an_error_behind_which_it_is_opened_anew(name: str) -> None:
    library = Library(**{name: 15})
    one = gpu(library)
    with pytest.raises(NvmlError, match=f"{name} gave 15"):
        one.read()
    assert library.closed == library.opened
    library.status = {}
    assert one.read() is not None


def test_the_module_needs_nothing_but_the_standard_library() -> None:
    file = Path(nvml.__file__)
    code = f"import sys; sys.path[:0] = [{str(file.parent)!r}]; import nvml; print(nvml.Nvml().read())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("None", "NvmlReading"))
