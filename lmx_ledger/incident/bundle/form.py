"""How a bundle is written: one gzip file of JSON lines, a manifest, the events by ascending seq, a seal.

The manifest says what is in it and what it was made from, the seal is the SHA-256 of everything before it, with an
HMAC of that under the ledger's key.
"""

import gzip
import hashlib
import hmac
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import msgspec

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.event_id import digest_of, event_id
from lmx_ledger.ledger.store import LedgerError

FORMAT: Final = "lmx-bundle"
FORM: Final = 1
"""Raised with every change that a reader of the form before would misread."""
MOST_BYTES: Final = 1 << 30
"""What a bundle may have, unpacked."""
LONGEST_LINE: Final = 1 << 22
_CHUNK: Final = 1 << 16
_NONE: Final = "is no bundle of an incident; lmx incidents bundle ID writes one"
_GZIP: Final = 31
"""zlib's word for: with gzip's header and trailer."""


_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Promise = Annotated[float, msgspec.Meta(gt=0)]


class BadBundle(LedgerError):
    """A file that is no bundle, or not as it was written; the message is one line that says why."""


class Objectives(msgspec.Struct, frozen=True, kw_only=True):
    """What was promised while the incident went on, in seconds: what takes longer was slow."""

    ttft_s: _Promise
    itl_s: _Promise


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. Times are RFC 3339 UTC.

    `since` to `until` is the incident's time; `cut`: it has more events than are read of one. `events` are in the file,
    from `first_seq` to `last_seq`. The ledger's newest event was `head_seq` with `head_hash`, the last one under a
    signed head `signed_seq` (0: none), and from `broken_from` on (None: nowhere) it is not as it was written. `kept`
    and `redacted` say what of the events is as it was, and how many values were renamed or left out, by rule.
    """

    format: str = FORMAT
    form: int = FORM
    version: str
    incident: str
    status: str
    since: str
    until: str
    cut: bool
    events: _Seq
    first_seq: _Seq
    last_seq: _Seq
    head_seq: _Seq
    head_hash: str
    signed_seq: _Count
    broken_from: _Seq | None
    objectives: Objectives
    kept: list[str]
    redacted: dict[str, int]

    @property
    def since_us(self) -> int:
        """Microseconds since the epoch."""
        return parse_rfc3339(self.since)

    @property
    def until_us(self) -> int:
        """Microseconds since the epoch; the moment itself is not in it."""
        return parse_rfc3339(self.until)


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """The last line. `sha256` is of all bytes before it, `mac` is HMAC-SHA256 of that; both in hexadecimal."""

    sha256: str
    mac: str


class _Form(msgspec.Struct, frozen=True):
    """What any form of it has."""

    format: str
    form: int


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """`Recorded.public()`, with the types that it has."""

    seq: int
    id: str
    time: str
    boot: str
    type: str
    v: int
    severity: str
    stream: str
    request: str | None
    session: str | None
    model: str | None
    incident: str | None
    cause: int | None
    data: dict[str, Any]


_decode_line: Final = msgspec.json.Decoder(_Line).decode


def file_name(incident: str) -> str:
    """What a bundle's file is called where nobody says otherwise."""
    return f"{re.sub('[^A-Za-z0-9_]', '_', incident)[:80]}.bundle.gz"


def line_of(event: Recorded) -> bytes:
    """An event as it stands in the file, with the line's end."""
    return msgspec.json.encode(event.public()) + b"\n"


def written(manifest: Manifest, lines: Sequence[bytes], key: bytes) -> bytes:
    """The file. The same manifest, lines and key give the same bytes.

    Raises:
        BadBundle: it would be too large for any reader.
    """
    head = msgspec.json.encode(manifest) + b"\n"
    if len(head) + sum(map(len, lines)) > MOST_BYTES - _CHUNK or max(map(len, lines), default=0) > LONGEST_LINE:
        raise BadBundle(
            f"{manifest.incident} is too large for a bundle: {len(lines):,} events of its time, over "
            f"{MOST_BYTES >> 30} GiB; lmx ledger export --since --until has all of them"
        )
    packed = io.BytesIO()
    digest = hashlib.sha256()
    # No name and no time in it: the same lines make the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as file:
        for line in (head, *lines):
            digest.update(line)
            file.write(line)
        file.write(msgspec.json.encode(seal_of(digest.digest(), key)) + b"\n")
    return packed.getvalue()


def seal_of(digest: bytes, key: bytes) -> Seal:
    """The seal of what has that SHA-256."""
    return Seal(sha256=digest.hex(), mac=hmac.digest(key, b"lmx bundle\0seal\0" + digest, hashlib.sha256).hex())


