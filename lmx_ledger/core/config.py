"""Configuration: pydantic models over TOML, every key with a default, every mistake with file, line and fix."""

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.section import Bytes, BytesOrNone, Seconds, Section
from lmx_ledger.core.slo_section import SloSection
from lmx_ledger.core.units import parse_bytes, parse_duration

DEFAULT_PORT: Final = 3456
DEFAULT_URL: Final = f"http://127.0.0.1:{DEFAULT_PORT}"


def is_loopback(host: str) -> bool:
    """Whether an address or name can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


KEYS: Final = ("server.api_keys", "server.operator_keys")
"""What is secret: no event and no log line has more of it than how many there are."""


class ServerSection(Section):
    """Where the daemon listens and who may talk to it."""

    host: str = Field("127.0.0.1", description="Address to listen on. Beyond loopback it needs `api_keys`.")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port to listen on.")
    api_keys: list[str] = Field([], description="Keys of clients. Empty: any key, or none, is accepted.")
    operator_keys: list[str] = Field(
        [], description="Keys for `/lmx` routes. Empty: the `api_keys` open them too, where there are any."
    )
    max_body: Bytes = Field(32 * 1024**2, description="Largest request body.")
    body_timeout: Seconds = Field(30.0, description="A body that is not complete by then is refused.")
    max_messages: int = Field(4096, ge=1, description="Most messages in one request.")
    max_nesting: int = Field(64, ge=4, le=512, description="Deepest nesting of JSON in a request.")
    progress_every: Seconds = Field(1.0, description="How often a stream that has nothing to show says how far it is.")
    allowed_origins: list[str] = Field([], description="Web origins whose pages may call this server.")
    drain_timeout: Seconds = Field(30.0, description="How long a stopping daemon lets requests in flight finish.")
    send_timeout: Seconds = Field(
        30.0, description="A client that takes no byte of what waits for it in this time is cut off."
    )

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> Self:
        if not is_loopback(self.host) and not self.api_keys:
            raise ValueError(
                f"host {self.host} is reachable from other machines and no api_keys are set; "
                'set [server] api_keys, or keep host = "127.0.0.1"'
            )
        for key in (*self.api_keys, *self.operator_keys):
            if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError("a key needs at least 8 printable ASCII characters without spaces")
        return self


class StorageSection(Section):
    """Where the daemon keeps what it writes."""

    home: str = Field("~/.lmx", description="Folder of the ledger, the models and the run files (or LMX_HOME).")


class Retention(NamedTuple):
    """What stays in the ledger's database; what is older, or more, is sealed into files. None: no bound."""

    age_s: float | None
    size_bytes: int | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """An age, a size, or both with a comma between; `forever` for neither.

        Raises:
            ValueError: it is none of these.
        """
        age_s: float | None = None
        size_bytes: int | None = None
        parts = [] if text.strip() == "forever" else [part.strip() for part in text.split(",")]
        for part in parts:
            if part[-1:] in {"d", "h", "m", "s"} and age_s is None:
                age_s = parse_duration(part)
            elif part[-1:] in {"b", "B"} and size_bytes is None:
                size_bytes = parse_bytes(part)
            else:
                raise ValueError(f'{text!r} is no retention; write it like 90d, 4GB, "90d, 4GB" or forever')
        return cls(age_s, size_bytes)


def _retention(text: str) -> str:
    Retention.parse(text)
    return text


class LedgerSection(Section):
    """The event ledger."""

    synchronous: Literal["NORMAL", "FULL"] = Field(
        "NORMAL",
        description="NORMAL survives a crash of the daemon; FULL also a loss of power, at an fsync per commit.",
    )
    retention: Annotated[str, AfterValidator(_retention)] = Field(
        "90d, 4GB",
        description="What stays in the database: an age, a size, both, or `forever`. The rest is sealed into files.",
    )


