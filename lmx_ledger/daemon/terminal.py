"""Between the daemon and the terminal or log that it was started with."""

import contextlib
import os
import signal
import sys


def say(text: str) -> None:
    """Lines for whoever watches. A terminal that is gone, or a log on a full disk, keeps nothing from being done."""
    with contextlib.suppress(OSError):
        print(text, flush=True)  # noqa: T201 - for people


def warn(line: str) -> None:
    """A line for the operator, from any thread. What cannot be said here is in the ledger or in `/lmx/status`."""
    with contextlib.suppress(OSError):
        print(f"lmx: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the daemon's own log


class Terminal:
    """Tells the SIGHUP of a terminal that was closed from the one by which an operator asks for something."""

    def __init__(self) -> None:
        # nohup: whoever has SIGHUP ignored wants the daemon to outlive the terminal.
        self._ends_with_it = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

    @property
    def closed(self) -> bool:
        """Whether the terminal that the daemon was to live in is gone."""
        return self._ends_with_it and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
