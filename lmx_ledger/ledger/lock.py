"""Which of several writers of one ledger checkpoints it: the one that holds `ledger.lock`.

Before SQLite 3.51.3 two connections that checkpoint at once can corrupt the file (the WAL-reset bug); with one of them
nothing can. The lock is the kernel's, so it is free the moment its holder dies.
"""

import fcntl
import os
from pathlib import Path


class CheckpointLock:
    """The lock of one ledger, held or not."""

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_suffix(".lock")
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this writer is the one."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it unless another writer has it (or it cannot be made); True when it is newly held."""
        if self.held:
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let another writer have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
