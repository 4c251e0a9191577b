"""Several processes on one file, and processes that are killed."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from tests.ledger.parts import verdict_of

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("LMX_KILLS", "10"))
"""How often a writer is killed; `make chaos` asks for more."""

APPEND = """
import sys
from pathlib import Path
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued
ledger = Ledger.open(Path(sys.argv[1]), boot=sys.argv[2], synchronous="NORMAL")
for i in range(int(sys.argv[3])):
    ledger.emit(queued(i, model=f"m{i % 7}"))
    if i % 50 == 0:
        assert ledger.flush(60)
assert ledger.close(60)
"""

ACKNOWLEDGE = """
import asyncio, itertools, sys
from pathlib import Path
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued
ledger = Ledger.open(Path(sys.argv[1]), boot=sys.argv[2], synchronous="NORMAL")
async def client(n):
    for i in itertools.count():
        seq = await ledger.commit(queued(i, request=f"req_{n}"), within_s=60)
        print(seq, n, i, flush=True)
async def main():
    await asyncio.gather(*(client(n) for n in range(4)))
asyncio.run(main())
"""


def child(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )


def test_two_processes_make_the_file_at_once_and_append_to_one_valid_chain(path: Path) -> None:
    writers = [child(APPEND, str(path), f"boot-{n}", "2000") for n in range(2)]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert verdict_of(path).events == 4_000
    reader = Reader.open(path)
    for n in range(2):
        mine = reader.events(EventFilter(boot=f"boot-{n}", limit=5_000))
        assert [e.data["position"] for e in mine] == list(range(2_000))
        assert [e.model for e in mine[:7]] == [f"m{i}" for i in range(7)]
    reader.close()


def acknowledged(lines: list[str]) -> set[tuple[int, str, int]]:
    return {(int(seq), f"req_{client}", int(i)) for seq, client, i in (line.split() for line in lines)}


def killed_while_it_writes(process: subprocess.Popen[str], after: int) -> list[str]:
    """Every line that it said, from one that was killed after so many of them."""
    assert process.stdout is not None
    heard = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    heard += [line for line in process.stdout.readlines() if line.endswith("\n")]
    return heard


@pytest.mark.parametrize("round_", range(KILLS))
def test_what_was_acknowledged_survives_kill_9(path: Path, round_: int) -> None:
    with child(ACKNOWLEDGE, str(path), "boot-a") as process:
        heard = killed_while_it_writes(process, 5 + 37 * round_ % 300)
    reader = Reader.open(path)
    there = {(e.seq, e.request, e.data["position"]) for e in reader.events(EventFilter(limit=1_000_000))}
    reader.close()
    assert acknowledged(heard) <= there
    assert verdict_of(path).ok


def test_of_two_daemons_under_load_one_is_killed_and_both_histories_are_whole(path: Path) -> None:
    with child(ACKNOWLEDGE, str(path), "boot-a") as blue, child(ACKNOWLEDGE, str(path), "boot-b") as green:
        assert green.stdout is not None
        said = {"boot-b": [green.stdout.readline() for _ in range(100)]}
        said["boot-a"] = killed_while_it_writes(blue, 100)
        # The other one goes on, whoever held the lock.
        said["boot-b"] += [green.stdout.readline() for _ in range(500)]
        said["boot-b"] += killed_while_it_writes(green, 1)
    assert verdict_of(path).ok
    reader = Reader.open(path)
    for boot, lines in said.items():
        found = reader.events(EventFilter(boot=boot, limit=1_000_000))
        assert acknowledged(lines) <= {(e.seq, e.request, e.data["position"]) for e in found}
        for client in range(4):
            positions = [e.data["position"] for e in found if e.request == f"req_{client}"]
            assert positions == list(range(len(positions)))
    reader.close()


def test_a_reader_sees_whole_groups_while_a_process_writes(path: Path) -> None:
    with child(ACKNOWLEDGE, str(path), "boot-a") as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = Reader.open(path)
        seen = 0
        while seen < 300:
            new = reader.events(EventFilter(after=seen, limit=64))
            assert [e.seq for e in new] == list(range(seen + 1, seen + 1 + len(new)))
            seen += len(new)
            process.stdout.readline()
        assert reader.verify().ok
        process.kill()
    reader.close()


def test_a_reader_cannot_write(path: Path) -> None:
    with child(APPEND, str(path), "boot-a", "1") as process:
        process.wait(60)
    reader = Reader.open(path)
    with reader._engine.connect() as connection, pytest.raises(Exception, match="readonly database"):
        connection.exec_driver_sql("CREATE TABLE t (x)")
    reader.close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*) FROM event").fetchone() == (1,)
