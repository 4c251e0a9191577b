"""The transcript in the README is what happens: its commands are run, and what they print must be what stands there."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lmx_ledger.daemon import runfile
from tests.conftest import free_port

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def transcript() -> list[tuple[str, list[str]]]:
    """(command, lines that it printed) for each `$ ` line of the block."""
    text = (ROOT / "README.md").read_text()
    block = text.split("## What it looks like", 1)[1].split("\n## ", 1)[0]
    steps: list[tuple[str, list[str]]] = []
    for line in re.findall(r"^    (.*)$", block, re.M):
        if line.startswith("$ "):
            steps.append((line[2:].split("  # ")[0].strip(), []))
        else:
            steps[-1][1].append(line)
    return steps


def pattern(line: str) -> str:
    """A printed line with whatever differs from run to run left open: numbers, durations, ids; `[...]` is any text."""
    out = ""
    for part in re.split(r"(\[\.\.\.\]|req_[0-9A-Z]+|\d[\d.,]*(?: ?m?s\b)?)", line):
        if part == "[...]":
            out += ".*"
        elif part.startswith("req_"):
            out += r"req_[0-9A-Z]+"
        elif part[:1].isdigit():
            out += r"[\d.,]+ ?m?s" if part.endswith("s") else r"[\d.,]+"
        else:
            out += re.escape(part)
    return out


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether the lines are those, in order; `...` is any number of lines."""
    lines = [r"(?:.*\n)*" if line == "..." else pattern(line) + r"\n" for line in expected]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in printed)) is not None


class Session:
    """A shell with a home and a port of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self._environ = {**os.environ, "LMX_HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "LMX_API_KEY": ""}

    def run(self, command: str) -> list[str]:
        """The lines that it prints."""
        command = re.sub(r"\blmx serve (start|stop)\b", rf"lmx serve \1 --port {self.port}", command)
        command = re.sub(
            r"\blmx (chat|events|serve logs|models list)\b", rf"lmx \1 --url http://127.0.0.1:{self.port}", command
        )
        if kill := re.fullmatch(r"kill -9 \d+", command):
            command = f"{kill[0].rsplit(' ', 1)[0]} {self.worker()}"
        done = subprocess.run(
            ["bash", "-c", command], env=self._environ, capture_output=True, text=True, timeout=120, check=False
        )
        return (done.stdout + done.stderr).replace(str(self.port), "3456").splitlines()

    def worker(self) -> int:
        # Its standby is a process of the daemon as well.
        models = httpx.get(f"http://127.0.0.1:{self.port}/lmx/models", timeout=30).json()["models"]
        return int(models[0]["worker_pid"])

    def close(self) -> None:
        if (run := runfile.read(self.home, self.port)) is not None:
            os.kill(run.pid, signal.SIGKILL)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


def test_the_transcript_is_what_happens(session: Session) -> None:
    steps = transcript()
    assert len(steps) >= 6
    for command, expected in steps:
        printed = session.run(command)
        assert matches(expected, printed), f"$ {command}\nthe README says:\n{expected}\nit printed:\n{printed}"


def test_a_transcript_that_is_wrong_is_noticed() -> None:
    assert matches(["pid 1", "...", "done in 3ms"], ["pid 77", "other", "done in 12.5ms"])
    assert matches(["restarted in 1.4s."], ["restarted in 904ms."])
    assert matches(["said [...] end"], ["said whatever it was, end"])
    assert not matches(["pid 1", "done"], ["pid 77", "other", "done"])
    assert not matches(["1.4s"], ["1.4MB"])
    assert not matches(["started"], ["stopped"])
    assert not matches(["one"], [])
