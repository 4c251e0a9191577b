"""SIGHUP: keys rotate and limits change under a daemon that goes on serving; a wrong file changes nothing."""

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import RunningDaemon, eventually, free_port

OLD, NEW, OPERATOR = "sk-old-secret-key", "sk-new-secret-key", "op-the-operator-key"


class Rereading:
    """A daemon whose file is rewritten under it."""

    def __init__(self, start: Callable[[str], RunningDaemon], model_config: str) -> None:
        self._models = model_config
        self.daemon = start(self._text(f'api_keys = ["{OLD}"]\noperator_keys = ["{OPERATOR}"]'))

    def _text(self, server: str, rest: str = "") -> str:
        return f"[server]\nport = PORT\n{server}\n{rest}\n{self._models}"

    def write(self, server: str, rest: str = "") -> dict[str, Any]:
        """Another file and SIGHUP; the event that came of it."""
        operator = f'operator_keys = ["{OPERATOR}"]\n'
        return self.write_all(self._text(operator + server, rest))

    def write_all(self, text: str) -> dict[str, Any]:
        daemon = self.daemon
        (daemon.home / "config.toml").write_text(daemon.whole(text))
        seen = len(self.changes())
        daemon.process.send_signal(signal.SIGHUP)
        while len(changes := self.changes()) == seen:
            assert daemon.process.poll() is None
        return changes[-1]

    def get(self, path: str, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.get(path, headers={"x-api-key": OPERATOR}, **arguments)
        return found

    def changes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/lmx/events", params={"type": "config.changed"})["events"]
        return found

    def status_with(self, key: str) -> int:
        return httpx.get(f"{self.daemon.url}/v1/models", headers={"x-api-key": key}).status_code

    def chat(self, key: str, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **fields}
        return self.daemon.post("/v1/chat/completions", body, headers={"x-api-key": key})


@pytest.fixture
def rereading(start_daemon: Callable[[str], RunningDaemon], model_config: str) -> Rereading:
    return Rereading(start_daemon, model_config)


async def test_keys_rotate_without_a_restart_and_are_written_nowhere(rereading: Rereading) -> None:
    assert (rereading.status_with(OLD), rereading.status_with(NEW)) == (200, 401)
    loaded = rereading.get("/lmx/events", params={"type": "config.loaded"})["events"][0]
    changed = rereading.write(f'api_keys = ["{NEW}"]')
    await eventually(lambda: (rereading.status_with(OLD), rereading.status_with(NEW)) == (401, 200))
    assert changed["data"] == {
        "source": str(rereading.daemon.home / "config.toml"),
        "changed": {"server.api_keys": 1},
        "needs_restart": [],
        "error": None,
    }
    assert (changed["cause"], changed["severity"]) == (loaded["seq"], "info")
    assert rereading.chat(OLD).json()["error"]["lmx"]["event"] == changed["seq"], "the rules are the new ones"
    assert rereading.chat(NEW).status_code == 200
    assert rereading.daemon.stop() == 0
    everything = [rereading.daemon.log, *rereading.daemon.home.glob("ledger.db*")]
    assert not [file for file in everything if b"-secret-" in file.read_bytes() or b"op-the" in file.read_bytes()]


async def test_limits_change_for_the_next_request(rereading: Rereading) -> None:
    assert rereading.chat(OLD).status_code == 200
    limits = f'api_keys = ["{OLD}"]\nmax_body = 200\nsend_timeout = "7s"'
    changed = rereading.write(limits, "[context]\nmax_tokens = 16\n[queue]\nmax_waiting = 0")
    assert changed["data"]["changed"] == {
        "server.max_body": 200,
        "server.send_timeout": 7.0,
        "context.max_tokens": 16,
        "queue.max_waiting": 0,
    }
    await eventually(lambda: rereading.get("/lmx/status")["max_context_tokens"] == 16)
    refused = rereading.chat(OLD)
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["lmx"]["max_context_tokens"] == 16
    assert rereading.chat(OLD, user="x" * 300).status_code == 413


async def test_a_wrong_file_changes_nothing_and_says_why(rereading: Rereading) -> None:
    wrong = rereading.write("max_body = 200\nprot = 3")
    assert wrong["severity"] == "warning"
    assert (wrong["data"]["changed"], wrong["data"]["needs_restart"]) == ({}, [])
    assert "unknown key server.prot" in wrong["data"]["error"]
    assert "lmx: the configuration stays as it was: " in rereading.daemon.log.read_text()
    assert rereading.status_with(OLD) == 200
    assert rereading.chat(OLD).status_code == 200
    (rereading.daemon.home / "config.toml").unlink()
    rereading.daemon.process.send_signal(signal.SIGHUP)
    await eventually(lambda: len(rereading.changes()) == 2)
    assert "no such file" in rereading.changes()[1]["data"]["error"]
    assert rereading.daemon.stop() == 0


async def test_what_needs_a_restart_is_named_and_left(rereading: Rereading) -> None:
    old = rereading.daemon.port
    server = f'[server]\nport = {free_port()}\napi_keys = ["{NEW}"]\noperator_keys = ["{OPERATOR}"]\n'
    changed = rereading.write_all(server + "[queue]\nmax_running = 3\nmax_choices = 3\n")
    assert changed["data"]["needs_restart"] == [
        *("server.port", "engine.blas", "queue.max_running", "queue.max_choices", "models"),
    ]
    await eventually(lambda: rereading.status_with(NEW) == 200)
    assert rereading.get("/lmx/status")["port"] == old
    assert "models will change with a restart" in rereading.daemon.log.read_text()
    assert rereading.chat(NEW).status_code == 200


@pytest.mark.skipif(shutil.which("setsid") is None, reason="a terminal of its own is given by util-linux")
async def test_a_daemon_in_the_foreground_ends_with_its_terminal(tmp_path: Path, model_config: str) -> None:
    port = free_port()
    file = tmp_path / "config.toml"
    file.write_text(model_config)
    command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground", "--port", str(port)]
    master, slave = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here
        ["setsid", "--ctty", *command, "--config", str(file), "--home", str(tmp_path / "home")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        # The tests may run under nohup: whoever has SIGHUP ignored wants the daemon to outlive its terminal.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509 - one thread
    )
    os.close(slave)
    try:
        output = b""
        while b"LMX serves on" not in output:
            output += os.read(master, 1000)
        process.send_signal(signal.SIGHUP)
        url = f"http://127.0.0.1:{port}/lmx/events?type=config.changed"
        await eventually(lambda: len(httpx.get(url).json()["events"]) == 1)
        os.close(master)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
