"""A digest made in a process of its own: a walk over a million events takes half a minute of Python, and memory."""

import sys
from pathlib import Path

from lmx_ledger.core.week import Period
from lmx_ledger.ledger.query import Reader
from lmx_ledger.report import apart
from lmx_ledger.report.digest.from_ledger import as_form, digest


async def digest_apart(ledger: Path, period: Period, form: str, *, nice: int = 0) -> bytes:
    """One of `report.from_ledger.FORMS`.

    Raises:
        NotMade: the ledger cannot be read, or the process came to nothing.
    """
    return await apart.made_apart(__name__, str(ledger), *map(str, period), form, nice=nice)


def _made(path: str, since_us: str, until_us: str, form: str) -> bytes:
    ledger = Path(path)
    reader = Reader.open(ledger)
    try:
        return as_form(digest(ledger, reader, Period(int(since_us), int(until_us))), form)
    finally:
        reader.close()


if __name__ == "__main__":
    sys.exit(apart.answered(_made))
