"""One commit's folder on its way: a file is resumed, checked against the hub's digest, flushed, and only then named."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.units import show_bytes
from lmx_ledger.store.errors import DamagedDownload, NoSpace
from lmx_ledger.store.hub import Hub, HubFile, Snapshot
from lmx_ledger.store.progress import Progress
from lmx_ledger.store.shelf import NOTE
from lmx_ledger.store.staging import Staging

_RESERVE_BYTES: Final = 256 * 1000**2
_RESERVE_FRACTION: Final = 0.05
_CHUNK_BYTES: Final = 1 << 20


def space_needed(missing_bytes: int) -> int:
    """What must be free before a download: the bytes that are missing, and 5 % of them or 256 MB, whichever is more."""
    return missing_bytes + max(int(missing_bytes * _RESERVE_FRACTION), _RESERVE_BYTES) if missing_bytes else 0


class Assembly:
    """The folder of one commit, by the process that holds the model's lock.

    `resumed_bytes` are those that were here before, `fetched_bytes` came over the network.
    """

    def __init__(self, hub: Hub, snapshot: Snapshot, place: Staging, progress: Progress) -> None:
        self.folder = place.of_commit(snapshot.revision)
        self.resumed_bytes = 0
        self.fetched_bytes = 0
        self._missing_bytes = 0
        self._hub = hub
        self._snapshot = snapshot
        self._place = place
        self._progress = progress
        self._sha256: dict[str, str] = {}

    def open(self) -> None:
        """Make the folders."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._place.parts.mkdir(exist_ok=True)

    def bring_all(self, files: Sequence[HubFile]) -> None:
        """Until all of them are here, and nothing else.

        Raises:
            StoreError: NoSpace before the first byte, or what `bring` raises.
        """
        self._adopt(files)
        for stranger in {file.name for file in self.folder.iterdir()} - {file.name for file in files}:
            (self.folder / stranger).unlink()
        total = sum(file.size for file in files)
        have = sum(self._have(file) for file in files)
        self.resumed_bytes = have - self.fetched_bytes
        self._missing_bytes = total - have
        if (short := self._short_bytes()) > 0:
            missing, free = show_bytes(self._missing_bytes), show_bytes(self._free_bytes())
            raise NoSpace(
                f"{self._snapshot.id} needs {missing} more, and {free} are free under {self._place.models}; "
                f"free another {show_bytes(short)}, or give --home on another disk",
                short,
            )
        self._progress.begin(total, have)
        for file in files:
            self.bring(file)

    def bring(self, file: HubFile) -> None:
        """Until the file is in the folder, with the content that the hub says; a second time if need be.

        Raises:
            StoreError: DamagedDownload, or what `Hub.fetch` raises.
        """
        goal, part = self.folder / file.name, self._part(file)
        if self._have(file) == file.size and goal.exists():
            return
        for last in (False, True):
            self._progress.step(f"fetching {file.name}")
            if part.exists() and part.stat().st_size > file.size:
                self._discard(part)
            self._hub.fetch(self._snapshot, file, part, self._advance)
            if part.stat().st_size == file.size and self._matches(file, part):
                _flush(part)
                part.rename(goal)
                return
            self._discard(part)
            if not last:
                self._progress.say(f"{file.name} is not what the hub says it is; fetching it again")
        raise DamagedDownload(
            f"{self._snapshot.id}: the hub sent {file.name} twice with other content than it says; try again later"
        )

    def write_note(self, files: Sequence[HubFile]) -> None:
        """Write `lmx.json`.

        Raises:
            DamagedDownload: a file that an earlier run checked is another now.
        """
        for file in files:
            if file.name not in self._sha256 and not self._matches(file, self.folder / file.name):
                (self.folder / file.name).unlink()
                raise DamagedDownload(f"{file.name} has changed on the disk since it was fetched; run it again")
        note = {
            "repo": self._snapshot.id,
            "revision": self._snapshot.revision,
            "pulled_at": rfc3339(utc_us()),
            "files": [{"name": f.name, "size": f.size, "sha256": self._sha256[f.name]} for f in files],
        }
        (self.folder / NOTE).write_text(json.dumps(note, indent=2))
        _flush(self.folder / NOTE)

    def disk_full(self) -> NoSpace:
        """The error for a disk that somebody filled while the download went on."""
        short = max(self._short_bytes(), 0)
        return NoSpace(
            f"the disk of {self._place.models} is full; free another {show_bytes(short)} and run it again to go on: "
            "what was fetched stays",
            short,
        )

    def _adopt(self, files: Sequence[HubFile]) -> None:
        """Take what an earlier try, or the installed revision, has of this very content: few commits touch weights."""
        for folder in self._place.other_folders(self._snapshot.revision):
            for file in files:
                source, goal = folder / file.name, self.folder / file.name
                if goal.exists() or self._part(file).exists() or not source.is_file():
                    continue
                if source.stat().st_size == file.size and self._matches(file, source):
                    try:
                        goal.hardlink_to(source)
                    except OSError:
                        # A file system without hard links: it is fetched instead.
                        return

    def _matches(self, file: HubFile, path: Path) -> bool:
        """Whether the content is what the hub says of it; notes its sha256 if so."""
        self._progress.step(f"checking {file.name}")
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                sha256.update(chunk)
                if file.sha256 is None:
                    git.update(chunk)
        if file.sha256 is None and file.git_oid not in {None, git.hexdigest()}:
            return False
        if file.sha256 not in {None, sha256.hexdigest()}:
            return False
        self._sha256[file.name] = sha256.hexdigest()
        return True

    def _have(self, file: HubFile) -> int:
        """Bytes of it that are here. A whole file has its own name only after it was checked and flushed."""
        goal, part = self.folder / file.name, self._part(file)
        if goal.exists():
            if goal.stat().st_size == file.size:
                return file.size
            goal.unlink()
        return part.stat().st_size if part.exists() else 0

    def _part(self, file: HubFile) -> Path:
        return self._place.parts / (file.sha256 or file.git_oid or f"{self._snapshot.revision}-{file.name}")

    def _advance(self, count: int) -> None:
        if count > 0:
            self.fetched_bytes += count
        else:
            self.resumed_bytes = max(self.resumed_bytes + count, 0)
        self._missing_bytes -= count
        self._progress.advance(count)

    def _discard(self, part: Path) -> None:
        self._advance(-part.stat().st_size)
        part.unlink()

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._place.models).free

    def _short_bytes(self) -> int:
        return space_needed(self._missing_bytes) - self._free_bytes()


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
