"""One account for all daemons of a home: each writes down what it has reserved, under a lock, and reads the others'."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil


class SharedAccount:
    """HOME/memory: a file per daemon, of which those of processes that are gone do not count."""

    def __init__(self, home: Path, boot: str) -> None:
        """Raises:
        OSError: the folder cannot be made.
        """
        self._folder = home / "memory"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._own = self._folder / f"{boot}.json"
        self._me = {"pid": os.getpid(), "create_time": psutil.Process().create_time()}

    def others(self) -> int:
        """Bytes that other daemons have reserved, as of now."""
        return sum(self._read(path) for path in self._folder.glob("*.json") if path != self._own)

    def reserve(self, total: int, limit: int) -> bool:
        """Have `total` bytes instead of what there was before, if that fits beside the others' under the limit."""
        with self._locked():
            if total + self.others() > limit:
                return False
            self._write(total)
            return True

    def release(self, total: int) -> None:
        """Have `total` bytes, fewer than before."""
        with self._locked():
            self._write(total)

    def close(self) -> None:
        """Have nothing any more."""
        self._own.unlink(missing_ok=True)

    def _write(self, total: int) -> None:
        partial = self._own.with_suffix(".partial")
        partial.write_text(json.dumps({**self._me, "bytes": total}), encoding="utf-8")
        partial.replace(self._own)

    def _read(self, path: Path) -> int:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            alive = psutil.Process(told["pid"]).create_time() == told["create_time"]
            size = int(told["bytes"])
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            alive = False
        if alive:
            return size
        path.unlink(missing_ok=True)
        return 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
