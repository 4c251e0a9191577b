"""What of an event's data may leave the machine: every field that can hold text, and the rule that it goes by.

Whatever is not in this table is left out: a field that somebody adds, a type of a newer program, text that is recorded.
"""

import enum
from types import MappingProxyType
from typing import Final


class Rule(enum.Enum):
    """What becomes of a value; of a list, of each of its values. None and empty texts stay what they are."""

    # Kept, where it has the form of such a value; what has not is left out.
    WORD = "words of this program's own: reasons, codes, names of signals, versions"
    TIME = "times"
    MODEL = "model ids"
    REQUEST = "request ids"
    ROUTE = "routes that this program has"
    KEYS = "names of configuration keys"
    FIGURES = "numbers by name"
    STEPS = "the steps of a plan"
    ACTS = "what a worker was about to do, without what it says of files and errors"
    PAST = "the last events of a run, without what they were about"
    CONFIG = "configuration: numbers and choices; paths and addresses are renamed, other text is left out"
    TITLE = "an incident's title, made again from its redacted symptom"

    # Renamed: the same value has the same name all over the bundle, and in no other bundle.
    SESSION = "session"
    CLIENT = "client"
    HOST = "host"
    PATH = "path"
    FILE = "file"
    HASH = "hash"
    PROCESS = "process"

    # Left out.
    TEXT = "free text"
    MESSAGE = "what a client was told"
    ARGUMENTS = "what operators said with an order, but for the model, the session or the incident that it is about"


KEPT: Final = frozenset(
    {
        *(Rule.WORD, Rule.TIME, Rule.MODEL, Rule.REQUEST, Rule.ROUTE, Rule.KEYS, Rule.FIGURES, Rule.STEPS),
        *(Rule.ACTS, Rule.PAST),
    }
)
RENAMED: Final = frozenset({Rule.SESSION, Rule.CLIENT, Rule.HOST, Rule.PATH, Rule.FILE, Rule.HASH, Rule.PROCESS})

_ERROR: Final = MappingProxyType({"error": Rule.TEXT})
_THRESHOLD: Final = MappingProxyType(
    {"name": Rule.WORD, "reason": Rule.WORD, "readings": Rule.FIGURES, "asked": Rule.FIGURES}
)
_ALERT: Final = MappingProxyType(dict.fromkeys(("objective", "severity", "long", "short"), Rule.WORD))
_REASON: Final = MappingProxyType({"reason": Rule.WORD})

