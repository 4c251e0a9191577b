"""What `lmx doctor` looks at: one function per row, each with what it found and the mend."""

import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NamedTuple

from lmx_ledger.cli.connection import Connection, Failure, home_folder, reach_url
from lmx_ledger.core.config import Config, load_config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.units import show_bytes
from lmx_ledger.daemon import runfile
from lmx_ledger.daemon.socket import holder_of
from lmx_ledger.ledger.query import Reader
from lmx_ledger.memory.limit import limit_bytes

State = Literal["ok", "warn", "fail"]

# mlx must not come into this process, and where it is broken it takes a process along.
_ASK_MLX: Final = """
import json, mlx.core as mx
info = mx.device_info()
print(json.dumps({"device": str(mx.default_device()), "metal": mx.metal.is_available(),
    "sum": mx.sum(mx.ones((8, 8))).item(), "recommended": int(info.get("max_recommended_working_set_size", 0)),
    "memory": int(info.get("memory_size", 0))}))
"""
_MLX_S: Final = 120
_DISK_FAIL: Final = 10**9
_DISK_WARN: Final = 10 * 10**9
_MEMORY_WARN: Final = 2 * 10**9


class Check(NamedTuple):
    """One row. `mend` is empty where nothing is to be done."""

    name: str
    state: State
    found: str
    mend: str = ""


def all_checks(home: Path | None, file: Path | None, connection: Connection | None) -> Iterator[Check]:
    """Every row, as it is done."""
    yield python()
    mlx, recommended_bytes = mlx_and_back_end()
    yield mlx
    if sys.platform == "linux":
        yield openblas()
    config, row = configuration(home_folder(home), file)
    yield row
    yield memory(config, recommended_bytes)
    folder = home.expanduser().absolute() if home else config.home
    yield writable(folder)
    yield disk(folder)
    yield port(folder, config, connection)
    yield sensors()
    yield sqlite()
    yield ledger(folder / "ledger.db")


def python() -> Check:
    """Version and architecture."""
    found = f"{platform.python_version()} on {platform.machine()} ({sys.executable})"
    if sys.platform == "darwin" and platform.machine() == "x86_64" and _is_arm_mac():
        mend = "install an arm64 Python (python.org or brew) and set up anew: rm -rf .venv; make install"
        return Check("python", "fail", f"{found}, an x86-64 Python on an Arm Mac: MLX has no wheels for it", mend)
    return Check("python", "ok", found)


def _is_arm_mac() -> bool:
    done = subprocess.run(["/usr/sbin/sysctl", "-n", "hw.optional.arm64"], capture_output=True, text=True, check=False)
    return done.stdout.strip() == "1"


def mlx_and_back_end() -> tuple[Check, int]:
    """Whether MLX computes, on what; and the working set that Metal recommends, in bytes (0: none)."""
    mend = "install it anew: make install, or pip install --force-reinstall mlx mlx-lm in this environment"
    try:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mlx", "mlx-lm"))
    except importlib.metadata.PackageNotFoundError as error:
        return Check("mlx", "fail", f"{error.name} is not installed", mend), 0
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_MLX], capture_output=True, text=True, timeout=_MLX_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Check("mlx", "fail", f"{versions} did not start in {_MLX_S} s", mend), 0
    if done.returncode < 0:
        return Check("mlx", "fail", f"{versions} died of {signal.Signals(-done.returncode).name}", mend), 0
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("mlx", "fail", f"{versions} cannot be imported: {words}", mend), 0
    told = json.loads(done.stdout)
    device = "Metal" if told["metal"] else "CPU" if "cpu" in told["device"].lower() else "CUDA"
    if sys.platform == "darwin" and device != "Metal":
        return Check("mlx", "warn", f"{versions}, but Metal is not available: everything runs on the CPU", mend), 0
    return Check("mlx", "ok", f"{versions} on {device}"), told["recommended"]


def openblas() -> Check:
    """The BLAS that makes MLX's CPU back end 20-30 times as fast."""
    try:
        ctypes.CDLL("libopenblas.so.0")
    except OSError:
        mend = "apt-get install libopenblas0 (or your distribution's OpenBLAS)"
        return Check("openblas", "warn", "not installed: the built-in BLAS is 20-30 times slower", mend)
    return Check("openblas", "ok", "libopenblas.so.0 is there")


def configuration(home: Path, file: Path | None) -> tuple[Config, Check]:
    """What the daemon would run with; the defaults where the file is bad."""
    if file is None and (home / "config.toml").is_file():
        file = home / "config.toml"
    try:
        config = load_config(file)
    except StartupError as error:
        return Config(), Check("config", "fail", "; ".join(str(error).splitlines()), "mend that line")
    return config, Check("config", "ok", str(file) if file else "no file: the defaults")


