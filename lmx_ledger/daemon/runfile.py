"""Run files: HOME/run/PORT.json says which process serves a port, so that `stop` and `status` find it."""

from pathlib import Path

import msgspec
import psutil


class RunFile(msgspec.Struct, frozen=True, kw_only=True):
    """One running daemon. `create_time` (psutil, seconds) tells it from a later process with the same pid."""

    pid: int
    create_time: float
    host: str
    port: int
    url: str
    boot: str
    profile: str
    started: str


def write(home: Path, run: RunFile) -> Path:
    """Write it whole or not at all; 0600."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{run.port}.json"
    rough = file.with_suffix(".part")
    rough.touch(mode=0o600)
    rough.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    rough.rename(file)
    return file


def read(home: Path, port: int) -> RunFile | None:
    """The daemon on that port; None when there is no file, or no live process behind it."""
    try:
        run = msgspec.json.decode((home / "run" / f"{port}.json").read_bytes(), type=RunFile)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return run if is_alive(run) else None


def all_of(home: Path) -> list[RunFile]:
    """Every live daemon of a home, by port."""
    ports = sorted(int(file.stem) for file in (home / "run").glob("*.json") if file.stem.isdigit())
    return [run for port in ports if (run := read(home, port)) is not None]


def is_alive(run: RunFile) -> bool:
    """Whether that very process still runs."""
    try:
        process = psutil.Process(run.pid)
        same = abs(process.create_time() - run.create_time) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
