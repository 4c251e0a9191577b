"""Symptoms: which events say that something is wrong, and which ones that it is over; pure."""

from collections.abc import Mapping
from typing import Final

import msgspec

from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.guard.stages import Stage

STAGE: Final = "stage"
CEILING: Final = "ceiling"
ALERT: Final = "alert"
WORKER: Final = "worker"
BREAKER: Final = "breaker"
LOAD: Final = "load"
SWAP: Final = "swap"
HEAT: Final = "heat"
CRASH: Final = "crash"
LOST: Final = "lost"
ALTERED: Final = "altered"
KV: Final = "kv"

EFFECTS: Final = frozenset({STAGE, CEILING, ALERT})
"""What others notice of a fault, wherever it is: they say that something is wrong, and not with what."""
_OF_RUN: Final = frozenset({STAGE, CEILING, WORKER, BREAKER, SWAP, HEAT, LOAD})
"""Gone with the run that told of them: the next one looks for itself."""

BEGINS: Final = (
    "slo.burn_alerted",
    "engine.exited",
    "breaker.opened",
    "guard.stage_changed",
    "guard.context_ceiling_changed",
    "sensor.swap_thrash",
    "sensor.thermal_throttled",
    "daemon.crash_detected",
    "model.load_failed",
    "ledger.dropped",
    "ledger.verified",
    "kv.corrupt",
)
ENDS: Final = (
    "slo.burn_cleared",
    "engine.restarted",
    "breaker.closed",
    "sensor.swap_recovered",
    "sensor.thermal_recovered",
    "daemon.ready",
    "daemon.stopped",
    "model.loaded",
    "model.unloaded",
)
CHAIN: Final = ("guard.threshold_breached", "guard.restart_requested")
"""What stands between symptoms in the chain of causes."""

_LONGEST: Final = 120


class Symptom(msgspec.Struct, frozen=True):
    """Something that is wrong. `key` tells it from others that may be at the same time; `sign` knows it again later.

    `at_us` and `ended_us` (None: it lasts) are by the fold's own clock, `time_us` and `over_us` are the ledger's.
    `root` is the first event of its chain of causes, `drill` the rehearsal that made it. Where `incident` is "", nobody
    has decided yet which one it belongs to.
    """

    key: str
    sign: str
    kind: str
    seq: int
    time_us: int
    at_us: int
    severity: Severity
    title: str
    boot: str
    root: int
    model: str | None = None
    drill: int | None = None
    ended_us: int | None = None
    over_us: int | None = None
    incident: str = ""

    @property
    def is_effect(self) -> bool:
        """See `EFFECTS`."""
        return self.kind in EFFECTS


def begun(event: Recorded, at_us: int, root: int) -> Symptom | None:
    """The symptom that the event is, if it is one."""
    told = _told(event)
    if told is None:
        return None
    kind, key, sign, severity, title = told
    # Bytes that are not used and events that are lost are told of once, when it is over.
    at_once = kind in {LOST, KV}
    drill = event.data.get("drill")
    return Symptom(
        key=key,
        sign=sign,
        kind=kind,
        seq=event.seq,
        time_us=event.time_us,
        at_us=at_us,
        severity=severity,
        title=title if len(title) <= _LONGEST else title[: _LONGEST - 3] + "...",
        boot=event.boot,
        root=root,
        model=event.model,
        drill=drill if isinstance(drill, int) else None,
        ended_us=at_us if at_once else None,
        over_us=event.time_us if at_once else None,
    )


def ended(symptoms: Mapping[str, Symptom], event: Recorded) -> list[str]:
    """The keys of those that are over with this event."""
    data, model, boot = event.data, event.model, event.boot
    match event.type:
        case "slo.burn_cleared":
            return [_alert_key(event)]
        case "guard.stage_changed" if data["to"] == Stage.NORMAL.label:
            return [f"{STAGE} {boot}"]
        case "guard.context_ceiling_changed" if data["to"] >= data["from"]:
            return [f"{CEILING} {boot}"]
        case "engine.restarted" | "model.loaded":
            return [f"{kind} {model} {boot}" for kind in (WORKER, LOAD)]
        case "model.unloaded":
            return [f"{kind} {model} {boot}" for kind in (WORKER, LOAD, BREAKER)]
        case "breaker.closed":
            return [f"{BREAKER} {model} {boot}"]
        case "sensor.swap_recovered":
            return [f"{SWAP} {boot}"]
        case "sensor.thermal_recovered":
            return [f"{HEAT} {boot}"]
        case "daemon.ready":
            return [symptom.key for symptom in symptoms.values() if symptom.kind == CRASH]
        case "ledger.verified" if data["ok"]:
            return [ALTERED]
        case "daemon.stopped":
            return _of_run(symptoms, boot)
        case "daemon.crash_detected":
            return _of_run(symptoms, data["boot"])
    return []


