"""All that daemon and worker share: typed messages in length-prefixed msgpack frames over a socketpair.

A frame is a 4-byte big-endian length and that many bytes of msgpack. The daemon sends `Command`s, the worker
`Report`s. Token ids only: no text, no HTTP, no policy crosses this line, except a tool call to be parsed.
"""

import socket
import struct
from typing import Final, TypeAlias

import msgspec

MAX_FRAME_BYTES: Final = 256 * 1024**2
LENGTH: Final = struct.Struct(">I")
NO_MEMORY: Final = 12
"""A worker's exit status when an allocation failed (ENOMEM): what is left of it is not to be trusted."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, tag=False, array_like=True):
    """How tokens are drawn. Position i of a stream is drawn with the key (seed << 32) | i, whatever runs beside it."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: bool = False
    top_logprobs: int = 0


# --- daemon -> worker -----------------------------------------------------------------------------------------------


class Kv(msgspec.Struct, frozen=True):
    """Where a model's KV is kept, in pieces of `block` tokens, and in how many bytes of RAM and of disk.

    `fingerprint` stands for its weights: KV of others is of no use.
    """

    folder: str
    fingerprint: str
    block: int
    ram: int
    disk: int


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Read the model in this folder; answered by `Loaded` or `LoadFailed`.

    `prefill_step`: most prompt tokens read at once; fewer while others decode, so that they wait at most `prefill_gap`
    of their own steps. `kv`: None where nothing is to be kept. `derived`: the folder for weights that are not in the
    files as they are used, when they are paged out. `room`: bytes that its arrays may take; None: nobody
    counts. `scale`: how much more than foretold a pass took earlier workers; `wired`: Metal is to wire
    that room.
    """

    path: str
    prefill_step: int
    prefill_gap: float
    kv: Kv | None = None
    derived: str | None = None
    room: int | None = None
    scale: float = 1.0
    wired: bool = False


class Insert(msgspec.Struct, frozen=True, tag="insert"):
    """Begin a stream. `prompt` has at least one id; `prompt_len` says where the prompt ends and the answer began.

    Prompts are read in turns between owners, each by its weight. `label` comes back in `Saved`; `known` is how much of
    the prompt should have been kept, `boundary` behind how many tokens the next prompt may leave this one (0: unknown).
    """

    stream: int
    prompt: list[int]
    prompt_len: int
    max_tokens: int
    eos: list[int]
    sampling: Sampling
    owner: int = 0
    weight: float = 1.0
    label: str = ""
    known: int = 0
    boundary: int = 0


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End these streams before the next step; unknown ones are ignored (they may have ended on their own)."""

    streams: list[int]


class ParseTool(msgspec.Struct, frozen=True, tag="parse_tool"):
    """Parse what stood between the markers of a tool call; answered by `ToolParsed`."""

    call: int
    text: str
    tools_json: str


class MeasureKv(msgspec.Struct, frozen=True, tag="measure_kv"):
    """How much of each list of pieces, and of all before them, is where; answered by `KvMeasured`."""

    call: int
    ends: list[list[bytes]]


class EraseKv(msgspec.Struct, frozen=True, tag="erase_kv"):
    """Overwrite these pieces and all before them that no others begin with; answered by `KvErased`."""

    call: int
    ends: list[bytes]


class PageOut(msgspec.Struct, frozen=True, tag="page_out"):
    """Let go of layers until so many bytes are free (0: of all); answered by `Paged`. Not while there are streams."""

    call: int
    bytes: int = 0


class PageIn(msgspec.Struct, frozen=True, tag="page_in"):
    """Read every layer that is out, commands being heard between any two; answered by `Paged`."""

    call: int


class SetRoom(msgspec.Struct, frozen=True, tag="set_room"):
    """From now on its arrays may take so many bytes, and `kept` KV at rest in RAM; answered by `RoomSet`."""

    call: int
    bytes: int
    kept: int


class SlowDisk(msgspec.Struct, frozen=True, tag="slow_disk"):
    """For rehearsals: KV and weights are read, and KV is written, as if that were all a disk can do; 0: no more so."""

    bytes_per_s: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Leave at once, with exit status 0."""


Command: TypeAlias = (
    Load | Insert | Cancel | ParseTool | MeasureKv | EraseKv | PageOut | PageIn | SetRoom | SlowDisk | Shutdown
)


# --- worker -> daemon -----------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The worker runs and waits for a model. `recommended_bytes`: Metal's recommended working set, 0 without Metal."""

    pid: int
    recommended_bytes: int
    mlx: str
    mlx_lm: str
    device: str
    blas: str