def memory(config: Config, recommended_bytes: int) -> Check:
    """The limit that weights, KV and working memory are held against."""
    limit = limit_bytes(config.memory.limit, recommended_bytes)
    found = f"limit {show_bytes(limit)} ({'configured' if config.memory.limit != 'auto' else 'auto'})"
    if limit < _MEMORY_WARN:
        return Check(
            "memory", "warn", f"{found}: only tiny models fit", "raise [memory] limit, or use a larger machine"
        )
    if sys.platform == "darwin" and config.memory.limit == "auto":
        return Check(
            "memory", "ok", f"{found}; to raise it: sudo sysctl iogpu.wired_limit_mb={limit * 5 // 4 // 2**20}"
        )
    return Check("memory", "ok", f"{found}; [memory] limit in the configuration sets another")


def writable(home: Path) -> Check:
    """Whether the daemon can keep what it writes."""
    mend = "give this user the folder, or name another one with --home or LMX_HOME"
    folder = _existing(home)
    if not folder.is_dir():
        return Check("home", "fail", f"{folder} is no folder", mend)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("home", "fail", f"{folder} cannot be written", mend)
    return Check("home", "ok", f"{home}" if folder == home else f"{home} (not there yet; it can be made)")


def disk(home: Path) -> Check:
    """Room for models, KV and the ledger."""
    free = shutil.disk_usage(_existing(home)).free
    found = f"{show_bytes(free)} free at {home}"
    mend = "make room, or move the home to a larger disk with --home or LMX_HOME"
    if free < _DISK_FAIL:
        return Check("disk", "fail", found, mend)
    return Check("disk", "warn", found, mend) if free < _DISK_WARN else Check("disk", "ok", found)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def port(home: Path, config: Config, connection: Connection | None) -> Check:
    """Whether the port is free, or who holds it."""
    number = connection.port if connection else config.server.port
    run = runfile.read(home, number)
    if run is not None:
        return Check("port", "ok", f"{number}: the daemon of this home serves there (pid {run.pid})")
    try:
        if (connection or Connection(reach_url(config.server.host, number))).answers():
            return Check("port", "ok", f"{number}: an LMX daemon of another home serves there ({holder_of(number)})")
    except Failure as failure:
        stranger = f"{number}: {failure}"
    else:
        stranger = ""
    host = config.server.host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, number))
        except OSError as error:
            found = f"{number} cannot be had ({error.strerror}): {holder_of(number)} {stranger}".rstrip()
            return Check("port", "fail", found, "stop that process, or choose another port: [server] port, or --port")
    return Check("port", "ok", f"{number} is free")


def sensors(root: Path = Path("/")) -> Check:
    """What can be read of heat, swap and pressure, without root; `root` is where /proc and /sys are."""
    there, missing, mend = _mac_sensors() if sys.platform == "darwin" else _linux_sensors(root)
    found = ", ".join(there) or "none"
    return Check(
        "sensors", "warn" if mend else "ok", found + (f"; not there: {', '.join(missing)}" if missing else ""), mend
    )


def _linux_sensors(root: Path) -> tuple[list[str], list[str], str]:
    zones = len(list((root / "sys/class/thermal").glob("thermal_zone*")))
    seen = {
        "memory pressure (PSI)": (root / "proc/pressure/memory").exists(),
        "swap rates": (root / "proc/vmstat").exists(),
        f"thermal zones ({zones})" if zones else "thermal zones": zones > 0,
        "GPU (NVML)": (root / "proc/driver/nvidia/version").exists(),
    }
    return (
        [name for name, is_there in seen.items() if is_there],
        [n for n, is_there in seen.items() if not is_there],
        "",
    )


def _mac_sensors() -> tuple[list[str], list[str], str]:
    there = ["memory pressure", "swap", "thermal pressure"]
    there += ["GPU utilisation (ioreg)"] if Path("/usr/sbin/ioreg").exists() else []
    if shutil.which("macmon"):
        return [*there, "GPU frequency (macmon)"], [], ""
    return there, ["GPU frequency"], "brew install macmon: without it throttling is judged by thermal pressure alone"


def sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Check:
    """The WAL-reset bug: 3.7.0 to 3.51.2, mended in 3.51.3, 3.50.7 and 3.44.6."""
    found = ".".join(map(str, version))
    mended = version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    if mended:
        return Check("sqlite", "ok", found)
    mend = "nothing urgent; a Python with SQLite 3.51.3, 3.50.7, 3.44.6 or newer is free of it"
    return Check("sqlite", "warn", f"{found} has the WAL-reset bug; one daemon per home keeps clear of it", mend)


def ledger(file: Path) -> Check:
    """Whether the chain of events is unbroken."""
    if not file.exists():
        return Check("ledger", "ok", f"{file}: none yet")
    mend = f"keep the file as evidence, move it away (mv {file} {file}.bad) and restart: a new ledger is begun"
    try:
        with closing(Reader.open(file)) as reader:
            verdict = reader.verify()
    except StartupError as error:
        return Check("ledger", "fail", str(error), mend)
    if not verdict.ok:
        return Check("ledger", "fail", f"{file}: {verdict.reason}", mend)
    return Check("ledger", "ok", f"{file}: {verdict.events:,} events, the chain verifies")
