"""The evidence of a worker's end."""

import signal
from typing import Final, NamedTuple

from lmx_ledger.engine.protocol import NO_MEMORY

_WORDS: Final = ("bad_alloc", "Unable to allocate", "MemoryError")
_PASSES: Final = ("read ", "step ", "join ")


class Exit(NamedTuple):
    """The evidence of a worker's end: exit code or signal name, last words, last acts (oldest first).

    `expected`: it was told to; `recycled`: so that another one takes its place.
    """

    pid: int
    code: int | None
    signal: str | None
    stderr_tail: str
    last_acts: list[str]
    expected: bool
    hung: bool = False
    recycled: bool = False

    @property
    def out_of_memory(self) -> bool:
        """Whether it lacked memory, or may have: MLX's CPU back end writes to what a failed allocation gave it."""
        crashed = self.signal == "SIGSEGV" and bool(self.last_acts) and self.last_acts[-1].startswith(_PASSES)
        return self.code == NO_MEMORY or crashed or any(word in self.stderr_tail for word in _WORDS)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have numbers only.
        return f"signal {number}"


def describe(died: Exit) -> str:
    """One line about an end: `the worker (pid 7) was ended by SIGKILL while: step 12: 3 streams`."""
    how = (
        "was ended because it hung"
        if died.hung
        else f"was ended by {died.signal}"
        if died.signal
        else f"ended with status {died.code}"
    )
    doing = f" while: {died.last_acts[-1]}" if died.last_acts else ""
    last_line = died.stderr_tail.strip().splitlines()[-1:] if died.code else []
    return f"the worker (pid {died.pid}) {how}{doing}" + (f" ({last_line[0][:300]})" if last_line else "")
