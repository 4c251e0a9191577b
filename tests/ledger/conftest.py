from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import writing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with writing(path) as opened:
        yield opened


@pytest.fixture
def reader(ledger: Ledger) -> Iterator[Reader]:
    opened = Reader.open(ledger.path)
    yield opened
    opened.close()
