"""A start that cannot be: one line says why and what to do, the exit status is 1, and nothing is left behind."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import RunningDaemon, free_port


def start(home: Path, *arguments: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground", "--home", str(home)]
    command += ["--port", str(port or free_port()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=clean_environment())


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("LMX_")}


def refused(done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in says:
        assert part in done.stderr


def test_a_port_in_use_is_said_with_who_holds_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(start(tmp_path, port=port), f"port {port} is taken by pid {os.getpid()}", "--port")


def test_a_second_daemon_on_the_port_hurts_the_first_one_not(tmp_path: Path, daemon: RunningDaemon) -> None:
    refused(start(tmp_path, port=daemon.port), f"taken by pid {daemon.process.pid}")
    assert daemon.get("/readyz")["status"] == "ok"


def test_a_configuration_with_an_unknown_key_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\n\nprot = 3\n")
    refused(start(tmp_path / "home", "--config", str(file)), f"{file}:3: unknown key server.prot")
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(start(tmp_path / "file" / "home"), "cannot be written", "--home")


def test_a_host_beyond_loopback_without_keys_is_refused(tmp_path: Path) -> None:
    refused(start(tmp_path, "--host", "0.0.0.0"), "no api_keys are set")


def test_a_model_with_a_missing_shard_is_refused_with_its_name(tmp_path: Path, random_model: Path) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "cut"))
    (folder / "model.safetensors").unlink()
    refused(start(tmp_path / "home", "--model", str(folder)), "no model could be loaded", "no model*.safetensors")


def test_an_unknown_architecture_is_refused_with_its_name(tmp_path: Path, random_model: Path) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "odd"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"llama"', '"wizard9"').replace("LlamaFor", "WizardFor"))
    refused(start(tmp_path / "home", "--model", str(folder)), "wizard9 not supported")


def test_a_model_that_is_nowhere_is_said(tmp_path: Path) -> None:
    refused(start(tmp_path / "home", "--model", "nowhere"), "nowhere")


def test_a_file_that_is_no_ledger_is_refused_and_not_touched(tmp_path: Path) -> None:
    content = b"no database at all" * 100
    (tmp_path / "ledger.db").write_bytes(content)
    refused(start(tmp_path), "ledger.db")
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_the_start_up_output_names_url_models_and_a_curl_line_that_works(daemon: RunningDaemon) -> None:
    text = daemon.log.read_text()
    assert f"LMX serves on {daemon.url}" in text
    assert "  chain " in text
    (curl,) = [line.strip() for line in text.splitlines() if line.strip().startswith("curl ")]
    done = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert '"finish_reason"' in done.stdout


def test_a_stop_while_it_loads_leaves_no_worker(tmp_path: Path, model_config: str) -> None:
    running = RunningDaemon(tmp_path / "home", model_config)
    while not running.log.exists() or not (running.home / "run" / f"{running.port}.json").exists():
        assert running.process.poll() is None, running.log.read_text()
    assert running.stop() == 0, running.log.read_text()
    assert "Traceback" not in running.log.read_text()
    assert "Warning" not in running.log.read_text()