FIELDS: Final = MappingProxyType(
    {
        "daemon.started": {
            "version": Rule.WORD,
            "pid": Rule.PROCESS,
            "host": Rule.HOST,
            "platform": Rule.TEXT,
            "python": Rule.WORD,
        },
        "daemon.crash_detected": {
            "boot": Rule.WORD,
            "pid": Rule.PROCESS,
            "last_time": Rule.TIME,
            "last_acts": Rule.PAST,
        },
        "daemon.ready": {"url": Rule.HOST, "models": Rule.MODEL},
        "daemon.draining": {"reason": Rule.TEXT},
        "daemon.stopped": {"reason": Rule.TEXT},
        "config.loaded": {"source": Rule.PATH, "changed": Rule.CONFIG},
        "config.changed": {
            "source": Rule.PATH,
            "changed": Rule.CONFIG,
            "needs_restart": Rule.KEYS,
            "error": Rule.TEXT,
        },
        "engine.started": {
            "pid": Rule.PROCESS,
            **dict.fromkeys(("mlx", "mlx_lm", "device", "blas"), Rule.WORD),
        },
        "engine.exited": {
            "pid": Rule.PROCESS,
            "signal": Rule.WORD,
            "stderr_tail": Rule.TEXT,
            "last_acts": Rule.ACTS,
            "in_flight": Rule.REQUEST,
        },
        "engine.restarted": {"pid": Rule.PROCESS},
        "engine.standby_ready": {"pid": Rule.PROCESS},
        "model.load_started": {"path": Rule.PATH, "reason": Rule.WORD},
        "model.loaded": {"architecture": Rule.WORD},
        "model.load_failed": {"path": Rule.PATH, "error": Rule.TEXT},
        "model.unloaded": _REASON,
        "paging.planned": {
            "victims": Rule.MODEL,
            "reason": Rule.WORD,
            "steps": Rule.STEPS,
            "account": Rule.FIGURES,
        },
        "paging.out_finished": _ERROR,
        "paging.in_finished": _ERROR,
        "request.received": {
            "route": Rule.ROUTE,
            "prompt_sha256": Rule.HASH,
            "client": Rule.CLIENT,
            "client_request_id": Rule.HASH,
            "sampling": Rule.FIGURES,
        },
        "request.admitted": {"sampling": Rule.FIGURES},
        "request.rejected": {
            "code": Rule.WORD,
            "message": Rule.MESSAGE,
            "route": Rule.ROUTE,
            "param": Rule.TEXT,
        },
        "request.degraded": {"reason": Rule.WORD, "detail": Rule.TEXT},
        "request.resumed": {"reason": Rule.WORD, "error": Rule.TEXT},
        "request.finished": {"finish_reason": Rule.WORD, "parts_ms": Rule.FIGURES},
        "request.cancelled": {"phase": Rule.WORD, "reason": Rule.WORD, "parts_ms": Rule.FIGURES},
        "request.failed": {"code": Rule.WORD, "message": Rule.TEXT, "parts_ms": Rule.FIGURES},
        "kv.missed": dict.fromkeys(("reason", "role", "breaker"), Rule.WORD),
        "kv.saved": dict.fromkeys(("end", "prompt_end", "form", "fingerprint", "template", "names"), Rule.HASH),
        "kv.evicted": {"reason": Rule.WORD, "error": Rule.TEXT},
        "kv.corrupt": {"files": Rule.FILE, "reason": Rule.TEXT},
        "guard.threshold_breached": _THRESHOLD,
        "guard.threshold_cleared": _THRESHOLD,
        "guard.stage_changed": {
            "from": Rule.WORD,
            "to": Rule.WORD,
            "reasons": Rule.WORD,
            "readings": Rule.FIGURES,
        },
        "guard.backpressure_on": {"reasons": Rule.WORD},
        "guard.model_shed": {"primary": Rule.MODEL},
        "guard.context_ceiling_changed": _REASON,
        "guard.restart_requested": _REASON,
        "sensor.sampled": {
            "sensor": Rule.WORD,
            "pressure": Rule.WORD,
            "level": Rule.WORD,
            "figures": Rule.FIGURES,
        },
        "sensor.unavailable": {"sensor": Rule.WORD, "error": Rule.TEXT},
        "sensor.swap_thrash": {"asked": Rule.FIGURES},
        "sensor.swap_recovered": {"asked": Rule.FIGURES},
        "sensor.thermal_throttled": {"reason": Rule.WORD, "level": Rule.WORD},
        "sensor.thermal_recovered": {"level": Rule.WORD},
        "sensor.slept": {"from_time": Rule.TIME},
        "slo.evaluated": {"objective": Rule.WORD, "burn": Rule.FIGURES},
        "slo.burn_alerted": _ALERT,
        "slo.burn_cleared": _ALERT,
        "slo.budget_exhausted": {"objective": Rule.WORD},
        "drill.started": {"kind": Rule.WORD, "arguments": Rule.FIGURES},
        "drill.finished": {"kind": Rule.WORD, "reason": Rule.WORD, "outcome": Rule.FIGURES},
        "incident.opened": {
            "title": Rule.TITLE,
            "severity": Rule.WORD,
            "models": Rule.MODEL,
            "symptom": Rule.WORD,
            "started_at": Rule.TIME,
            "how": Rule.WORD,
        },
        "incident.merged": {
            "symptom": Rule.WORD,
            "merged": Rule.WORD,
            "title": Rule.TITLE,
            "severity": Rule.WORD,
            "models": Rule.MODEL,
        },
        "incident.acknowledged": {"via": Rule.WORD},
        "incident.mitigated": {"at": Rule.TIME},
        "incident.reopened": {
            "symptom": Rule.WORD,
            "title": Rule.TITLE,
            "severity": Rule.WORD,
            "models": Rule.MODEL,
        },
        "incident.closed": _REASON,
        "incident.report_written": {"folder": Rule.PATH, "files": Rule.FILE},
        "breaker.opened": {"name": Rule.WORD, "reason": Rule.TEXT},
        "breaker.half_opened": {"name": Rule.WORD},
        "breaker.closed": {"name": Rule.WORD},
        "operator.commanded": {"command": Rule.WORD, "arguments": Rule.ARGUMENTS, "via": Rule.WORD},
        "ledger.dropped": {"reason": Rule.TEXT},
        "ledger.sealed": {"file": Rule.WORD, "sha256": Rule.HASH},
        "ledger.archived": _REASON,
        "ledger.verified": {"head_hash": Rule.HASH, "reason": Rule.TEXT},
    }
)
"""By type and field."""

PHRASES: Final = frozenset(
    {
        "SIGINT",
        "SIGTERM",
        "failed",
        "no model could be loaded",
        "the HTTP server ended",
        "it does not verify",
        "no records (any more)",
        "of something else",
        "the disk was slower than the caller would wait",
    }
)
"""Free text that is this program's own, word for word: it says nothing of anybody, and stays."""

CONFIG_TEXT: Final = MappingProxyType(
    {
        "server.host": Rule.HOST,
        "server.api_keys": Rule.TEXT,
        "server.operator_keys": Rule.TEXT,
        "server.allowed_origins": Rule.HOST,
        "storage.home": Rule.PATH,
        "ledger.retention": Rule.WORD,
        "sensors.script": Rule.PATH,
        "report.dir": Rule.PATH,
        "models.id": Rule.MODEL,
        "models.path": Rule.PATH,
        "models.aliases": Rule.TEXT,
    }
)
"""Keys of the configuration that hold any text. Of others, numbers and the choices that a key has stay."""
