"""What `lmx serve metrics` shows, as facts: the daemon's answers in, a reading out. It neither asks nor draws."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.events import CATALOGUE
from lmx_ledger.core.units import show_bytes, show_duration

EVENTS: Final = 8
_TOLD: Final = 5
_OF_REQUESTS: Final = frozenset({"request", "kv"})
_OTHERS: Final = sorted(
    {f"{name.partition('.')[0]}.*" for name in CATALOGUE if name.partition(".")[0] not in _OF_REQUESTS}
)
_NEWEST: Final = {"order": "desc", "limit": EVENTS, "severity": "info"}
ASKED: Final[tuple[tuple[str, Mapping[str, Any] | None], ...]] = (
    ("/lmx/status", None),
    ("/lmx/memory", None),
    ("/lmx/guard", None),
    ("/lmx/drills", None),
    ("/lmx/events", _NEWEST),
    # Bounded in time: however long the ledger is, it is asked again and again.
    ("/lmx/events", {**_NEWEST, "type": _OTHERS, "since": "10m"}),
)
"""The answers that `read` takes, in its order."""

_SHARES: Final = frozenset({"memory_full", "gpu"})
_SWITCHES: Final = frozenset({"swap", "thermal"})


class Signal(msgspec.Struct, frozen=True):
    """A figure that the guard goes by, against its threshold. None: nobody knows it just now."""

    name: str
    value: float | None
    at: float
    clears_at: float
    on: bool

    @property
    def share(self) -> float:
        """Of the way to the threshold, 1 at most."""
        return min(max((self.value or 0.0) / self.at, 0.0), 1.0) if self.at > 0 else float(self.on)

    @property
    def text(self) -> str:
        """For people: what it is, of what it may be."""
        if self.value is None:
            return "not known"
        if self.name in _SWITCHES:
            return "yes" if self.value else "no"
        if self.name in _SHARES:
            # These count while somebody waits, and are 0 otherwise, however full or busy it is.
            return f"{self.value:.0%} / {self.at:.0%}" if self.value else "nobody waits"
        if self.name == "queue_wait":
            return f"{show_duration(self.value)} / {show_duration(self.at)}" if self.value else "none"
        return f"{self.value:.3g} / {self.at:.3g}" if self.value else "none"


class Memory(msgspec.Struct, frozen=True):
    """What is reserved under the limit, for what; and what the workers really hold, which is less while they idle."""

    limit_bytes: int
    configured_bytes: int
    used_bytes: int
    held_bytes: int
    weights_bytes: int
    kv_bytes: int
    kept_bytes: int
    working_bytes: int
    others_bytes: int
    free_bytes: int
    page_at: float
    page_to: float
    waiting: str | None

    @property
    def fraction(self) -> float:
        """Of the limit, what is reserved."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 1.0


class Model(msgspec.Struct, frozen=True):
    """One that is served."""

    id: str
    state: str
    resident_bytes: int
    weights_bytes: int
    in_flight: int
    waiting: int
    priority: int
    pinned: bool
    shed: bool

    @property
    def size(self) -> str:
        """What of it is in memory."""
        resident = show_bytes(self.resident_bytes)
        return resident if self.resident_bytes == self.weights_bytes else f"{resident}/{show_bytes(self.weights_bytes)}"

    @property
    def marks(self) -> str:
        """What else is to be said of it."""
        return ", ".join(word for word, holds in (("pinned", self.pinned), ("shed", self.shed)) if holds)


class Line(msgspec.Struct, frozen=True):
    """An event as a log line. `drill`: the seq of the rehearsal that it belongs to."""

    seq: int
    time: str
    severity: str
    line: str
    drill: int | None


