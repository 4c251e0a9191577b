"""A disk that seems slower, for rehearsals: who has read or written waits as long as such a one would take."""

import time
from collections.abc import Callable
from typing import Final

_SLICE_S: Final = 0.1


class Pace:
    """`bytes_per_s`: no more than so many; 0: as fast as it goes. Any thread may ask and set it."""

    def __init__(self) -> None:
        self.bytes_per_s = 0

    def spend(self, size: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """So many bytes were read or written. A rehearsal that ends lets go whoever waits.

        `meanwhile` is called ten times a second.
        """
        left = float(size)
        while left > 0 and (pace := self.bytes_per_s):
            slept_s = min(left / pace, _SLICE_S)
            time.sleep(slept_s)
            left -= slept_s * pace
            meanwhile()
