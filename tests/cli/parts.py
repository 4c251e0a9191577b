"""The commands, run as a person runs them."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import free_port

PATIENCE_S = 150


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lmx_ledger.cli", *arguments]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "LMX_HOME": str(home), "LMX_API_KEY": "", "COLUMNS": "100"}


def lmx(*arguments: str, home: Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run one; no traceback may ever be seen."""
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        command(*arguments), input=raw, capture_output=True, timeout=PATIENCE_S, check=False, env=environment(home)
    )
    text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in text.stderr, text.stderr
    return text


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def running(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, until the block ends."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home)
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def nowhere() -> str:
    """A URL where nobody answers."""
    return f"http://127.0.0.1:{free_port()}"


def write_ledger(home: Path, *events: ev.Event) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    file = home / "ledger.db"
    ledger = Ledger.open(file, boot="01BOOT", synchronous="NORMAL")
    for event in events:
        ledger.emit(event)
    ledger.close()
    return file


def rejected(message: str, *, request: str = "req_1", model: str | None = None) -> ev.Event:
    data = ev.RequestRejected(status=400, code="invalid_request", message=message, route="/v1/chat/completions")
    return ev.Event(data=data, stream=f"request:{request}", request=request, model=model)


def queued(position: int) -> ev.Event:
    data = ev.RequestQueued(position=position, running=1)
    return ev.Event(data=data, stream="request:req_2", request="req_2", model="m0")


class Screen:
    """A program in a pseudo terminal of 80 columns."""

    def __init__(self, *arguments: str, home: Path, **environ: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        environ = {**environment(home), "TERM": "xterm-256color", **environ}
        del environ["COLUMNS"]
        self.process = subprocess.Popen(
            command(*arguments), stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)
        self.seen = self.raw = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt_until(self, pattern: str) -> str:
        """Ctrl-C until it is heard: Python's line editing misses a signal that comes while it handles a key."""
        for _ in range(int(PATIENCE_S)):
            self.process.send_signal(signal.SIGINT)
            try:
                return self.until(pattern, patience_s=1)
            except AssertionError:
                continue
        return self.until(pattern)

    def until(self, pattern: str, patience_s: float = PATIENCE_S) -> str:
        """What came up to and with the pattern (colours and cursor movements left out)."""
        deadline = time.monotonic() + patience_s
        while (found := re.search(pattern, self.seen)) is None:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; there is {self.seen!r}"
            came = os.read(self._master, 65536).decode(errors="replace")
            self.raw += came
            self.seen += re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", came)
        head, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return head

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def screen(*arguments: str, home: Path, **environ: str) -> Iterator[Screen]:
    shown = Screen(*arguments, home=home, **environ)
    try:
        yield shown
    finally:
        shown.close()
