"""A process's memory as macOS accounts for it: phys_footprint, which has what Metal holds for it and RSS has not."""

import ctypes
import sys
from typing import Any, Final

_V0: Final = 0


class _RusageInfoV0(ctypes.Structure):
    """struct rusage_info_v0 of <sys/resource.h>."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "ri_user_time",
                "ri_system_time",
                "ri_pkg_idle_wkups",
                "ri_interrupt_wkups",
                "ri_pageins",
                "ri_wired_size",
                "ri_resident_size",
                "ri_phys_footprint",
                "ri_proc_start_abstime",
                "ri_proc_exit_abstime",
            )
        ),
    )


def phys_footprint(pid: int, library: Any = None) -> int | None:
    """Bytes of that process; None where the system does not say: another system, another user's, none of that pid.

    `library` is libproc, opened; macOS has it in libSystem.
    """
    if library is None and sys.platform != "darwin":
        return None
    try:
        call = (ctypes.CDLL("/usr/lib/libSystem.B.dylib") if library is None else library).proc_pid_rusage
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p), ctypes.c_int
    info = _RusageInfoV0()
    return int(info.ri_phys_footprint) if call(pid, _V0, ctypes.byref(info)) == 0 else None
