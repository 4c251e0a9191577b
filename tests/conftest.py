"""One real daemon per module, real models, real HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import settings

from tests.models import write_chain_model, write_test_model

# A shell that starts the suite in the background has its children ignore SIGINT, and they pass that on to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says something of the machine only.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_START_S = 60
_STOP_S = 30


class RunningDaemon:
    """A daemon in a process of its own, with a home of its own."""

    def __init__(self, home: Path, config: str, port: int | None = None) -> None:
        self.home = home
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._config = config
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        file = self.home / "config.toml"
        server = f'[server]\nport = {self.port}\ndrain_timeout = "5s"\n'
        config = self._config if "[server]" in self._config else server + self._config
        file.write_text(self.whole(config))
        self.log = self.home / "daemon.log"
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground", "--config", str(file)],
                env={**os.environ, "LMX_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def whole(self, config: str) -> str:
        """With its port, and a folder of its own for reports: the checkout's is not a test's."""
        if "[report]" not in config:
            config = f'[report]\ndir = "{self.home / "reports"}"\n{config}'
        return config.replace("PORT", str(self.port))

    def wait_ready(self) -> "RunningDaemon":
        """Until /readyz is 200; fails with the daemon's log when it ends before."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the daemon is not ready after {_START_S} s:\n{self.log.read_text()}")

    def restart(self) -> None:
        """A new run in the same home, on the same port."""
        self.process = self._start()
        self.wait_ready()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait(_STOP_S)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_S)

    def get(self, path: str, **arguments: Any) -> Any:
        """A GET's JSON."""
        response = httpx.get(self.url + path, timeout=30, **arguments)
        response.raise_for_status()
        return response.json()

    def post(self, path: str, body: Any, **arguments: Any) -> httpx.Response:
        """A POST of JSON."""
        return httpx.post(self.url + path, json=body, timeout=60, **arguments)

    def chat(self, text: str = "Hi", **fields: Any) -> httpx.Response:
        """A chat request with one user message."""
        fields.setdefault("max_tokens", 16)
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def events(self, **filters: Any) -> list[dict[str, Any]]:
        """Events that match, oldest first."""
        events: list[dict[str, Any]] = self.get("/lmx/events", params={"limit": 1000, **filters})["events"]
        return events

    def wait_event(self, kind: str, **filters: Any) -> dict[str, Any]:
        """The newest event of that type, once there is one."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if found := self.events(type=kind, order="desc", **filters):
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no {kind} after {_START_S} s; log:\n{self.log.read_text()}")

    def worker_pids(self) -> list[int]:
        """The worker processes it has now."""
        return [child.pid for child in psutil.Process(self.process.pid).children()]


async def eventually(holds: Callable[[], bool], patience_s: float = 20) -> None:
    """Until it holds, looking every ten milliseconds; fails when patience ends."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[[str], RunningDaemon]]:
    """Starts daemons of the test's own, each in a new home; whatever the test does, none outlives it."""
    started: list[RunningDaemon] = []

    def start(config: str) -> RunningDaemon:
        running = RunningDaemon(tmp_path / f"home{len(started)}", config)
        started.append(running)
        return running.wait_ready()

    yield start
    for running in started:
        if running.process.poll() is None:
            running.kill()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights."""
    return write_test_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def chain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose model recites what tests.models scripts."""
    return write_chain_model(tmp_path_factory.mktemp("models") / "chain")


@pytest.fixture(scope="module")
def model_config(random_model: Path, chain_model: Path) -> str:
    """The [engine] and [[models]] part of a configuration: `chain` first, then `random`; the built-in BLAS."""
    return (
        '[engine]\nblas = "builtin"\n'
        f'[[models]]\nid = "chain"\npath = "{chain_model}"\naliases = ["gpt-*"]\n'
        f'[[models]]\nid = "random"\npath = "{random_model}"\n'
    )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, model_config: str) -> Iterator[RunningDaemon]:
    """One daemon for the module, with both models."""
    running = RunningDaemon(tmp_path_factory.mktemp("home"), model_config).wait_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()
