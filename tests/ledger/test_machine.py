"""Whatever happens to a ledger, in whatever order: what was acknowledged is there, once, in order, and verifies."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lmx_ledger.core import events as ev
from lmx_ledger.ledger import heads
from lmx_ledger.ledger import segment as sealing
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.archive import walk
from lmx_ledger.ledger.audit import audit
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import BLOCK
from lmx_ledger.ledger.segment import seal_through
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place

Told = tuple[str, str | None, str | None, int]


class LedgerMachine(RuleBasedStateMachine):
    """A ledger with two writers beside a plain list of what was acknowledged."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(sealing, "KEPT", 50)
        self.patch.setattr(heads, "EVERY_EVENTS", 300)
        self.folder = Path(tempfile.mkdtemp(prefix="lmx-machine-"))
        self.path = self.folder / "0" / "ledger.db"
        self.path.parent.mkdir()
        self.told: list[Told] = []
        self.generation = self.now = 0
        migrate(self.path)
        self.open()

    def open(self) -> None:
        self.writers = [LedgerFile(self.path, "NORMAL", f"boot-{self.generation}-{n}") for n in range(2)]

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for writer in self.writers:
                writer.close()
            shutil.rmtree(self.folder)
            self.patch.undo()

    @rule(
        which=st.integers(0, 1),
        count=st.integers(1, 400),
        jump=st.integers(-5_000, 5_000),
        text=st.text(max_size=8),
        model=st.sampled_from([None, "m0", "m1"]),
    )
    def append(self, which: int, count: int, jump: int, text: str, model: str | None) -> None:
        self.now += jump
        drafts = []
        for _ in range(count):
            position = len(self.told) + 1
            data = ev.RequestQueued(position=position, running=1)
            event = ev.Event(data=data, stream="queue", session=text or None, model=model)
            drafts.append(draft(Place(), event, 2_000_000_000_000_000 + self.now + position))
            clean = text.encode("utf-8", "replace").decode() or None
            self.told.append(("request.queued", clean, model, position))
        self.writers[which].append(drafts)

    @rule(count=st.integers(1, 50))
    def crash_in_mid_transaction(self, count: int) -> None:
        """What a killed process leaves on the disk: the files as they are, with a transaction that never ended."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA cache_size=1")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("BEGIN IMMEDIATE")
            for n in range(count):
                connection.execute("INSERT INTO name (text) VALUES (?)", (f"never-{self.generation}-{n}" * 50,))
            self.generation += 1
            left = self.folder / str(self.generation)
            shutil.copytree(self.path.parent, left, ignore=shutil.ignore_patterns("*-shm", "ledger.lock"))
            connection.execute("ROLLBACK")
        for writer in self.writers:
            writer.close()
        self.path = left / "ledger.db"
        migrate(self.path)
        self.open()

    @rule()
    def restart(self) -> None:
        for writer in self.writers:
            writer.close()
        self.generation += 1
        migrate(self.path)
        self.open()

    @rule(share=st.floats(0, 1))
    def archive(self, share: float) -> None:
        list(seal_through(self.path, int(share * len(self.told))))

    @rule(at=st.integers(0, 10_000), limit=st.integers(1, 60))
    @precondition(lambda self: self.told)
    def ask(self, at: int, limit: int) -> None:
        after = at % len(self.told)
        with closing(sqlite3.connect(self.path)) as connection:
            (first,) = connection.execute("SELECT min(seq) FROM event").fetchone()
        reader = Reader.open(self.path)
        found = reader.events(EventFilter(after=after, limit=limit))
        reader.close()
        begin = max(after, first - 1)
        assert [event.data["position"] for event in found] == [told[3] for told in self.told[begin : begin + limit]]

    @invariant()
    def everything_is_there_and_verifies(self) -> None:
        if not hasattr(self, "path"):
            return
        found = audit(self.path)
        assert found.ok, found.reason
        assert found.events == len(self.told)
        walked = list(walk(self.path))
        assert [event.seq for event in walked] == list(range(1, len(self.told) + 1))
        assert [(e.type, e.session, e.model, e.data["position"]) for e in walked] == self.told
        assert found.sealed % BLOCK in {0, BLOCK - 1}


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=25, stateful_step_count=14, deadline=None)
