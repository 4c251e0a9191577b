"""`[ledger] retention` is kept while the daemon runs, and trouble with it stops nothing."""

from itertools import islice
from pathlib import Path

import pytest

from lmx_ledger.bench.served import served_requests
from lmx_ledger.core.config import Config
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.retention import Keeper
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.audit import audit
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.writer import Ledger


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "KEPT", 100)


def keeper(ledger: Ledger, retention: str) -> tuple[Keeper, list[str]]:
    told: list[str] = []
    settings = Settings(Config.model_validate({"ledger": {"retention": retention}}))
    return Keeper(settings, ledger, told.append), told


def filled(path: Path) -> Ledger:
    ledger = Ledger.open(path, boot="boot-a", synchronous="NORMAL")
    for event in islice(served_requests(), 4 * BLOCK):
        ledger.emit(event)
    assert ledger.flush(30)
    return ledger


async def test_what_is_too_much_is_sealed_and_the_ledger_says_so(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db")
    keeping, told = keeper(ledger, "400KB")
    await keeping.keep()
    assert ledger.close()
    found = audit(ledger.path)
    assert found.ok, found.reason
    assert found.segments == 1
    reader = Reader.open(ledger.path)
    sealed, archived = reader.events(EventFilter(types=("ledger.sealed", "ledger.archived")))
    reader.close()
    assert sealed.data["last_seq"] == archived.data["last_seq"] == found.sealed
    assert archived.data == {
        "segments": 1,
        "events": found.sealed,
        "bytes": sealed.data["bytes"],
        "last_seq": found.sealed,
        "reason": "retention",
    }
    assert told == []


async def test_forever_seals_nothing(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db")
    keeping, _ = keeper(ledger, "forever")
    await keeping.keep()
    assert ledger.close()
    assert audit(ledger.path).segments == 0


async def test_trouble_is_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.db")
    (tmp_path / "segments").write_text("in the way")
    keeping, told = keeper(ledger, "400KB")
    await keeping.keep()
    await keeping.keep()
    assert len(told) == 1
    assert "cannot be sealed" in told[0]
    (tmp_path / "segments").unlink()
    await keeping.keep()
    assert told[1:] == ["old events are sealed again"]
    assert ledger.close()
    assert audit(ledger.path).segments == 1
