"""The typed registry of events: one struct per type, from which the ledger, the docs and the filters come.

An event is what somebody decided or saw. The room that emits it fills an `Event`; the ledger stamps it with
sequence number, id, time and boot and stores it as a `Recorded`.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from lmx_ledger.core.clock import parse_rfc3339, rfc3339


class Severity(enum.IntEnum):
    """How loud an event is; ordered, so that a filter can say "at least"."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50

    @property
    def label(self) -> str:
        """`debug`, `info`, `warning`, `error` or `critical`."""
        return self.name.lower()

    @classmethod
    def parse(cls, label: str) -> "Severity":
        """The severity of that label.

        Raises:
            ValueError: there is no such label.
        """
        try:
            return cls[label.upper()]
        except KeyError:
            known = ", ".join(s.label for s in cls)
            raise ValueError(f"{label!r} is no severity; there are {known}") from None


# Without gc: what is emitted is plain data in no circle, and so many that to walk them cost a third of an append.
class EventData(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one type of event carries. Fields are only ever added; a change of meaning is a new `v`."""


class EventType(NamedTuple):
    """One row of the catalogue.

    `durable`: whoever emits it waits for the commit before acting.
    """

    name: str
    data: type[EventData]
    v: int
    severity: Severity
    durable: bool
    doc: str


class Ticket(Protocol):
    """The place of an emitted event in the ledger: its seq is known once the writer has reached it."""

    @property
    def seq(self) -> int | None:
        """The sequence number; None until it is written (or for good, if it was lost)."""


Cause: TypeAlias = int | Ticket | None


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event before the ledger has it. `stream` names the thing whose history it belongs to.

    `cause` is the seq of the event that made this one happen, or the ticket of one emitted earlier.
    """

    data: EventData
    stream: str
    request: str | None = None
    session: str | None = None
    model: str | None = None
    incident: str | None = None
    cause: Cause = None
    severity: Severity | None = None

    @property
    def kind(self) -> EventType:
        """Its row of the catalogue."""
        return _BY_CLASS[type(self.data)]


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the ledger has it. `data` is what the struct of its type held, as plain JSON values."""

    seq: int
    id: str
    time_us: int
    boot: str
    type: str
    v: int
    severity: Severity
    stream: str
    request: str | None
    session: str | None
    model: str | None
    incident: str | None
    cause: int | None
    data: dict[str, Any]

    def public(self) -> dict[str, Any]:
        """The form of the contract: RFC 3339 time, severity as its label."""
        return {
            "seq": self.seq,
            "id": self.id,
            "time": rfc3339(self.time_us),
            "boot": self.boot,
            "type": self.type,
            "v": self.v,
            "severity": self.severity.label,
            "stream": self.stream,
            "request": self.request,
            "session": self.session,
            "model": self.model,
            "incident": self.incident,
            "cause": self.cause,
            "data": self.data,
        }

    @classmethod
    def of_public(cls, event: dict[str, Any]) -> "Recorded":
        """The event whose `public()` that is.

        Raises:
            KeyError, ValueError: it is none's.
        """
        fields = {name: event[name] for name in cls.__struct_fields__ if name not in {"time_us", "severity"}}
        return cls(**fields, time_us=parse_rfc3339(event["time"]), severity=Severity.parse(event["severity"]))


CATALOGUE: Final[dict[str, EventType]] = {}
_BY_CLASS: Final[dict[type[EventData], EventType]] = {}
_D = TypeVar("_D", bound=type[EventData])


def _event(name: str, severity: Severity = Severity.INFO, *, v: int = 1, durable: bool = False) -> Callable[[_D], _D]:
    def register(data: _D) -> _D:
        kind = EventType(name, data, v, severity, durable, (data.__doc__ or "").strip())
        CATALOGUE[name] = kind
        _BY_CLASS[data] = kind
        return data

    return register


# --- daemon ---------------------------------------------------------------------------------------------------------


@_event("daemon.started", durable=True)
class DaemonStarted(EventData, frozen=True, kw_only=True):
    """A daemon began to run."""

    version: str
    pid: int
    host: str
    port: int
    platform: str
    python: str


@_event("daemon.crash_detected", Severity.ERROR, durable=True)
class DaemonCrashDetected(EventData, frozen=True, kw_only=True):
    """The run before this one ended without a word; `last_acts` are its last events, oldest first."""

    boot: str
    pid: int
    last_seq: int
    last_time: str
    last_acts: list[str]


@_event("daemon.ready", durable=True)
class DaemonReady(EventData, frozen=True, kw_only=True):
    """Every model has been tried and at least one answers; from now on `/readyz` says so."""

    url: str
    models: list[str]
    startup_ms: float


@_event("daemon.draining", durable=True)
class DaemonDraining(EventData, frozen=True, kw_only=True):
    """No new work is admitted; what is in flight has `timeout_s` to finish."""

    reason: str
    in_flight: int
    timeout_s: float


@_event("daemon.drained", durable=True)
class DaemonDrained(EventData, frozen=True, kw_only=True):
    """Nothing is in flight any more; `cancelled` did not finish in time."""

    cancelled: int
    ms: float


@_event("daemon.stopped", durable=True)
class DaemonStopped(EventData, frozen=True, kw_only=True):
    """The last event of a run that ended as it should."""

    reason: str
    uptime_s: float


@_event("config.loaded", durable=True)
class ConfigLoaded(EventData, frozen=True, kw_only=True):
    """The rules of this run: where they were read, what differs from the defaults (keys are never written)."""

    source: str | None
    changed: dict[str, Any]


@_event("config.changed", durable=True)
class ConfigChanged(EventData, frozen=True, kw_only=True):
    """The configuration was read again (SIGHUP): new values in force (of keys only their number), and what will
    differ after a restart only. With `error` the file was wrong, and everything is as it was.
    """

    source: str | None
    changed: dict[str, Any]
    needs_restart: list[str]
    error: str | None = None


# --- engine ---------------------------------------------------------------------------------------------------------


@_event("engine.started")
class EngineStarted(EventData, frozen=True, kw_only=True):
    """A worker process runs and has said hello."""

    pid: int
    mlx: str
    mlx_lm: str
    device: str
    blas: str
    ms: float


@_event("engine.exited", Severity.ERROR)
class EngineExited(EventData, frozen=True, kw_only=True):
    """A worker process ended: how, its last words, and what it was about to do (its flight recorder, oldest first).

    `expected`: the daemon had asked it to; `hung`: it was busy and gave no sign of life, and was killed for that.
    `in_flight` are the requests that it had.
    """

    pid: int
    code: int | None
    signal: str | None
    stderr_tail: str
    last_acts: list[str]
    expected: bool
    in_flight: list[str]
    hung: bool = False


@_event("engine.restarted")
class EngineRestarted(EventData, frozen=True, kw_only=True):
    """A fresh worker serves the model again. Where the last one may have lacked memory, `working_scale` times what is
    foretold of a pass is reserved for it from now on.
    """

    pid: int
    attempt: int
    ms: float
    working_scale: float = 1.0


# --- models ---------------------------------------------------------------------------------------------------------


@_event("engine.standby_ready")
class EngineStandbyReady(EventData, frozen=True, kw_only=True):
    """A worker process without a model waits to take the place of one that dies."""

    pid: int
    ms: float


@_event("model.load_started", durable=True)
class ModelLoadStarted(EventData, frozen=True, kw_only=True):
    """A worker is about to read a model's weights."""

    path: str
    weights_bytes: int
    reason: str


@_event("model.loaded", durable=True)
class ModelLoaded(EventData, frozen=True, kw_only=True):
    """A model is resident and can answer. `wired_bytes`: what Metal was told to wire for it."""

    weights_bytes: int
    context: int
    vocab: int
    architecture: str
    ms: float
    wired_bytes: int = 0


@_event("model.load_failed", Severity.ERROR, durable=True)
class ModelLoadFailed(EventData, frozen=True, kw_only=True):
    """A model could not be loaded; everything else is as it was."""

    path: str
    error: str


@_event("model.pinned", durable=True)
class ModelPinned(EventData, frozen=True, kw_only=True):
    """Its weights stay in memory until it is unpinned, across restarts."""


@_event("model.unpinned", durable=True)
class ModelUnpinned(EventData, frozen=True, kw_only=True):
    """Its weights may leave memory again."""


@_event("model.unloaded", durable=True)
class ModelUnloaded(EventData, frozen=True, kw_only=True):
    """A model's worker and weights are gone."""

    reason: str


# --- paging ---------------------------------------------------------------------------------------------------------


@_event("paging.planned", durable=True)
class PagingPlanned(EventData, frozen=True, kw_only=True):
    """Weights of `victims` (models) are to go until `need_bytes` are free (0: all of them). `asked`: by an operator.

    Otherwise for the event's model: to `load` it, to bring its weights back (`page_in`), or for `kv`. `steps` are all
    acts in their order, `[act, model, bytes, layers]`, and `account` is all that the planner was given (the need, the
    thresholds and the moment with it: asked again it says the same); what is `short_by_bytes` behind the steps is
    waited for. `wanted_by`: the event of who wants it, which is not its cause where that breaches a threshold.
    """

    need_bytes: int
    victims: list[str]
    reason: str
    steps: list[list[Any]] = []
    short_by_bytes: int = 0
    account: dict[str, Any] = {}
    wanted_by: int | None = None


@_event("paging.out_started", durable=True)
class PagingOutStarted(EventData, frozen=True, kw_only=True):
    """The worker is told to let go; `resident_bytes` are in memory."""

    resident_bytes: int


@_event("paging.out_finished")
class PagingOutFinished(EventData, frozen=True, kw_only=True):
    """So many layers and bytes of weights are on disk only, `written_bytes` of them because no file had them.

    `resident_bytes` are in memory still; `bytes_per_s` is how fast they went. With `error` nothing, or not all of it,
    has gone.
    """

    bytes: int
    ms: float
    layers: int
    written_bytes: int = 0
    bytes_per_s: int | None = None
    resident_bytes: int | None = None
    error: str | None = None


@_event("paging.in_started", durable=True)
class PagingInStarted(EventData, frozen=True, kw_only=True):
    """A request wants a model of which so many bytes are out."""

    bytes: int


@_event("paging.in_finished")
class PagingInFinished(EventData, frozen=True, kw_only=True):
    """All weights are in memory; with `error` they could not be read, and the worker is replaced."""

    bytes: int
    ms: float
    layers: int
    error: str | None = None


# --- requests -------------------------------------------------------------------------------------------------------


@_event("request.received")
class RequestReceived(EventData, frozen=True, kw_only=True):
    """A request came in and could be read. Text is not stored: its SHA-256 and its length in characters are.

    `sampling` is what the client set; null is what it left to the model's defaults.
    """

    route: str
    stream: bool
    messages: int
    tools: int
    chars: int
    prompt_sha256: str
    client: str | None
    client_request_id: str | None
    sampling: dict[str, Any]
    priority: int = 0


@_event("request.queued")
class RequestQueued(EventData, frozen=True, kw_only=True):
    """Every slot was busy; the request waits at `position` (1 is next)."""

    position: int
    running: int


@_event("request.admitted")
class RequestAdmitted(EventData, frozen=True, kw_only=True):
    """The worker has it. `sampling` is what is in force: what the client set, and the model's defaults for the rest."""

    prompt_tokens: int
    max_tokens: int
    choices: int
    queue_ms: float
    sampling: dict[str, float]


@_event("request.rejected", Severity.WARNING)
class RequestRejected(EventData, frozen=True, kw_only=True):
    """A request was refused before any work was spent on it."""

    status: int
    code: str
    message: str
    route: str
    param: str | None = None
    retry_after_s: int | None = None


@_event("request.degraded", Severity.WARNING)
class RequestDegraded(EventData, frozen=True, kw_only=True):
    """The request was served, in part otherwise than asked."""

    reason: str
    asked: int | None = None
    given: int | None = None
    detail: str | None = None


@_event("request.resumed", Severity.WARNING)
class RequestResumed(EventData, frozen=True, kw_only=True):
    """A stream goes on behind its last token: its worker died (`worker_died`), a step failed (`step_failed`), or there
    was no `memory` for more of it.

    `tokens` it had given; `reread_tokens` (prompt and answer) were put through again; for `gap_ms` nothing came.
    """

    reason: str
    error: str
    choice: int
    tokens: int
    reread_tokens: int
    gap_ms: float


@_event("request.first_token", Severity.DEBUG)
class RequestFirstToken(EventData, frozen=True, kw_only=True):
    """The first token left the worker."""

    ttft_ms: float
    prefill_ms: float


@_event("request.finished")
class RequestFinished(EventData, frozen=True, kw_only=True):
    """A request was answered in full. `parts_ms` add up to `wall_ms`: where its time went (`serving/parts.py`)."""

    status: int
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue_ms: float
    ttft_ms: float | None
    itl_p95_ms: float | None
    wall_ms: float
    parts_ms: dict[str, float] = {}


@_event("request.cancelled")
class RequestCancelled(EventData, frozen=True, kw_only=True):
    """The client went away or did not read, or the daemon stopped.

    `phase` is where the request was: queue, prefill, decode, or send (the engine was done, the client had not read it).
    `parts_ms`: as of `request.finished`.
    """

    phase: str
    reason: str
    prompt_tokens: int
    completion_tokens: int
    wall_ms: float
    parts_ms: dict[str, float] = {}


@_event("request.failed", Severity.ERROR)
class RequestFailed(EventData, frozen=True, kw_only=True):
    """A request that had been admitted could not be answered. `parts_ms`: as of `request.finished`."""

    status: int
    code: str
    message: str
    prompt_tokens: int
    completion_tokens: int
    wall_ms: float
    parts_ms: dict[str, float] = {}


# --- KV that is kept ------------------------------------------------------------------------------------------------


@_event("kv.reserved")
class KvReserved(EventData, frozen=True, kw_only=True):
    """So many bytes are a model's for the KV of what it is asked; `used_bytes` of `limit_bytes` are taken then.

    It is debug where there was room anyway.
    """

    bytes: int
    used_bytes: int
    limit_bytes: int


@_event("kv.hit")
class KvHit(EventData, frozen=True, kw_only=True):
    """All but the last block of the prompt, or of what was known of its conversation, need not be computed.

    `read_bytes` of it came from the disk; it took `ms` to put it together.
    """

    reused_tokens: int
    computed_tokens: int
    read_bytes: int
    ms: float


@_event("kv.missed")
class KvMissed(EventData, frozen=True, kw_only=True):
    """`recomputed_tokens` of the prompt are computed, for this `reason`; `reused_tokens` need not be.

    `lost_tokens` of them had been computed before, which costs `cost_ms` (estimated from recent prefills; null before
    the first). `diverged_at` is the token where the prompt left what was known, `message_index` (from 0) and `role`
    are the message's in which that is (`tools`: before the messages), and `breaker` is what changed there.
    """

    reason: str
    reused_tokens: int
    recomputed_tokens: int
    lost_tokens: int
    diverged_at: int | None
    message_index: int | None
    role: str | None
    breaker: str | None
    cost_ms: float | None


@_event("kv.restored", Severity.DEBUG)
class KvRestored(EventData, frozen=True, kw_only=True):
    """KV came back from the disk: a stream begins behind `tokens` of its prompt.

    It took `ms`, behind `waited_ms` in which others' KV was read.
    """

    tokens: int
    read_bytes: int
    ms: float
    waited_ms: float = 0.0


@_event("kv.saved", Severity.DEBUG)
class KvSaved(EventData, frozen=True, kw_only=True):
    """So many tokens of a conversation are kept, `bytes` of that new; `on_disk`: a crash does not change that.

    `end` names the last piece, `prompt_end` the last whole piece of the prompt (its first `prompt` tokens), `form` how
    it is cut, `fingerprint` and `template` the model's weights and chat
    template (as hashes), `names` what its next turn is recognised by.
    """

    tokens: int
    bytes: int
    on_disk: bool
    ms: float
    end: str
    prompt: int
    prompt_end: str
    form: str
    fingerprint: str
    template: str
    names: list[str]


@_event("kv.evicted")
class KvEvicted(EventData, frozen=True, kw_only=True):
    """Pieces of KV went: for lack of `room`, because they are of another `form`, because an operator had them `erased`.

    `unwritable`: nothing went, but what was to be written is in memory only, because of `error`.
    """

    pieces: int
    bytes: int
    reason: str
    error: str | None = None


@_event("kv.corrupt", Severity.WARNING)
class KvCorrupt(EventData, frozen=True, kw_only=True):
    """Bytes on disk are not what was written, or files not this model's; they are not used."""

    bytes: int
    files: list[str]
    reason: str


# --- the guard, and what it sees ------------------------------------------------------------------------------------


@_event("guard.threshold_breached", Severity.WARNING, durable=True)
class GuardThresholdBreached(EventData, frozen=True, kw_only=True):
    """`memory`: what is used has reached `page_at` of the limit in force. `memory_limit`: that limit was lowered.

    `fraction` is used of the limit. `reason`: `used`, or why the limit is lowered (`other_programs`, `cgroup`, `swap`,
    `pressure`); a lowering says `from_bytes`, `to_bytes`, and the `readings` that it was taken from.

    Of the guard's signals (`queue_wait`, `memory_full`, `swap`, `thermal`, `gpu`, `burn`): `value` has
    reached `threshold`, and is below it again at `clears_at`; `at_us` is the guard's clock.

    `asked` is all that the guard of memory was given: asked again it says the same.
    """

    name: str
    reason: str
    used_bytes: int | None = None
    limit_bytes: int | None = None
    fraction: float | None = None
    page_at: float | None = None
    from_bytes: int | None = None
    to_bytes: int | None = None
    readings: dict[str, Any] | None = None
    value: float | None = None
    threshold: float | None = None
    clears_at: float | None = None
    at_us: int | None = None
    asked: list[Any] | None = None


@_event("guard.threshold_cleared", durable=True)
class GuardThresholdCleared(EventData, frozen=True, kw_only=True):
    """`memory`: what is used is down to `page_to` of the limit in force, so that `page_at` is no longer reached.

    `memory_limit`: the limit in force went up again, because readings allowed it for a while. A signal of the guard:
    its `value` is down to `clears_at`.
    """

    name: str
    reason: str
    used_bytes: int | None = None
    limit_bytes: int | None = None
    fraction: float | None = None
    page_at: float | None = None
    page_to: float | None = None
    from_bytes: int | None = None
    to_bytes: int | None = None
    readings: dict[str, Any] | None = None
    value: float | None = None
    threshold: float | None = None
    clears_at: float | None = None
    at_us: int | None = None
    asked: list[Any] | None = None


@_event("guard.stage_changed", Severity.WARNING, durable=True)
class GuardStageChanged(EventData, frozen=True, kw_only=True):
    """The guard is in another stage: `normal`, `backpressure`, `shedding` or `restart`, for these `reasons` (signals).

    `readings` are the values of the signals that are over their thresholds; `at_us` is the guard's clock, at the moment
    from which on it is so.
    """

    from_: str = msgspec.field(name="from")
    to: str
    reasons: list[str]
    readings: dict[str, Any]
    at_us: int


@_event("guard.backpressure_on", Severity.WARNING, durable=True)
class GuardBackpressureOn(EventData, frozen=True, kw_only=True):
    """Requests of new sessions are refused with 429 from now on; what is in flight and known goes on."""

    reasons: list[str]


@_event("guard.backpressure_off", durable=True)
class GuardBackpressureOff(EventData, frozen=True, kw_only=True):
    """New sessions are admitted again; so many requests were `refused` meanwhile."""

    refused: int


@_event("guard.model_shed", Severity.WARNING, durable=True)
class GuardModelShed(EventData, frozen=True, kw_only=True):
    """The event's model is put out of memory, so that the `primary` one keeps its own; it is idle."""

    priority: int
    bytes: int
    primary: str


@_event("guard.context_ceiling_changed", Severity.WARNING, durable=True)
class GuardContextCeilingChanged(EventData, frozen=True, kw_only=True):
    """Prompts and answers may have so many tokens from now on; `reason`: `safe_mode_thermal`, `safe_mode_swap`, or
    `recovered`.
    """

    from_: int = msgspec.field(name="from")
    to: int
    reason: str
    at_us: int


@_event("guard.restart_requested", Severity.ERROR, durable=True)
class GuardRestartRequested(EventData, frozen=True, kw_only=True):
    """The worker of the event's model is to be replaced, its sessions and streams kept.

    `reason`: `stage` (shedding was not enough), or `no_progress` (it is busy and has given nothing for `silent_s`).
    """

    reason: str
    silent_s: float | None = None


@_event("sensor.sampled", Severity.DEBUG)
class SensorSampled(EventData, frozen=True, kw_only=True):
    """A reading of the machine, once a minute and when a sensor is back; null is what it does not say.

    Of memory, or (`heat`) of heat, the GPU and the power mode, or (`guard`) of the figures that the guard goes by,
    every ten seconds while there is anything to see (`at_us` is the guard's clock). `swap_in_bytes` and
    `swap_out_bytes` count from the machine's start. `used_bytes` is what the workers use. `stalled_*`: shares of the
    last ten seconds in which a process, or every one, waited for memory.
    """

    sensor: str
    used_bytes: int | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    cgroup_limit_bytes: int | None = None
    cgroup_used_bytes: int | None = None
    swap_used_bytes: int | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    pressure: str | None = None
    stalled_some: float | None = None
    stalled_full: float | None = None
    level: str | None = None
    celsius: float | None = None
    gpu_busy: float | None = None
    gpu_mhz: float | None = None
    low_power: bool | None = None
    slowed: bool | None = None
    figures: dict[str, float] | None = None
    at_us: int | None = None


@_event("sensor.unavailable", Severity.WARNING)
class SensorUnavailable(EventData, frozen=True, kw_only=True):
    """A sensor cannot be read; it is tried again, and what hangs on it stays as it is until then."""

    sensor: str
    error: str


@_event("sensor.swap_thrash", Severity.WARNING)
class SensorSwapThrash(EventData, frozen=True, kw_only=True):
    """The machine has written so many bytes per second to swap, in both halves of `window_s`."""

    bytes_per_s: int
    window_s: float
    asked: list[Any] | None = None


@_event("sensor.swap_recovered")
class SensorSwapRecovered(EventData, frozen=True, kw_only=True):
    """It writes next to nothing to swap any more, over `window_s`."""

    bytes_per_s: int
    window_s: float
    asked: list[Any] | None = None


@_event("sensor.thermal_throttled", Severity.WARNING, durable=True)
class SensorThermalThrottled(EventData, frozen=True, kw_only=True):
    """Heat slows the machine. `gpu_clock`: the GPU's clock is by `gpu_drop` (a share) below `baseline_mhz`, which
    it has at the same load when it is cool. `level`: the system says so. `driver`: the GPU's driver does. None is what
    this machine does not say.
    """

    reason: str
    gpu_drop: float | None
    gpu_mhz: float | None
    baseline_mhz: float | None
    gpu_busy: float | None
    level: str | None


@_event("sensor.thermal_recovered")
class SensorThermalRecovered(EventData, frozen=True, kw_only=True):
    """Nothing has slowed it for `cool_s`."""

    cool_s: float
    gpu_mhz: float | None
    level: str | None


@_event("sensor.slept")
class SensorSlept(EventData, frozen=True, kw_only=True):
    """The machine slept from about `from_time` on, as was found when it woke."""

    from_time: str


@_event("sensor.woke")
class SensorWoke(EventData, frozen=True, kw_only=True):
    """It slept for so long: that time is nobody's fault, and burns no budget."""

    slept_s: float


@_event("sensor.power_mode_changed")
class SensorPowerModeChanged(EventData, frozen=True, kw_only=True):
    """Low Power Mode is on, or off: lower clocks are then no throttling."""

    low_power: bool


# --- objectives -----------------------------------------------------------------------------------------------------


@_event("slo.evaluated", Severity.DEBUG)
class SloEvaluated(EventData, frozen=True, kw_only=True):
    """An objective, once an hour and with each change of its alerts: of `total` in the period so many were `good`.

    `shed` were refused on purpose and are in neither. `burn` is by window: 1 uses up the budget in just the period.
    """

    objective: str
    good: int
    total: int
    shed: int
    budget_remaining: float | None
    burn: dict[str, float | None]


@_event("slo.burn_alerted", Severity.WARNING, durable=True)
class SloBurnAlerted(EventData, frozen=True, kw_only=True):
    """The budget burns at more than `factor`, over the `long` window and the `short` one; `severity` page or ticket."""

    objective: str
    severity: str
    long: str
    short: str
    factor: float
    long_burn: float
    short_burn: float
    budget_remaining: float | None
    exhausts_in_s: float | None


@_event("slo.burn_cleared", durable=True)
class SloBurnCleared(EventData, frozen=True, kw_only=True):
    """It does not any more; the alert lasted for so long."""

    objective: str
    severity: str
    long: str
    short: str
    factor: float
    lasted_s: float


@_event("slo.budget_exhausted", Severity.ERROR, durable=True)
class SloBudgetExhausted(EventData, frozen=True, kw_only=True):
    """Nothing is left of the period's budget: more than the objective allows was not good."""

    objective: str
    target: float
    good: int
    total: int


# --- drills ---------------------------------------------------------------------------------------------------------


@_event("drill.started", Severity.WARNING, durable=True)
class DrillStarted(EventData, frozen=True, kw_only=True):
    """A rehearsal begins: what follows is not real. Until it has finished every event has its seq, as `drill`."""

    kind: str
    for_s: float
    arguments: dict[str, Any]


@_event("drill.finished", durable=True)
class DrillFinished(EventData, frozen=True, kw_only=True):
    """It is over, for this `reason`: `time`, `operator`, `daemon_stopped` or `failed`."""

    kind: str
    reason: str
    ms: float
    outcome: dict[str, Any] = {}


# --- incidents ------------------------------------------------------------------------------------------------------


@_event("incident.opened", Severity.WARNING, durable=True)
class IncidentOpened(EventData, frozen=True, kw_only=True):
    """Something is wrong: `events` are the symptoms' seqs, `symptom` the first one's kind. It began at `started_at`.

    `how` says how that was found: `event` (what the symptom itself tells), or a series that changed then. `severity` is
    the incident's: warning, error or critical. `rehearsal` is the seq of the drill that made it; null: it is real.
    """

    title: str
    severity: str
    models: list[str]
    symptom: str
    events: list[int]
    started_at: str
    how: str = "event"
    rehearsal: int | None = None


@_event("incident.merged", durable=True)
class IncidentMerged(EventData, frozen=True, kw_only=True):
    """One more symptom of the same fault; or the incident `merged` was of the same fault, and is part of this one now.

    Title, severity and models are those from now on.
    """

    symptom: str | None
    events: list[int]
    merged: str | None
    title: str
    severity: str
    models: list[str]


@_event("incident.acknowledged", durable=True)
class IncidentAcknowledged(EventData, frozen=True, kw_only=True):
    """Somebody has seen it and looks after it."""

    via: str


@_event("incident.mitigated", durable=True)
class IncidentMitigated(EventData, frozen=True, kw_only=True):
    """None of its symptoms is there any more, since `at`."""

    at: str


@_event("incident.resolved", durable=True)
class IncidentResolved(EventData, frozen=True, kw_only=True):
    """For `quiet_s` none came back."""

    quiet_s: float


@_event("incident.reopened", Severity.WARNING, durable=True)
class IncidentReopened(EventData, frozen=True, kw_only=True):
    """A symptom came back (`events`), or another one that belongs to it appeared."""

    symptom: str
    events: list[int]
    title: str
    severity: str
    models: list[str]


@_event("incident.closed", durable=True)
class IncidentClosed(EventData, frozen=True, kw_only=True):
    """Nothing more is done about it: an `operator` said so, or it was resolved a day ago (`age`)."""

    reason: str


@_event("incident.report_written", durable=True)
class IncidentReportWritten(EventData, frozen=True, kw_only=True):
    """Its postmortem lies in `folder`, as `files`. It was written of the ledger up to `head_seq`, and took `ms`."""

    folder: str
    files: list[str]
    head_seq: int
    ms: float


# --- breakers -------------------------------------------------------------------------------------------------------


@_event("breaker.opened", Severity.ERROR, durable=True)
class BreakerOpened(EventData, frozen=True, kw_only=True):
    """After `failures` in a row it (`engine`: a model's worker) is not tried for `for_s`; who asks is told so."""

    name: str
    failures: int
    for_s: float
    reason: str


@_event("breaker.half_opened")
class BreakerHalfOpened(EventData, frozen=True, kw_only=True):
    """It is tried once more: a success closes the breaker, a failure opens it for longer."""

    name: str


@_event("breaker.closed")
class BreakerClosed(EventData, frozen=True, kw_only=True):
    """The try was a success."""

    name: str


# --- operators and the ledger itself --------------------------------------------------------------------------------


@_event("operator.commanded", durable=True)
class OperatorCommanded(EventData, frozen=True, kw_only=True):
    """A person or a script gave an order; what was done because of it has this event as its cause."""

    command: str
    arguments: dict[str, Any]
    via: str


@_event("ledger.dropped", Severity.ERROR)
class LedgerDropped(EventData, frozen=True, kw_only=True):
    """Events that came late to the ledger (`late`) or did not reach it at all (`lost`), and why."""

    late: int
    lost: int
    reason: str


@_event("ledger.sealed")
class LedgerSealed(EventData, frozen=True, kw_only=True):
    """Events `first_seq` to `last_seq` are in a file of their own now, and no longer in the database."""

    first_seq: int
    last_seq: int
    file: str
    bytes: int
    sha256: str


@_event("ledger.archived")
class LedgerArchived(EventData, frozen=True, kw_only=True):
    """Sealing is over: so many new segments, their events and bytes; `reason` is `retention` or `operator`."""

    segments: int
    events: int
    bytes: int
    last_seq: int
    reason: str


@_event("ledger.verified")
class LedgerVerified(EventData, frozen=True, kw_only=True):
    """The whole ledger was held against itself; `ok` is false where it is not as written from `bad_seq` on."""

    ok: bool
    events: int
    sealed: int
    head_seq: int
    head_hash: str
    signed_seq: int
    bad_seq: int | None
    reason: str | None
    took_ms: float
