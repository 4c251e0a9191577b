"""The whole ledger held against itself: segments, the live chain behind them, and the heads that were signed.

`python -m lmx_ledger.ledger.audit FILE` does so at the lowest priority, for the daemon, and prints JSON.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.ledger import heads
from lmx_ledger.ledger.chain import GENESIS, verify
from lmx_ledger.ledger.segment import BadSegment, read, segments_of
from lmx_ledger.ledger.store import LedgerError, connect_to_read

GRACE: Final = heads.EVERY_EVENTS + 2_048
"""Events that may lie behind the last signed head of a daemon that runs: one interval and the groups on the way."""


class Audit(NamedTuple):
    """What was found: `events` good ones, of which `sealed` in `segments`; signed heads and the seq of the last one.

    `bad_seq` is the first event that cannot be relied on, with the reason; None when all can.
    """

    ok: bool
    events: int
    sealed: int
    segments: int
    head_seq: int
    head_hash: bytes
    heads: int
    signed_seq: int
    bad_seq: int | None
    reason: str | None

    @property
    def unsigned(self) -> int:
        """Events behind the last signed head: a rewrite of them alone would not be noticed."""
        return self.head_seq - self.signed_seq

    def public(self) -> dict[str, Any]:
        """What a program reads."""
        return {**self._asdict(), "head_hash": self.head_hash.hex(), "unsigned": self.unsigned}


def audit(ledger: Path) -> Audit:
    """Walk everything, in constant memory; stops at the first seq that is not as it was written.

    Raises:
        LedgerError: there is no ledger, or none of this program's schema.
    """
    with closing(connect_to_read(ledger)) as connection:
        segments = segments_of(connection)
        wanted = heads.seqs(ledger)
        found: dict[int, bytes] = {}
        seq, head = 0, GENESIS
        for segment in segments:
            try:
                for event, digest in read(ledger, segment, head):
                    seq, head = event[0], digest
                    if seq in wanted:
                        found[seq] = digest
            except BadSegment as error:
                return Audit(False, seq, seq, len(segments), seq, head, 0, 0, error.seq, str(error))
        verdict = verify(connection)
        events = seq + verdict.events
        if verdict.ok:
            signed = heads.check(ledger, lambda at: found.get(at) or _hash_at(connection, at))
        else:
            signed = heads.HeadsVerdict(True, 0, 0, None, None)
    return Audit(
        verdict.ok and signed.ok,
        events,
        seq,
        len(segments),
        verdict.head_seq,
        verdict.head_hash,
        signed.heads,
        signed.seq,
        verdict.bad_seq or signed.bad_seq,
        verdict.reason or signed.reason,
    )


def head_of(ledger: Path) -> tuple[int, bytes] | None:
    """Seq and hash of the newest event; None where there is none.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    with closing(connect_to_read(ledger)) as connection:
        row = connection.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    return None if row is None else (int(row[0]), bytes(row[1]))


def _hash_at(connection: sqlite3.Connection, seq: int) -> bytes | None:
    row = connection.execute("SELECT hash FROM event WHERE seq = ?", (seq,)).fetchone()
    return row[0] if row else None


def _main() -> None:
    os.nice(19)
    try:
        told = audit(Path(sys.argv[1])).public()
    except (LedgerError, sqlite3.Error, OSError) as error:
        told = {"error": str(error)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main()