class Dialect(msgspec.Struct, frozen=True, array_like=True):
    """How the model marks structure in its text; None where it has no such thing."""

    tool_parser: str | None
    tool_start: str | None
    tool_end: str | None
    think_start: str | None
    think_end: str | None

    @property
    def markers(self) -> tuple[str, ...]:
        """Every marker it has."""
        found = (self.tool_start, self.tool_end, self.think_start, self.think_end)
        return tuple(marker for marker in found if marker)


class KvOpened(msgspec.Struct, frozen=True):
    """What was found where KV is kept.

    `form` names the model's caches and how they are cut; `whole`: they cannot be cut, and are kept as they are.
    `broken_bytes` are no records (any more), `foreign` files of something else, `dropped_bytes` were kept in other
    forms of the same model. With `error` nothing is kept; `borrowed`: another process has
    the files, of which only what is there is of use, and what is kept here stays in RAM.
    """

    form: str
    whole: bool
    pieces: int = 0
    disk_bytes: int = 0
    broken_bytes: int = 0
    foreign: list[str] = []
    dropped_bytes: int = 0
    error: str | None = None
    borrowed: bool = False


_CACHE_STEP: Final = 256
_SIXTEEN_STEPS: Final = 16 * _CACHE_STEP


def first_room(tokens: int, left: int) -> int:
    """Tokens that a stream's cache is made for: growing copies it, so there is room for the first of its answer."""
    begun = tokens + min(left, _CACHE_STEP)
    return (begun + _CACHE_STEP - 1) // _CACHE_STEP * _CACHE_STEP