class MemorySection(Section):
    """The budget that everything in memory is held against."""

    limit: Literal["auto"] | Bytes = Field("auto", description="Bytes for weights, KV and working memory, or `auto`.")
    page_at: float = Field(
        0.85, gt=0, le=1, description="Over this share of the limit, what is idle leaves memory: KV, then weights."
    )
    page_to: float = Field(0.75, gt=0, le=1, description="... until it is down to this share.")
    kv_reserve: Literal["auto"] | BytesOrNone = Field(
        "auto",
        description="Bytes that are made free for KV at once when it needs room; `auto`: a sixteenth of the limit.",
    )
    wired: bool = Field(
        False, description="macOS: have what a model was granted wired, so that it is never compressed or swapped."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.page_to > self.page_at:
            raise ValueError(f"page_to ({self.page_to}) cannot be above page_at ({self.page_at})")
        return self


class KvSection(Section):
    """KV that is kept, so that a conversation's next turn computes only what is new."""

    block_tokens: int = Field(
        256, ge=16, le=4096, description="Tokens in a piece. Another value makes what is kept useless."
    )
    ram: Literal["auto"] | BytesOrNone = Field(
        "auto",
        description="Bytes in memory, for each model; `auto`: an eighth of the memory limit; 0: nothing is kept.",
    )
    disk: BytesOrNone = Field(
        32 * 10**9,
        description="Bytes on disk (HOME/kv), for each model; 0: none. It never takes the disk's last gigabyte.",
    )


class ContextSection(Section):
    """How long a prompt may be."""

    max_tokens: int = Field(131_072, ge=16, description="Ceiling of prompt plus answer, in tokens, for every model.")
    safe_mode_tokens: int = Field(
        64_000, ge=16, description="The ceiling while heat or swapping slows the machine (safe mode)."
    )


class EngineSection(Section):
    """The worker processes."""

    blas: Literal["auto", "builtin", "openblas"] = Field(
        "auto", description="Linux: `auto` preloads OpenBLAS where it is installed; `builtin` is slow and bit-exact."
    )
    prefill_step: int = Field(2048, ge=16, le=8192, description="Most prompt tokens read at once.")
    prefill_gap: int = Field(
        7, ge=2, le=1000, description="While others decode, a piece of a prompt lasts at most so many of their steps."
    )
    load_timeout: Seconds = Field(300.0, description="A model that is not loaded by then has failed.")
    standby: bool = Field(
        True, description="Keep one worker process without a model ready (75 MB): a crash costs a second less."
    )
    hang_timeout: Seconds = Field(
        30.0, description="A worker that has work and is silent for so long is replaced; its streams go on."
    )


class QueueSection(Section):
    """How much work is taken on at once."""

    max_running: int = Field(16, ge=1, le=256, description="Streams that a model decodes at once.")
    max_waiting: int = Field(64, ge=0, description="Requests that may wait for a slot; the next one gets 429.")
    max_choices: int = Field(8, ge=1, le=128, description="Largest `n` of one request.")


class SensorsSection(Section):
    """What the machine is asked about itself."""

    every: Seconds = Field(2.0, ge=0.1, description="How often memory, swap, heat and the power mode are read.")
    script: str | None = Field(
        None, description="For rehearsals: a file of readings (JSON lines) in place of this machine's."
    )


class GuardSection(Section):
    """Trouble is met in stages: backpressure, shedding, restart; and in safe mode the context ceiling is lower."""

    enabled: bool = Field(True, description="Whether the guard acts. Without it nothing is refused or shed by it.")
    queue_wait: Seconds = Field(
        15.0, description="Backpressure: where a new session would wait longer than this for its turn."
    )
    memory_at: float = Field(
        0.95, gt=0, le=1, description="Backpressure, then shedding: this share of memory is taken and somebody waits."
    )
    gpu_at: float = Field(0.98, gt=0, le=1, description="Backpressure: the GPU is so busy, and somebody waits.")
    gpu_for: Seconds = Field(60.0, description="... for so long.")
    dwell: Seconds = Field(5.0, description="No stage is left before this, however good the readings are.")
    exit_after: Seconds = Field(10.0, description="A stage is left when its trouble has been over for so long.")
    shed_after: Seconds = Field(
        30.0, description="Backpressure that did not help for so long: models of low priority leave memory."
    )
    restart_after: Seconds = Field(
        120.0, description="Shedding that did not help for so long: workers are replaced, their sessions kept."
    )
    restart_every: Seconds = Field(600.0, description="... and not again before so long.")
    cool_after: Seconds = Field(30.0, description="Heat is over when nothing has told of it for so long.")
    safe_dwell: Seconds = Field(10.0, description="Safe mode lasts at least so long.")


class IncidentsSection(Section):
    """When an incident is over, and when it is the same one again."""

    resolve_after: Seconds = Field(60.0, description="Without a symptom for so long it is resolved.")
    reopen_within: Seconds = Field(
        600.0, description="A symptom that comes back within so long behind that reopens it; later it is another one."
    )
    close_after: Seconds = Field(86_400.0, description="Resolved for so long, it is closed by itself.")


class ReportSection(Section):
    """Postmortems, written when an incident is resolved, and digests of a week."""

    dir: str = Field(
        "", description="The folder that they go to; empty: reports/ of a checkout, without one that of the home."
    )


class DrillsSection(Section):
    """Rehearsals: readings and faults that are made up, and labelled as such in the ledger."""

    enabled: bool = Field(False, description="Whether `lmx drill` may start one. `make serve` enables them.")


class ModelSection(Section):
    """One model to serve."""

    id: str = Field(min_length=1, description="The name clients use.")
    path: str = Field(min_length=1, description="Folder with config.json, safetensors and tokenizer.json.")
    aliases: list[str] = Field([], description="Other names for it; `*` matches anything: `gpt-*`.")
    priority: int = Field(0, ge=-100, le=100, description="Where memory is short, the higher one stays.")
    pin: bool = Field(False, description="Its weights never leave memory to make room.")
    ttl: Seconds | None = Field(
        None, description="Without a request for so long it is unloaded; its next one loads it."
    )


class Config(Section):
    """Everything that can be configured."""

    server: ServerSection = ServerSection()
    storage: StorageSection = StorageSection()
    ledger: LedgerSection = LedgerSection()
    memory: MemorySection = MemorySection()
    kv: KvSection = KvSection()
    context: ContextSection = ContextSection()
    engine: EngineSection = EngineSection()
    queue: QueueSection = QueueSection()
    sensors: SensorsSection = SensorsSection()
    guard: GuardSection = GuardSection()
    slo: SloSection = SloSection()
    incidents: IncidentsSection = IncidentsSection()
    report: ReportSection = ReportSection()
    drills: DrillsSection = DrillsSection()
    models: list[ModelSection] = Field([], description="Models to serve; none: the embedded demo model.")

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        seen: set[str] = set()
        for name in (n for m in self.models for n in (m.id, *m.aliases)):
            if name in seen:
                raise ValueError(f"the model name {name!r} is given twice")
            seen.add(name)
        if self.queue.max_choices > self.queue.max_running:
            raise ValueError("[queue] max_choices cannot exceed max_running: such a request could never start")
        return self

    @property
    def home(self) -> Path:
        """The home folder, absolute."""
        return Path(self.storage.home).expanduser().absolute()

    @property
    def reports(self) -> Path:
        """The folder of reports, absolute. In a checkout (an editable install) it is the one that is kept with it."""
        if self.report.dir:
            return Path(self.report.dir).expanduser().absolute()
        checkout = Path(__file__).parents[2]
        kept = (checkout / "pyproject.toml").is_file() and (checkout / "reports").is_dir()
        return (checkout if kept else self.home) / "reports"

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults; keys appear only as their number."""
        out: dict[str, Any] = self.model_dump(exclude_defaults=True)
        for name in KEYS:
            section, key = name.split(".")
            if key in out.get(section, {}):
                out[section][key] = len(out[section][key])
        return out


def load_config(
    file: Path | None,
    overrides: dict[str, dict[str, Any]] | None = None,
    *,
    models: list[dict[str, Any]] | None = None,
) -> Config:
    """Read a TOML file (or only the defaults), then LMX_HOME, then the command line's overrides by section.

    `models`, where given, take the place of the file's.

    Raises:
        StartupError: one line per mistake, each with file, line and fix.
    """
    text = ""
    raw: dict[str, Any] = {}
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
            raw = tomllib.loads(text)
        except FileNotFoundError:
            raise StartupError(
                f"{file}: no such file; copy config.example.toml there, or start without --config"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StartupError(f"{file}: cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise StartupError(f"{file}: not valid TOML: {error}") from None
    layers: list[dict[str, dict[str, Any]]] = []
    if home := os.environ.get("LMX_HOME"):
        layers.append({"storage": {"home": home}})
    layers.append(overrides or {})
    for layer in layers:
        for section, values in layer.items():
            existing = raw.get(section)
            raw[section] = {**(existing if isinstance(existing, dict) else {}), **values}
    if models is not None:
        raw["models"] = models
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        mistakes = (_explain(item["loc"], item["type"], item["msg"]) for item in error.errors())
        where = str(file) if file else "configuration"
        lines = [
            f"{where}:{_line_of(text, item['loc'])}: {mistake}" if text else f"{where}: {mistake}"
            for item, mistake in zip(error.errors(), mistakes, strict=True)
        ]
        raise StartupError("\n".join(lines)) from None


def _explain(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(part) for part in loc) or "configuration"
    if kind == "extra_forbidden":
        known = ", ".join(_known_keys(loc[:-1]))
        return f"unknown key {name}; known here: {known}"
    return f"{name}: {message.removeprefix('Value error, ')}"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            annotation = section.model_fields[part].annotation
            inner = getattr(annotation, "__args__", (annotation,))[0]
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                section = inner
    return list(section.model_fields)


def _line_of(text: str, loc: tuple[int | str, ...]) -> int:
    """The line where a key stands. tomllib keeps no positions, so the header and the key are looked for in the text."""
    names = [part for part in loc if isinstance(part, str)]
    index = next((part for part in loc if isinstance(part, int)), 0)
    # The longest header first: of slo.ttft.target [slo.ttft] and then [slo], in which `ttft.target` or `ttft` stands.
    for depth in range(len(names), 0, -1):
        if found := _line_within(text, ".".join(names[:depth]), names[depth:], index):
            return found
    return 1


def _line_within(text: str, section: str, keys: list[str], index: int) -> int | None:
    """Where the key stands in the section's n-th table, or that begins; None where there is no such table."""
    header = re.compile(rf"^\s*\[+\s*{re.escape(section)}\s*\]+")
    wanted = [".".join(keys[:length]) for length in range(len(keys), 0, -1)]
    lines_of_keys = [re.compile(rf"^\s*\"?{re.escape(key)}\"?\s*=") for key in wanted]
    seen, inside, found = -1, False, None
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            inside = bool(header.match(line))
            seen += inside
            if inside and seen == index:
                found = number
        elif inside and seen == index and any(key.match(line) for key in lines_of_keys):
            return number
    return found
