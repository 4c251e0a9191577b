"""A digest made in a process of its own: a walk over a million events takes half a minute of Python, and memory."""

import asyncio
import os
import sqlite3
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Final

from lmx_ledger.core.week import Period
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report.digest.from_ledger import as_form, digest

LOWEST: Final = 19
"""Niceness of what nobody waits for."""


class NotMade(LedgerError):
    """The process failed; the message says why."""


async def made_apart(ledger: Path, period: Period, form: str, *, nice: int = 0) -> bytes:
    """One of `report.from_ledger.FORMS`. The process ends with whoever waits for it.

    Raises:
        NotMade: the ledger cannot be read, or the process came to nothing.
    """
    command = (sys.executable, "-m", __name__, str(ledger), *map(str, period), form, str(nice))
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        raise NotMade(f"the digest's process could not be started: {error.strerror}") from None
    try:
        body, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = said.decode(errors="replace").strip().splitlines()
        raise NotMade(words[-1] if words else f"the digest's process ended with status {process.returncode}")
    return body


def _main(path: str, since_us: str, until_us: str, form: str, nice: str) -> int:
    os.nice(int(nice))
    ledger, period = Path(path), Period(int(since_us), int(until_us))
    try:
        reader = Reader.open(ledger)
        try:
            body = as_form(digest(ledger, reader, period), form)
        finally:
            reader.close()
    except (LedgerError, sqlite3.Error, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(body)
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