class Drill(msgspec.Struct, frozen=True):
    """A rehearsal. `over`: it has ended, and what it has set off goes on."""

    kind: str
    for_s: float
    arguments: dict[str, Any]
    event: int | None
    over: bool

    @property
    def text(self) -> str:
        """For people."""
        if self.over:
            return f"over, but what it has set off is not (event {self.event})"
        given = "".join(f", {key} {value}" for key, value in self.arguments.items() if value is not None)
        return f"{self.kind} for {show_duration(self.for_s)}{given}, a rehearsal (event {self.event})"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment; `--json` prints it as it is."""

    time: str
    url: str
    version: str
    state: str
    uptime_s: float
    stage: str
    stage_for_s: float
    reasons: list[str]
    safe_mode: bool
    max_context_tokens: int
    refused: int
    guarded: bool
    drill: Drill | None
    signals: list[Signal]
    memory: Memory
    ttft_p95_ms: float | None
    itl_p95_ms: float | None
    decode_tps: float
    prefill_tps: float | None
    in_flight: int
    queued: int
    wait_s: float
    models: list[Model]
    ledger_error: str | None
    events: list[Line]


def read(url: str, now_us: int, answers: Sequence[Any], lines: Sequence[Line]) -> Reading:
    """The reading that the answers to `ASKED` and the log lines make.

    Raises:
        KeyError, TypeError, ValueError: they are not those of a daemon of this version.
    """
    status, memory, guard, drills = answers[:4]
    shed = set(guard["shed"])
    return Reading(
        time=rfc3339(now_us),
        url=url,
        version=status["version"],
        state=status["state"],
        uptime_s=status["uptime_s"],
        stage=guard["stage"],
        stage_for_s=max((now_us - parse_rfc3339(guard["since"])) / 1e6, 0.0),
        reasons=guard["reasons"],
        safe_mode=guard["safe_mode"],
        max_context_tokens=guard["max_context_tokens"],
        refused=guard["refused"],
        guarded=guard["enabled"],
        drill=_drill(drills),
        signals=[
            Signal(one["name"], one["value"], one["at"], one["clears_at"], one["on"]) for one in guard["thresholds"]
        ],
        memory=_memory(memory),
        ttft_p95_ms=status["ttft_p95_ms"],
        itl_p95_ms=status["itl_p95_ms"],
        decode_tps=status["decode_tps"],
        prefill_tps=status["prefill_tps"],
        in_flight=status["in_flight"],
        queued=status["queued"],
        wait_s=status["wait_s"],
        models=[
            Model(
                **{name: one[name] for name in Model.__struct_fields__ if name != "shed"},
                shed=one["id"] in shed,
            )
            for one in status["models"]
        ],
        ledger_error=status["ledger"]["error"],
        events=list(lines),
    )


def pick(answers: Sequence[Any]) -> list[dict[str, Any]]:
    """The events of the answers to `ASKED` that are shown, oldest first.

    The newest ones; but under load requests write hundreds a second, and what the daemon has decided must be seen: of
    that the last few stay.
    """
    newest, others = (answer["events"] for answer in answers[4:6])
    kept = {one["seq"]: one for one in others[:_TOLD]}
    for one in newest:
        if len(kept) < EVENTS:
            kept.setdefault(one["seq"], one)
    return [kept[seq] for seq in sorted(kept)]


def _drill(drills: Mapping[str, Any]) -> Drill | None:
    running = drills["running"]
    if running is not None:
        return Drill(running["kind"], running["for_s"], running["arguments"], running["event"], over=False)
    return Drill("", 0.0, {}, drills["label"], over=True) if drills["label"] is not None else None


def _memory(found: Mapping[str, Any]) -> Memory:
    waiting = found["waiting"]
    named = {name: found[name] for name in Memory.__struct_fields__ if name in found and name != "waiting"}
    return Memory(
        **named,
        held_bytes=found["measured_bytes"],
        free_bytes=max(found["limit_bytes"] - found["used_bytes"], 0),
        waiting=None if waiting is None else f"{waiting['model']}, for room for {waiting['for']}",
    )
