"""For how long the machine has slept since it was started: two of its clocks, of which one stands still meanwhile.

Wall time says nothing of that: it is also set, by hand and by NTP.
"""

import sys
import time


def slept_s() -> float:
    """Seconds of sleep since the machine's start; they only grow.

    Linux: CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not, and is slewed alike. macOS: mach_continuous_time and
    mach_absolute_time, by their names in clock_gettime(3). CLOCK_MONOTONIC counts sleep there, and follows the wall.
    """
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC_RAW) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
