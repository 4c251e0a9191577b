"""A postmortem made in a process of its own: a busy incident takes some seconds of Python."""

import sys
from pathlib import Path

from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report import apart
from lmx_ledger.report.from_ledger import as_form, postmortem


async def postmortem_apart(ledger: Path, incident: str, now_us: int, form: str, *, nice: int = 0) -> bytes:
    """Of the incident of that id as the ledger has it, in one of `report.from_ledger.FORMS`.

    Raises:
        NotMade: the ledger cannot be read, or the process came to nothing.
    """
    return await apart.made_apart(__name__, str(ledger), incident, str(now_us), form, nice=nice)


def _made(path: str, name: str, now_us: str, form: str) -> bytes:
    ledger = Path(path)
    reader = Reader.open(ledger)
    try:
        state = state_at(IncidentsFold(), History(ledger, reader), ledger.with_name(FILE), reader.head())
        incident = state.find(name)
        if incident is None:
            raise LedgerError(f"incident {name} is not in {ledger} any more")
        return as_form(postmortem(ledger, reader, incident, int(now_us)), form)
    finally:
        reader.close()


if __name__ == "__main__":
    sys.exit(apart.answered(_made))
