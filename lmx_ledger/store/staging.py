"""HOME/models/.partial: where a model is while it is not whole, and the one step in which it becomes visible."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from lmx_ledger.store.errors import Busy

PARTIAL: Final = ".partial"

_REPLACED: Final = "replaced"
_REMOVED: Final = "removed"


class Staging:
    """One model's unfinished files. All of it belongs to the process that holds the lock.

    `parts/KEY` are files on their way, named after their content so that two commits never mix; `COMMIT/` has whole
    ones; `replaced/` is the folder that a newer revision takes the place of, `removed/` one that is being deleted.
    """

    def __init__(self, models: Path, id: str) -> None:  # noqa: A002
        self.id = id
        self.models = models
        self.target = models / id
        self.folder = models / PARTIAL / quote(id, safe="")
        self.parts = self.folder / "parts"
        self._lock = self.folder.with_name(f"{self.folder.name}.lock")

    def of_commit(self, revision: str) -> Path:
        """The folder of whole files of one commit."""
        return self.folder / revision

    def other_folders(self, revision: str) -> list[Path]:
        """Where whole files may be that another commit shares with this one: earlier tries, and what is installed."""
        tries = [f for f in self.folder.iterdir() if f not in {self.parts, self.of_commit(revision)} and f.is_dir()]
        return [*tries, *([self.target] if self.target.is_dir() else [])]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Alone with this model, with what a crash left mended.

        Raises:
            Busy: another process is.
            OSError: the folder cannot be written.
        """
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._acquire()
        try:
            self._mend()
            yield
        finally:
            if not self.folder.exists():
                self._lock.unlink(missing_ok=True)
            os.close(descriptor)

    def _acquire(self) -> int:
        while True:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The holder before may have deleted the file between our open and our lock: then it locks nothing.
                if os.path.samestat(os.fstat(descriptor), self._lock.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(descriptor)
                raise Busy(f"{self.id} is being pulled or removed by another lmx; wait for it, or stop it") from None
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _mend(self) -> None:
        """After a crash in `install` or `remove`: the model is there whole, and what is not needed is gone."""
        replaced = self.folder / _REPLACED
        if _is_there(replaced) and not _is_there(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            replaced.rename(self.target)
        for leftover in (replaced, self.folder / _REMOVED):
            _delete(leftover)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def install(self, whole: Path) -> None:
        """Put a complete, flushed folder in the model's place; a crash leaves the old or the new one, whole."""
        _flush(whole)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        if _is_there(self.target):
            self.target.rename(self.folder / _REPLACED)
        whole.rename(self.target)
        _flush(self.target.parent)
        _delete(self.folder)

    def forget(self, revision: str) -> None:
        """Delete what was fetched of a commit that turned out to be of no use; other tries stay."""
        _delete(self.of_commit(revision))
        for folder in (self.parts, self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def remove(self) -> None:
        """Take the model away in one step, with whatever was fetched of it, then delete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if _is_there(self.target):
            self.target.rename(self.folder / _REMOVED)
        _delete(self.folder)
        organisation = self.target.parent
        if organisation != self.models:
            try:
                organisation.rmdir()
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR}:
                    raise


def mend(models: Path) -> None:
    """Mend what crashes left of models that nobody is working on now; cheap where there is nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    try:
        names = [entry.name for entry in os.scandir(models / PARTIAL) if entry.is_dir()]
    except FileNotFoundError:
        return
    for name in names:
        if any(_is_there(models / PARTIAL / name / leftover) for leftover in (_REPLACED, _REMOVED)):
            try:
                with Staging(models, unquote(name)).held():
                    pass
            except Busy:
                # Its holder is in the middle of this very step, and mends it itself if it cannot finish.
                continue


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _delete(path: Path) -> None:
    """A link is deleted, never what it points to."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
