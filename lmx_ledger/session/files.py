"""KV on disk of models that are not loaded: where it lies, and how it is erased."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lmx_ledger.engine.kv.library import Library
from lmx_ledger.engine.kv.segments import SegmentStore

_NO_BOUND: Final = 1 << 62


def kv_folder(home: Path, fingerprint: str) -> Path:
    """Where the KV of a model's weights lies."""
    return home / "kv" / fingerprint


def erase_files(home: Path, fingerprint: str, form: str, ends: Sequence[bytes]) -> int:
    """Overwrite pieces and all before them that no others begin with; their bytes.

    Raises:
        BlockingIOError: a process has the files; ask that one.
        OSError: they cannot be written.
    """
    folder, root = kv_folder(home, fingerprint) / form, bytes.fromhex(form)
    if not folder.is_dir():
        return 0
    library = Library(SegmentStore(folder, root, _NO_BOUND, _NO_BOUND), root, 0, 0)
    try:
        return library.erase(ends)
    finally:
        library.close()
