"""What is made in a process of its own: some seconds of Python, which streams must not share a thread's lock with."""

import asyncio
import os
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from typing import Final

from lmx_ledger.ledger.store import LedgerError

LOWEST: Final = 19
"""Niceness of what nobody waits for."""


class NotMade(LedgerError):
    """The process failed; the message says why."""


async def made_apart(module: str, *arguments: str, nice: int = 0) -> bytes:
    """What that module, which calls `answered`, writes for these arguments. The process ends with whoever waits for it.

    Raises:
        NotMade: the ledger cannot be read, or the process came to nothing.
    """
    command = (sys.executable, "-m", module, str(nice), *arguments)
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        raise NotMade(f"a process for the report could not be started: {error.strerror}") from None
    try:
        body, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = said.decode(errors="replace").strip().splitlines()
        raise NotMade(words[-1] if words else f"the report's process ended with status {process.returncode}")
    return body


def answered(make: Callable[..., bytes]) -> int:
    """The whole of such a process: what `make` gives for its arguments goes to stdout; the exit status."""
    nice, *arguments = sys.argv[1:]
    os.nice(int(nice))
    try:
        body = make(*arguments)
    except (LedgerError, sqlite3.Error, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(body)
    return 0
