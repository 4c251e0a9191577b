"""Start, look at, and stop a daemon with the commands alone."""

import http.server
import json
import os
import signal
import stat
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from lmx_ledger.daemon import runfile
from tests.cli.parts import document, lmx, running
from tests.conftest import free_port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text('[engine]\nblas = "builtin"\n')
    return home


def test_a_detached_daemon_is_started_seen_and_stopped(home: Path) -> None:
    port = free_port()
    started = document(lmx("serve", "start", "--detach", "--json", "--port", str(port), home=home))
    run = runfile.read(home, port)
    assert run is not None
    assert (started["pid"], started["url"]) == (run.pid, f"http://127.0.0.1:{port}")
    assert httpx.get(f"{started['url']}/readyz").status_code == 200
    log = Path(started["log"])
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "LMX serves on" in log.read_text()
    assert os.getsid(run.pid) == run.pid

    status = document(lmx("serve", "status", "--json", "--port", str(port), home=home))
    assert (status["state"], status["port"]) == ("running", port)
    shown = lmx("serve", "status", "--port", str(port), home=home).stdout
    assert "running, stage normal" in shown

    again = lmx("serve", "start", "--detach", "--port", str(port), home=home)
    assert again.returncode == 1
    assert f"port {port} is taken by pid {run.pid}" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert runfile.read(home, port) == run

    doctor = lmx("doctor", "--port", str(port), home=home)
    assert f"the daemon of this home serves there (pid {run.pid})" in doctor.stdout
    elsewhere = lmx("serve", "stop", "--port", str(port), "--home", str(home.parent), home=home)
    assert elsewhere.returncode == 3
    assert "another home" in elsewhere.stderr

    stopped = document(lmx("serve", "stop", "--json", home=home))
    assert (stopped["pid"], stopped["waited_for"], stopped["cancelled"]) == (run.pid, 0, 0)
    assert not psutil.pid_exists(run.pid) or psutil.Process(run.pid).status() == psutil.STATUS_ZOMBIE
    assert lmx("serve", "stop", "--port", str(port), home=home).returncode == 3


def test_a_start_that_fails_says_why_and_leaves_no_process(home: Path) -> None:
    (home / "empty").mkdir()
    (home / "empty" / "config.json").write_text("{}")
    port = free_port()
    done = lmx("serve", "start", "--detach", "--port", str(port), "--model", str(home / "empty"), home=home)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no model could be loaded" in line
    assert "safetensors" in line
    assert runfile.read(home, port) is None
    asked = [process for process in psutil.process_iter(["cmdline"]) if str(port) in (process.info["cmdline"] or [])]
    assert asked == []


@pytest.mark.parametrize("how", ["--detach", "--foreground"])
def test_a_mistake_in_the_configuration_is_one_line_with_its_place(home: Path, how: str) -> None:
    (home / "config.toml").write_text("[server]\nprot = 4000\n")
    done = lmx("serve", "start", how, home=home)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "config.toml:2: unknown key server.prot" in line


@pytest.mark.parametrize("how", ["--detach", "--foreground"])
def test_a_home_that_cannot_be_written_is_said(home: Path, how: str) -> None:
    (home / "file").write_text("")
    done = lmx("serve", "start", how, "--home", str(home / "file"), "--port", str(free_port()), home=home)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "--home" in line


@pytest.mark.parametrize("how", ["--detach", "--foreground"])
def test_a_host_beyond_this_machine_without_keys_is_refused(home: Path, how: str) -> None:
    done = lmx("serve", "start", how, "--host", "0.0.0.0", home=home)
    assert done.returncode == 1
    assert "api_keys" in done.stderr


def test_a_model_that_is_neither_folder_nor_id_is_refused(home: Path) -> None:
    done = lmx("serve", "start", "--model", "no-such-model", home=home)
    assert done.returncode == 1
    assert "lmx-demo" in done.stderr


def test_models_are_chosen_by_id_and_by_folder(home: Path, random_model: Path, chain_model: Path) -> None:
    (home / "config.toml").write_text(
        '[engine]\nblas = "builtin"\n'
        f'[[models]]\nid = "one"\npath = "{random_model}"\naliases = ["gpt-*"]\n'
        f'[[models]]\nid = "two"\npath = "{random_model}"\n'
    )
    port = str(free_port())
    chosen = ("--model", "one", "--model", str(chain_model))
    assert lmx("serve", "start", "--detach", "--port", port, *chosen, home=home).returncode == 0
    models = document(lmx("models", "list", "--json", "--url", f"127.0.0.1:{port}", home=home))["models"]
    assert [(model["id"], model["aliases"]) for model in models] == [("one", ["gpt-*"]), ("chain", [])]
    assert lmx("serve", "stop", home=home).returncode == 0


def test_a_foreground_daemon_ends_with_ctrl_c_and_one_document(home: Path) -> None:
    port = free_port()
    with running("serve", "start", "--json", "--port", str(port), home=home) as process:
        while lmx("serve", "status", "--port", str(port), home=home).returncode == 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (line,) = out.splitlines()
    assert json.loads(line)["state"] == "stopped"


def test_following_goes_on_across_a_restart(home: Path) -> None:
    port = str(free_port())
    assert lmx("serve", "start", "--detach", "--port", port, home=home).returncode == 0
    url = f"http://127.0.0.1:{port}"
    with running("events", "-f", "--type", "daemon.*", "--limit", "1", "--url", url, home=home) as following:
        assert following.stdout is not None
        assert "daemon.ready" in following.stdout.readline()
        assert lmx("serve", "stop", home=home).returncode == 0
        assert lmx("serve", "start", "--detach", "--port", port, home=home).returncode == 0
        types = [following.stdout.readline().split("\t")[3] for _ in range(5)]
    assert types == ["daemon.draining", "daemon.drained", "daemon.stopped", "daemon.started", "daemon.ready"]
    assert lmx("serve", "stop", home=home).returncode == 0


def test_keys_are_asked_for_and_taken(home: Path) -> None:
    port = str(free_port())
    config = home / "keys.toml"
    config.write_text(
        '[engine]\nblas = "builtin"\n[server]\napi_keys = ["client-key"]\noperator_keys = ["operator-key"]\n'
    )
    assert lmx("serve", "start", "--detach", "--port", port, "--config", str(config), home=home).returncode == 0
    url = f"http://127.0.0.1:{port}"
    for arguments in (("serve", "status"), ("events",), ("models", "list"), ("chat",)):
        refused = lmx(*arguments, "--url", url, home=home, stdin="hi")
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert "--api-key or LMX_API_KEY" in line
    status = lmx("serve", "status", "--url", url, "--api-key", "client-key", home=home)
    assert status.returncode == 1
    assert "operator" in status.stderr
    assert document(lmx("serve", "status", "--json", "--url", url, "--api-key", "operator-key", home=home))["models"]
    assert lmx("chat", "--url", url, "--api-key", "client-key", home=home, stdin="hi").returncode == 0
    assert lmx("serve", "stop", home=home).returncode == 0


def test_something_else_on_the_port_is_told_from_a_daemon(home: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as stranger:
        serving = threading.Thread(target=stranger.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        try:
            for arguments in (("serve", "status"), ("events",)):
                done = lmx(*arguments, "--url", url, home=home)
                assert done.returncode == 1
                assert "not as an LMX daemon does" in done.stderr
        finally:
            stranger.shutdown()
            serving.join()