class Bundle:
    """A bundle that is read from its beginning to its end, in constant memory.

    What it says is to be believed only when `events` came to its end: that is where the seal is.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Read the manifest; `name` is what errors call it.

        Raises:
            BadBundle: it is none, or of a form that this program does not know.
        """
        self._name = name = shown(name)
        self._lines = _lines(stream, name)
        self._digest = hashlib.sha256()
        first = next(self._lines, b"")
        try:
            known = msgspec.json.decode(first, type=_Form)
        except msgspec.MsgspecError:
            raise BadBundle(f"{name} {_NONE}") from None
        if known.format != FORMAT:
            raise BadBundle(f"{name} {_NONE}")
        if known.form > FORM:
            raise BadBundle(
                f"{name} was written by a newer lmx (form {known.form}, here {FORM}); read it with one as new"
            )
        try:
            self.manifest = msgspec.json.decode(first, type=Manifest)
            times = self.manifest.since_us, self.manifest.until_us
            bytes.fromhex(self.manifest.head_hash)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise self._damaged(f"its manifest cannot be read: {error}") from None
        if times[0] > times[1]:
            raise self._damaged("its manifest says that it ends before it begins")
        self._digest.update(first)
        self.seal: Seal | None = None

    def events(self) -> Iterator[Recorded]:
        """Each once, by ascending seq; then `seal` is the file's, and has been found to be right.

        Raises:
            BadBundle: the file is cut, or not as it was written; whatever came before is not to be used.
        """
        wanted, last, count = self.manifest, 0, 0
        for line in self._lines:
            if count == wanted.events:
                self._end(line)
                return
            event = self._event(line)
            if event.seq <= last:
                raise self._damaged(f"event {event.seq} comes behind event {last}")
            if not count and event.seq != wanted.first_seq:
                raise self._damaged(f"it begins with event {event.seq} instead of {wanted.first_seq}")
            last, count = event.seq, count + 1
            if count == wanted.events and last != wanted.last_seq:
                raise self._damaged(f"it ends with event {last} instead of {wanted.last_seq}")
            self._digest.update(line)
            yield event
        raise self._damaged(f"it is cut: it has {count:,} of {wanted.events:,} events")

    def _event(self, line: bytes) -> Recorded:
        try:
            event = Recorded.of_public(msgspec.structs.asdict(_decode_line(line)))
            if event_id(event.time_us, digest_of(event.id)) != event.id:
                raise ValueError("its id and its time differ")
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            raise self._damaged(f"what stands where an event should be is none ({error})") from None
        return event

    def _end(self, line: bytes) -> None:
        try:
            seal = msgspec.json.decode(line, type=Seal)
        except (msgspec.MsgspecError, ValueError):
            raise self._damaged("it has no seal") from None
        if seal.sha256 != self._digest.hexdigest():
            raise self._damaged("its seal is of something else")
        if next(self._lines, None) is not None:
            raise self._damaged("there is something behind its seal")
        self.seal = seal

    def _damaged(self, why: str) -> BadBundle:
        return BadBundle(f"{self._name} is not as it was written: {why}; get it anew from whoever made it")


def opened_file(file: Path) -> BinaryIO:
    """The file, to read.

    Raises:
        BadBundle: it cannot be opened.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise BadBundle(f"{shown(file)} cannot be read: {error.strerror or error}") from None


def shown(name: str | Path) -> str:
    """A file may be called what fools a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(name))


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Unpacked, each with its end; nothing is unpacked that is not wanted, whatever the file pretends to be.

    Not `gzip`: that takes what is behind the end for another file, and passes over zeros there.
    """
    unpack = zlib.decompressobj(_GZIP)
    rest, total = b"", 0
    try:
        while not unpack.eof:
            packed = unpack.unconsumed_tail or stream.read(_CHUNK)
            chunk = unpack.decompress(packed, _CHUNK)
            if not packed and not chunk and not unpack.eof:
                what = "is cut: it ends before its end; get it anew from whoever made it" if total else _NONE
                raise BadBundle(f"{name} {what}")
            total += len(chunk)
            if total > MOST_BYTES:
                raise BadBundle(f"{name} is larger than any bundle is ({MOST_BYTES >> 30} GiB unpacked)")
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line + b"\n"
            if len(rest) > LONGEST_LINE:
                raise BadBundle(f"{name} has a line that is longer than any of a bundle")
        if rest or unpack.unused_data or stream.read(1):
            raise BadBundle(f"{name} has something behind its end; get it anew from whoever made it")
    except zlib.error as error:
        what = f"is damaged ({error}); get it anew from whoever made it" if total else _NONE
        raise BadBundle(f"{name} {what}") from None
    except OSError as error:
        raise BadBundle(f"{name} cannot be read: {error.strerror or error}") from None
