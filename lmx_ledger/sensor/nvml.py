"""An NVIDIA GPU by NVML, through ctypes. It imports nothing but the standard library, and can be tried by itself.

Names and numbers: https://docs.nvidia.com/deploy/nvml-api/ (nvml.h).
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_LIBRARY: Final = "libnvidia-ml.so.1"
_GRAPHICS: Final = 0
_TEMPERATURE_GPU: Final = 0
_SUCCESS: Final = 0
_NOT_SAID: Final = frozenset({3, 4, 13})
"""Not supported (a slice of a GPU has no utilization), no permission, no such function in the driver."""
_NO_DRIVER: Final = 9
_SW_THERMAL: Final = 0x20
_HW_THERMAL: Final = 0x40
_HW_SLOWDOWN: Final = 0x8
_HW_POWER_BRAKE: Final = 0x80


class NvmlError(Exception):
    """NVML is there and refuses; the message says which call, and its status."""


class NvmlReading(NamedTuple):
    """One GPU at one moment; None is what it does not say.

    `busy` is the share of the last sampling period (a sixth of a second to a second) in which a kernel ran, `mhz` the
    graphics clock now, `reasons` the bits of why it is not higher, and `slowed` whether heat is among them.
    """

    busy: float | None
    mhz: int | None
    celsius: int | None
    reasons: int | None

    @property
    def slowed(self) -> bool | None:
        """By the driver (0x20), or by the board (0x40; 0x8 without a power brake, which sets that bit as well)."""
        if self.reasons is None:
            return None
        board = bool(self.reasons & _HW_SLOWDOWN) and not self.reasons & _HW_POWER_BRAKE
        return bool(self.reasons & (_SW_THERMAL | _HW_THERMAL)) or board


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """The GPU of that index. It is opened when it is read, and anew behind an error."""

    def __init__(self, index: int = 0, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        self._index = index
        self._load = load
        self._library: Any = None
        self._device = ctypes.c_void_p()

    def read(self) -> NvmlReading | None:
        """None where there is no library, no driver or no such GPU.

        Raises:
            NvmlError: it refuses.
        """
        if self._library is None and not self._open():
            return None
        try:
            return self._read()
        except NvmlError:
            self.close()
            raise

    def close(self) -> None:
        """Give the library back; another reading opens it again."""
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None

    def _open(self) -> bool:
        try:
            library = self._load(_LIBRARY)
        except OSError:
            return False
        status = library.nvmlInit_v2()
        if status != _SUCCESS:
            if status == _NO_DRIVER:
                return False
            raise NvmlError(f"nvmlInit_v2 gave {status}")
        self._library, self._device = library, ctypes.c_void_p()
        try:
            count = self._ask("nvmlDeviceGetCount_v2", ctypes.c_uint())
            there = count is not None and self._index < count.value
            found = there and self._check(
                "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(self._index), ctypes.byref(self._device)
            )
        except NvmlError:
            self.close()
            raise
        if not found:
            self.close()
        return found

    def _read(self) -> NvmlReading:
        device, graphics = self._device, ctypes.c_int(_GRAPHICS)
        busy = self._ask("nvmlDeviceGetUtilizationRates", _Utilization(), device)
        mhz = self._ask("nvmlDeviceGetClockInfo", ctypes.c_uint(), device, graphics)
        celsius = self._ask("nvmlDeviceGetTemperature", ctypes.c_uint(), device, ctypes.c_int(_TEMPERATURE_GPU))
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", ctypes.c_ulonglong(), device)
        if reasons is None:
            # Its name in drivers before 535.
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong(), device)
        return NvmlReading(
            busy=None if busy is None else min(busy.gpu, 100) / 100,
            mhz=None if mhz is None else mhz.value,
            celsius=None if celsius is None else celsius.value,
            reasons=None if reasons is None else reasons.value,
        )

    def _ask(self, name: str, answer: Any, *arguments: Any) -> Any:
        """The answer, filled; None where this GPU or this driver has none."""
        return answer if self._check(name, *arguments, ctypes.byref(answer)) else None

    def _check(self, name: str, *arguments: Any) -> bool:
        function = getattr(self._library, name, None)
        if function is None:
            return False
        status = function(*arguments)
        if status in _NOT_SAID:
            return False
        if status != _SUCCESS:
            raise NvmlError(f"{name} gave {status}")
        return True
