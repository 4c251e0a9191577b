"""A disk that seems slower, for rehearsals: who has read or written waits as long as such a one would take."""

import time


class Pace:
    """`bytes_per_s`: no more than so many; 0: as fast as it goes. Any thread may ask and set it."""

    def __init__(self) -> None:
        self.bytes_per_s = 0

    def spend(self, size: int) -> None:
        """So many bytes were read or written."""
        if self.bytes_per_s:
            time.sleep(size / self.bytes_per_s)