def _of_run(symptoms: Mapping[str, Symptom], boot: str) -> list[str]:
    return [one.key for one in symptoms.values() if one.boot == boot and one.kind in _OF_RUN]


def _alert_key(event: Recorded) -> str:
    return f"{ALERT} {event.data['objective']} {event.model or ''} {event.data['long']}/{event.data['short']}"


def _told(event: Recorded) -> tuple[str, str, str, Severity, str] | None:
    """Kind, key, sign, severity and title."""
    data, model, boot = event.data, event.model, event.boot
    match event.type:
        case "slo.burn_alerted":
            # Of a page and a ticket of one objective, of a model and of all of them: one complaint.
            severity = Severity.ERROR if data["severity"] == "page" else Severity.WARNING
            whose = f" of {model}" if model else ""
            title = f"Objective {data['objective']}{whose} burns its budget"
            return ALERT, _alert_key(event), f"{ALERT} {data['objective']}", severity, title
        case "engine.exited" if not data["expected"]:
            if data.get("hung"):
                title = f"The worker of {model} hung"
            else:
                how = data["signal"] or f"status {data['code']}"
                title = f"The worker of {model} died ({how})"
            return WORKER, f"{WORKER} {model} {boot}", f"{WORKER} {model}", Severity.ERROR, title
        case "breaker.opened":
            title = f"{model or data['name']} is in a crash loop: {data['failures']} failures in a row"
            return BREAKER, f"{BREAKER} {model} {boot}", f"{BREAKER} {model}", Severity.CRITICAL, title
        case "guard.stage_changed" if Stage.of(data["to"]) > Stage.of(data["from"]):
            why = ", ".join(map(str, data["reasons"])) or "no reason told"
            severity, title = _STAGES[Stage.of(data["to"])]
            return STAGE, f"{STAGE} {boot}", f"{STAGE} {(data['reasons'] or [''])[0]}", severity, f"{title} ({why})"
        case "guard.context_ceiling_changed" if data["to"] < data["from"]:
            title = f"Safe mode: prompts of {data['to']:,} tokens at most ({data['reason']})"
            return CEILING, f"{CEILING} {boot}", f"{CEILING} {data['reason']}", Severity.WARNING, title
        case "sensor.swap_thrash":
            return SWAP, f"{SWAP} {boot}", SWAP, Severity.WARNING, "The machine swaps"
        case "sensor.thermal_throttled":
            return HEAT, f"{HEAT} {boot}", HEAT, Severity.WARNING, "Heat slows the machine"
        case "daemon.crash_detected":
            title = "The run before ended without a word"
            return CRASH, f"{CRASH} {data['boot']}", CRASH, Severity.CRITICAL, title
        case "model.load_failed":
            title = f"{model} cannot be loaded: {data['error']}"
            return LOAD, f"{LOAD} {model} {boot}", f"{LOAD} {model}", Severity.ERROR, title
        # What only came late is whole: a disk that was busy for a moment is no incident.
        case "ledger.dropped" if lost := data["lost"]:
            title = "One event is lost" if lost == 1 else f"{lost:,} events are lost"
            return LOST, f"{LOST} {boot}", LOST, Severity.ERROR, title
        case "ledger.verified" if not data["ok"]:
            title = f"The ledger is not as it was written from event {data['bad_seq']} on"
            return ALTERED, ALTERED, ALTERED, Severity.CRITICAL, title
        case "kv.corrupt":
            title = f"KV of {model} is damaged and not used"
            return KV, f"{KV} {model} {boot}", f"{KV} {model}", Severity.ERROR, title
    return None


_STAGES: Final = {
    Stage.BACKPRESSURE: (Severity.WARNING, "New sessions are refused"),
    Stage.SHEDDING: (Severity.ERROR, "Models of low priority leave memory"),
    Stage.RESTART: (Severity.CRITICAL, "Workers are replaced, shedding was not enough"),
}
