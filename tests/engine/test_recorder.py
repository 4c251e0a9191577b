"""The flight recorder keeps the last notes, whatever happens to who wrote them."""

import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.engine.recorder import SLOTS, FlightRecorder


@given(st.lists(st.text(max_size=200), max_size=100))
def test_the_last_notes_are_there_oldest_first(notes: list[str]) -> None:
    recorder = FlightRecorder.create()
    for note in notes:
        recorder.note(note)
    kept = recorder.last(SLOTS)
    recorder.close()
    assert len(kept) == min(len(notes), SLOTS)
    for note, expected in zip(kept, notes[-SLOTS:], strict=False):
        assert expected.encode()[:158].decode(errors="replace") == note


def test_notes_survive_a_kill() -> None:
    recorder = FlightRecorder.create()
    code = (
        "import os, sys, signal; from lmx_ledger.engine.recorder import FlightRecorder;"
        "r = FlightRecorder(int(sys.argv[1])); r.note('about to fall'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(recorder.fd)], pass_fds=[recorder.fd], check=False)
    assert done.returncode == -signal.SIGKILL
    assert recorder.last() == ["about to fall"]
    recorder.close()