def growth_of_room(room: int) -> int:
    """Tokens by which such a cache grows: a sixteenth of what growing it copies, at least what mlx-lm's grow by."""
    return max(_CACHE_STEP, room // _SIXTEEN_STEPS * _CACHE_STEP)


class KvShape(msgspec.Struct, frozen=True, array_like=True):
    """What one stream's caches take: `per_token` bytes of full attention, a constant, and windows: bytes per token, and
    the tokens that they grow to.
    """

    per_token: int
    constant: int = 0
    windows: list[tuple[int, int]] = []

    def bytes(self, tokens: int) -> int:
        """Of so many tokens; mlx-lm's caches grow by 256."""
        room = (tokens + _CACHE_STEP - 1) // _CACHE_STEP * _CACHE_STEP
        return self.per_token * room + self.constant + sum(each * min(room, most) for each, most in self.windows)


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The model is resident and its first forward pass has run. `kv`: None where none is to be kept, or can be.

    `layers`: bytes of its weights, in the order in which they come back (they go in the opposite one). `shape`: what a
    stream's caches take. `pass_token` and `pass_pair`: bytes that a pass takes for a token, and for a token and each
    one that it looks at. `wired_bytes`: what Metal was told to wire.
    """

    weights_bytes: int
    vocab: int
    architecture: str
    dialect: Dialect
    active_bytes: int
    ms: float
    kv: KvOpened | None = None
    layers: list[int] = []
    shape: KvShape = KvShape(0)
    pass_token: float = 0.0
    pass_pair: float = 0.0
    wired_bytes: int = 0


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """The model cannot be served; the worker stays and may be given another."""

    error: str


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """Natural log-probabilities at one position: of the drawn token, and of the likeliest ones, best first."""

    drawn: float
    top: list[tuple[int, float]]


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One token of one stream. `finish`: None, `stop` (an eos id, to be shown to nobody) or `length`."""

    stream: int
    id: int
    finish: str | None = None
    logprob: Logprob | None = None


class Prefill(msgspec.Struct, frozen=True, array_like=True):
    """How far the reading of one stream's prompt has come, in tokens."""

    stream: int
    done: int
    total: int


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """A piece of KV that is not there any more: `evicted` or `corrupt`, told in the `Saved` of that `turn`."""

    reason: str
    turn: int
    bytes: int


class Restoring(msgspec.Struct, frozen=True, tag="restoring"):
    """What is kept of a stream's prompt is being read: so many bytes so far. Told once a second, of a slow disk."""

    stream: int
    read_bytes: int


class Restored(msgspec.Struct, frozen=True, tag="restored"):
    """A stream begins behind `tokens` of its prompt whose KV was kept (0: none); it took `ms` to fetch.

    Before that it waited `waited_ms` until what others had asked for was read. `read_bytes` of what was fetched came
    from the disk; `lost`: why there is not more of it, as far as is known. `borrowed`: the
    files are another process's now.
    """

    stream: int
    tokens: int
    ms: float
    read_bytes: int = 0
    lost: Lost | None = None
    borrowed: bool = False
    waited_ms: float = 0.0


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """How much of a stream is kept: `tokens`, up to the piece named `end`, `bytes` of it new; `on_disk`: durably."""

    label: str
    tokens: int
    end: bytes
    bytes: int
    on_disk: bool


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """Pieces of KV that are on disk now, durably, the streams that are kept by that, and what went for `label`.

    `ram_bytes` and `disk_bytes` are what the two tiers take now; with `error` nothing could be written.
    """

    turn: int
    pieces: int
    bytes: int
    gone: int
    gone_bytes: int
    kept: list[Kept]
    label: str
    ram_bytes: int
    disk_bytes: int
    ms: float
    error: str | None = None


class KvMeasured(msgspec.Struct, frozen=True, tag="kv_measured"):
    """Of each list, its bytes in RAM and on disk."""

    call: int
    extents: list[tuple[int, int]]


class KvErased(msgspec.Struct, frozen=True, tag="kv_erased"):
    """So many bytes are overwritten and forgotten, or why they are not."""

    call: int
    bytes: int
    error: str | None = None


class Paged(msgspec.Struct, frozen=True, tag="paged"):
    """So many layers and bytes went out or came in, and what is in memory and out now; or why not all of them.

    `written_bytes` of them had to be written, for no file has them as they are used.
    """

    call: int
    layers: int
    bytes: int
    written_bytes: int
    ms: float
    resident_bytes: int
    layers_out: int
    error: str | None = None


class RoomSet(msgspec.Struct, frozen=True, tag="room_set"):
    """What it may take from now on: as ordered, or more where it holds more by now."""

    call: int
    bytes: int
    kept: int


class Step(msgspec.Struct, frozen=True, tag="step"):
    """What one step gave: this step's token of every stream, and the progress of prompts being read.

    Bytes: what arrays take now, and what the process takes beyond an empty one; of the last round of the loop, the peak
    and what had been foretold of it (0: nothing was). `at_ns`: when it was done, by the monotonic clock that all of a
    machine's processes share; 0: as it arrives.
    """

    tokens: list[Token]
    prefill: list[Prefill]
    active_bytes: int
    peak_bytes: int
    predicted_bytes: int = 0
    process_bytes: int = 0
    kept_bytes: int = 0
    at_ns: int = 0


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A stream that could not be inserted; nothing else is touched."""

    stream: int
    error: str


class Recovered(msgspec.Struct, frozen=True, tag="recovered"):
    """These streams were in a step that failed; they go on from their last token once they are read again."""

    streams: list[int]
    error: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """This stream fails whenever it is tried, alone as well; it is over, and nothing else is touched."""

    stream: int
    error: str


class ToolParsed(msgspec.Struct, frozen=True, tag="tool_parsed"):
    """Calls as a JSON array of {"name", "arguments"} in `calls_json`, or why the text is no call in `error`."""

    call: int
    calls_json: str | None
    error: str | None


Answer: TypeAlias = ToolParsed | KvMeasured | KvErased | Paged | RoomSet
Report: TypeAlias = (
    Hello | Loaded | LoadFailed | Restoring | Restored | Saved | Step | Refused | Recovered | Failed | Answer
)

_encoder: Final = msgspec.msgpack.Encoder()
_commands: Final[msgspec.msgpack.Decoder[Command]] = msgspec.msgpack.Decoder(Command)
_reports: Final[msgspec.msgpack.Decoder[Report]] = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    """The message as it goes over the socket, length first."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def decode_command(body: bytes) -> Command:
    """A frame's body as the daemon sent it.

    Raises:
        msgspec.DecodeError: it is no command.
    """
    return _commands.decode(body)


def decode_report(body: bytes) -> Report:
    """A frame's body as the worker sent it.

    Raises:
        msgspec.DecodeError: it is no report.
    """
    return _reports.decode(body)


def read_frame(sock: socket.socket) -> bytes | None:
    """Blocking: the next frame's body, or None when the other end has closed.

    Raises:
        ConnectionError: the line broke inside a frame, or the frame is larger than any message can be.
    """
    head = _read_exactly(sock, LENGTH.size)
    if head is None:
        return None
    (size,) = LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise ConnectionError(f"a frame of {size} bytes announces itself; the line is out of step")
    body = _read_exactly(sock, size)
    if body is None:
        raise ConnectionError("the line closed inside a frame")
    return body


def _read_exactly(sock: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        piece = sock.recv(min(size - len(parts), 1 << 20))
        if not piece:
            if parts:
                raise ConnectionError("the line closed inside a frame")
            return None
        parts += piece
    return bytes(parts)
