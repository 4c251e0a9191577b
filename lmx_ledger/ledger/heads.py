"""Signed heads: from time to time the newest event's hash, under a key, outside the ledger's file.

A chain shows a change within it, but not that all of it was written anew. The heads do, unless the one who rewrites
has the key: an event that was signed must still be there, with that hash. Both lie beside the ledger
(`ledger.db.heads`, `ledger.db.key`, only for its owner); whoever keeps a copy of both elsewhere can hold the owner to
it, too.
"""

import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from lmx_ledger.core.clock import elapsed_ms, mono_ns, utc_us
from lmx_ledger.ledger.store import LedgerUnusable

EVERY_EVENTS: Final = 10_000
"""At most so many events (and one group) are not covered by a signed head while a daemon runs."""
EVERY_MS: Final = 60_000

_KEY_BYTES: Final = 32


class Head(msgspec.Struct, frozen=True):
    """One line of the file, signed at `time_us`. `mac` is HMAC-SHA256 over seq, hash and time_us, in hexadecimal."""

    seq: int
    hash: str
    time_us: int
    mac: str


class HeadsVerdict(NamedTuple):
    """What the signed heads say: `heads` good ones up to `seq`; `bad_seq` and `reason` are None when none is bad."""

    ok: bool
    heads: int
    seq: int
    bad_seq: int | None
    reason: str | None


def heads_path(ledger: Path) -> Path:
    """Where the heads of a ledger are."""
    return ledger.with_name(f"{ledger.name}.heads")


def key_path(ledger: Path) -> Path:
    """Where the key of a ledger is."""
    return ledger.with_name(f"{ledger.name}.key")


class Signer:
    """Signs heads as they come, now and then. It never stops the one who writes: `error` says what went wrong."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._key: bytes | None = None
        self._signed_seq = 0
        self._signed_ns = mono_ns()
        self.error: str | None = None

    def note(self, seq: int, digest: bytes) -> None:
        """The head after a commit; it is signed when enough events or time have passed since the last one."""
        if seq - self._signed_seq >= EVERY_EVENTS or elapsed_ms(self._signed_ns) >= EVERY_MS:
            self.sign(seq, digest)

    def sign(self, seq: int, digest: bytes) -> None:
        """Sign this head now, if it is not signed yet."""
        if seq <= self._signed_seq:
            return
        try:
            if self._key is None:
                self._key = _key_of(self._ledger)
            _sync(self._ledger.with_name(f"{self._ledger.name}-wal"))
            time_us = utc_us()
            mac = _mac(self._key, seq, digest, time_us).hex()
            line = msgspec.json.encode(Head(seq, digest.hex(), time_us, mac)) + b"\n"
            descriptor = os.open(heads_path(self._ledger), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError("a line was cut short")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.error = f"{heads_path(self._ledger)}: {error.strerror or error}"
        else:
            self.error = None
        # After an error as well: it is tried again when the next one is due, not with every group.
        self._signed_seq, self._signed_ns = seq, mono_ns()


def key_of(ledger: Path, *, make: bool = False) -> bytes:
    """The ledger's key, 32 bytes. `make`: where nothing was signed yet, it is made, as the first signature would.

    Raises:
        LedgerUnusable: it is not there, is not for this user to read, or is no key; the message says what to do.
    """
    path = key_path(ledger)
    try:
        if make and not heads_path(ledger).exists():
            return _key_of(ledger)
        return _read_key(path)
    except FileNotFoundError:
        lost = heads_path(ledger).exists()
        what = "put it back from a copy" if lost else "a daemon makes it within a minute of its first start"
        raise LedgerUnusable(f"{path}: there is no such key; {what}") from None
    except OSError as error:
        why = error.strerror or error
        raise LedgerUnusable(f"{path}: the key cannot be read ({why}); only the ledger's owner can do this") from None


def seqs(ledger: Path) -> set[int]:
    """Which events were signed."""
    path = heads_path(ledger)
    return {head.seq for head in _read(path)} if path.exists() else set()


def check(ledger: Path, hash_at: Callable[[int], bytes | None]) -> HeadsVerdict:
    """Whether every signed head is an event of the ledger; `hash_at` gives an event's hash, None if there is none.

    A line that was cut short by a crash or a full disk is passed over: the next one begins in the middle of it.
    """
    path = heads_path(ledger)
    if not path.exists():
        return HeadsVerdict(True, 0, 0, None, None)
    try:
        key = key_path(ledger).read_bytes()
    except OSError as error:
        return HeadsVerdict(False, 0, 0, 1, f"{key_path(ledger)} cannot be read ({error.strerror})")
    good, last = 0, 0
    for head in _read(path):
        seq, digest = head.seq, bytes.fromhex(head.hash)
        if not hmac.compare_digest(_mac(key, seq, digest, head.time_us).hex(), head.mac):
            return HeadsVerdict(False, good, last, seq, f"the head of event {seq} was not signed with this key")
        found = hash_at(seq)
        if found is None:
            return HeadsVerdict(False, good, last, seq, f"event {seq} was signed and is not there any more")
        if found != digest:
            return HeadsVerdict(False, good, last, seq, f"event {seq} was signed with another hash: it was rewritten")
        good, last = good + 1, max(last, seq)
    return HeadsVerdict(True, good, last, None, None)


def _read(path: Path) -> Iterator[Head]:
    decode = msgspec.json.Decoder(Head).decode
    with path.open("rb") as file:
        for line in file:
            try:
                head = decode(line[line.rfind(b'{"seq"') :])
                bytes.fromhex(head.hash)
            except (msgspec.MsgspecError, ValueError):
                continue
            yield head


def _mac(key: bytes, seq: int, digest: bytes, time_us: int) -> bytes:
    return hmac.digest(key, msgspec.json.encode([seq, digest.hex(), time_us]), sha256)


def _sync(path: Path) -> None:
    # With synchronous NORMAL a power cut takes back the last commits; what was signed must not be among them.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _key_of(ledger: Path) -> bytes:
    """The ledger's key, made if there is none; of two processes that make one, the first one's counts."""
    path = key_path(ledger)
    if not path.exists():
        rough = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(rough, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(rough, path)
        except FileExistsError:
            pass
        finally:
            rough.unlink()
    return _read_key(path)


def _read_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} is no key: {len(key)} bytes instead of {_KEY_BYTES}")
    return key
