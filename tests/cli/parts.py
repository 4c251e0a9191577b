"""The commands, run as a person runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.writer import Ledger
from tests.conftest import free_port

PATIENCE_S = 240


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
