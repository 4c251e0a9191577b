"""The ledger as log lines: a table from event type to template, and what fills it."""

import string
from collections.abc import Mapping
from typing import Any, Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.units import show_bytes, show_duration

SIGNALS: Final = ("queue_wait", "memory_full", "swap", "thermal", "gpu", "burn")
"""What the guard's stages go by, beside the threshold of memory."""
_LONGEST_VALUE: Final = 160
_GUARD: Final = ("guard.", "sensor.", "breaker.", "drill.", "incident.")
_CORE_TOO: Final = ("guard.threshold_",)
"""Memory is the core's, whoever watches it."""

TEMPLATES: Final[dict[str, str]] = {
    "daemon.started": "LMX {version} starting on {host}:{port} (pid {pid}).",
    "daemon.crash_detected": "The run before this one (pid {pid}) ended without a word at event {last_seq}.",
    "daemon.ready": "Ready at {url} after {startup_ms:ms}, serving {models}.",
    "daemon.draining": "Draining ({reason}): {in_flight} in flight, {timeout_s:s} to finish.",
    "daemon.drained": "Drained in {ms:ms}, {cancelled} cancelled.",
    "daemon.stopped": "Stopped after {uptime_s:s} ({reason}).",
    "config.loaded": "Configuration read (file: {source}; other than the defaults: {changed}).",
    "config.changed": (
        "Configuration read again ({source}); new: {changed}; after a restart: {needs_restart}; wrong: {error}."
    ),
    "engine.started": "Worker for {model} started (pid {pid}, MLX {mlx}, {device}) in {ms:ms}.",
    "engine.exited": "Worker for {model} ended (pid {pid}, signal {signal}, status {code}); last act: {last_acts:last}",
    "engine.restarted": "Worker for {model} restarted (pid {pid}, attempt {attempt}) in {ms:ms}.",
    "engine.standby_ready": "A standby worker waits (pid {pid}), ready in {ms:ms}.",
    "model.load_started": "Loading {model} ({weights_bytes:bytes})...",
    "model.loaded": "Loaded {model} ({weights_bytes:bytes}, {architecture}, context {context}) in {ms:ms}.",
    "model.load_failed": "Loading {model} failed: {error}",
    "model.pinned": "Pinned {model}: it stays in memory.",
    "model.unpinned": "Unpinned {model}.",
    "model.unloaded": "Unloaded {model} ({reason}).",
    "paging.planned": "Paging planned: {need_bytes:bytes} from {victims} ({reason}).",
    "paging.out_started": "Paging {model} weights out ({resident_bytes:bytes} in memory)...",
    "paging.out_finished": "Paging {model} weights to NVMe ({bytes_per_s:bytes}/s)...",
    "paging.in_started": "Paging {model} weights in ({bytes:bytes})...",
    "paging.in_finished": "Paged {model} weights in: {layers} layers, {bytes:bytes} in {ms:ms} (error: {error}).",
    "request.received": "{request} received on {route} (messages: {messages}, characters: {chars}).",
    "request.queued": "{request} queued at position {position} behind {running} running.",
    "request.admitted": "{request} admitted to {model}: {prompt_tokens} prompt tokens, at most {max_tokens} more.",
    "request.rejected": "{request} rejected, {status} {code}: {message}",
    "request.degraded": "{request} degraded ({reason}): asked {asked}, given {given}.",
    "request.resumed": "{request} goes on behind {tokens} tokens after {gap_ms:ms} ({reason}: {error}).",
    "request.first_token": "{request} first token after {ttft_ms:ms}.",
    "request.finished": "{request} finished ({finish_reason}): {completion_tokens} tokens in {wall_ms:ms}.",
    "request.cancelled": "{request} cancelled in {phase} ({reason}) after {completion_tokens} tokens.",
    "request.failed": "{request} failed, {status} {code}: {message}",
    "kv.reserved": "Reserving {bytes:bytes} for context KV cache.",
    "kv.hit": "{request} reuses {reused_tokens} tokens, {computed_tokens} are new.",
    "kv.missed": (
        "{request} computes {recomputed_tokens} tokens and reuses {reused_tokens} ({reason}); "
        "{lost_tokens} had been computed before."
    ),
    "kv.restored": "KV of {tokens} tokens came back from disk ({read_bytes:bytes}) in {ms:ms}.",
    "kv.saved": "KV of {session} is kept: {tokens} tokens, {bytes:bytes} of it new, on disk: {on_disk}.",
    "kv.evicted": "KV of {model} let go of: {pieces} pieces, {bytes:bytes} ({reason}; error: {error}).",
    "kv.corrupt": "KV of {model} is damaged and not used: {bytes:bytes} ({reason}; files: {files}).",
    "guard.threshold_breached": "VRAM threshold ({page_at:percent}) breached.",
    "guard.threshold_cleared": "VRAM threshold ({page_at:percent}) cleared, {fraction:percent} are used.",
    "guard.stage_changed": "Stage {from} -> {to} ({reasons}).",
    "guard.backpressure_on": "Backpressure: new sessions are refused ({reasons}).",
    "guard.backpressure_off": "Backpressure is over, {refused} requests were refused.",
    "guard.model_shed": "Shedding {model} ({bytes:bytes}, priority {priority}), so that {primary} keeps its memory.",
    "guard.context_ceiling_changed": "Applying safe mode: max_context_tokens={to}",
    "guard.restart_requested": "The worker of {model} is to be replaced ({reason}).",
    "sensor.sampled": "Memory ({sensor}): {available_bytes:bytes} of {total_bytes:bytes} available.",
    "sensor.unavailable": "Sensor {sensor} cannot be read: {error}",
    "sensor.swap_thrash": "The machine swaps: {bytes_per_s:bytes}/s for {window_s:s}.",
    "sensor.swap_recovered": "The machine swaps no longer ({bytes_per_s:bytes}/s).",
    "sensor.thermal_throttled": "Thermal throttle detected (GPU freq drop {gpu_drop:whole}).",
    "sensor.thermal_recovered": "Thermal throttle is over, for {cool_s:s}.",
    "sensor.slept": "The machine slept from {from_time} on.",
    "sensor.woke": "The machine woke behind {slept_s:s} of sleep.",
    "sensor.power_mode_changed": "Low Power Mode: {low_power}.",
    "slo.evaluated": "Objective {objective}: {good} of {total} good, budget left {budget_remaining:percent}.",
    "slo.burn_alerted": (
        "Objective {objective} burns its budget: {long_burn:.3g}x over {long}, {short_burn:.3g}x over {short} "
        "({severity})."
    ),
    "slo.burn_cleared": "Objective {objective} burns less than {factor:.3g}x over {long} again, after {lasted_s:s}.",
    "slo.budget_exhausted": "Objective {objective} has no budget left: {good} of {total} were good.",
    "drill.started": "Drill: {kind} for {for_s:s} {arguments}. What follows is a rehearsal.",
    "drill.finished": "Drill: {kind} is over ({reason}).",
    "incident.opened": "Incident {incident} ({severity}): {title}, since {started_at}.",
    "incident.merged": "Incident {incident}: {title} ({symptom}, events {events}; merged: {merged}).",
    "incident.acknowledged": "Incident {incident} acknowledged via {via}.",
    "incident.mitigated": "Incident {incident} mitigated: no symptom since {at}.",
    "incident.resolved": "Incident {incident} resolved, quiet for {quiet_s:s}.",
    "incident.reopened": "Incident {incident} reopened: {title} ({symptom}, events {events}).",
    "incident.closed": "Incident {incident} closed ({reason}).",
    "incident.report_written": "Incident {incident}: its postmortem is in {folder}, as {files}.",
    "breaker.opened": "Breaker of {name} opened for {for_s:s} after {failures} failures: {reason}",
    "breaker.half_opened": "Breaker of {name} half-open: one try.",
    "breaker.closed": "Breaker of {name} closed.",
    "operator.commanded": "Operator: {command} {arguments} via {via}.",
    "ledger.sealed": "Ledger: events {first_seq} to {last_seq} sealed into {file} ({bytes:bytes}).",
    "ledger.archived": "Ledger: {events} events are in {segments} new segments ({bytes:bytes}, by {reason}).",
    "ledger.verified": "Ledger: {events} events verified up to {head_seq} in {took_ms:ms}; wrong from: {bad_seq}.",
    "ledger.dropped": "Ledger: {late} events late, {lost} lost ({reason}).",
}
"""What each type of event says. A field is looked up in `data`, then in the event itself; what is None reads `-`."""

NAMED: Final[dict[tuple[str, str], str]] = {
    ("guard.threshold_breached", "memory_limit"): (
        "Memory limit lowered from {from_bytes:bytes} to {to_bytes:bytes} ({reason})."
    ),
    ("guard.threshold_cleared", "memory_limit"): (
        "Memory limit raised from {from_bytes:bytes} to {to_bytes:bytes} ({reason})."
    ),
    ("guard.context_ceiling_changed", "recovered"): "Safe mode is over: max_context_tokens={to}",
    ("sensor.thermal_throttled", "level"): "Thermal throttle detected (thermal pressure: {level}).",
    ("sensor.thermal_throttled", "driver"): "Thermal throttle detected (by the GPU's driver, at {gpu_mhz:.4g} MHz).",
    ("sensor.sampled", "guard"): "Figures of the guard: {figures}.",
    ("sensor.sampled", "heat"): (
        "Heat: level {level}, {celsius:.3g} degrees, GPU busy {gpu_busy:percent} at {gpu_mhz:.4g} MHz."
    ),
    **{
        ("guard.threshold_breached", signal): f"Threshold of {signal} reached: {{value:.3g}} of {{threshold:.3g}}."
        for signal in SIGNALS
    },
    **{("guard.threshold_cleared", signal): f"Threshold of {signal} cleared: {{value:.3g}}." for signal in SIGNALS},
}
"""What an event of that type says instead where its `name`, else its `reason`, else its `sensor`, is that one."""


def render(recorded: Recorded, *, with_time: bool = False) -> str:
    """One line, without its end: `[LMX-Core] Loaded m0 (1.2GB, ...) in 340ms.`, the time in front if asked.

    What clients wrote can be in an event: no control character, line end or change of writing direction gets through.
    """
    name = str(recorded.data.get("name") or recorded.data.get("reason") or recorded.data.get("sensor"))
    core = recorded.type.startswith(_CORE_TOO) and name not in SIGNALS
    component = "LMX-Guard" if recorded.type.startswith(_GUARD) and not core else "LMX-Core"
    template = NAMED.get((recorded.type, name)) or TEMPLATES.get(recorded.type)
    text = _plain(recorded) if template is None else _FORMATTER.vformat(template, (), _Fields(recorded))
    line = f"[{component}] {text}"
    if recorded.severity >= Severity.ERROR:
        line = f"{line} ({recorded.severity.label})"
    return f"{rfc3339(recorded.time_us)} {line}" if with_time else line


def _plain(recorded: Recorded) -> str:
    """An event of a type that this program does not know (yet)."""
    values = " ".join(f"{_shown(key)}={_shown(value)}" for key, value in recorded.data.items())
    return f"{_shown(recorded.type)} {values}".rstrip()


class _Fields(Mapping[str, Any]):
    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def __getitem__(self, key: str) -> Any:
        return self._recorded.data[key] if key in self._recorded.data else getattr(self._recorded, key, None)

    def __iter__(self) -> Any:
        return iter(self._recorded.data)

    def __len__(self) -> int:
        return len(self._recorded.data)


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, int | float):
            if format_spec == "bytes":
                return show_bytes(int(value)).replace(" ", "")
            if format_spec == "ms":
                return show_duration(value / 1000).replace(" ", "")
            if format_spec == "s":
                return show_duration(value).replace(" ", "")
            if format_spec == "percent":
                return f"{value * 100:.4g}%"
            if format_spec == "whole":
                return f"{value * 100:.0f}%"
            if format_spec.endswith("g"):
                return format(value, format_spec)
        if format_spec == "last" and isinstance(value, list):
            return _shown(value[-1] if value else None)
        return _shown(value)


_FORMATTER: Final = _Formatter()


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        text = ", ".join(map(str, value[:_LONGEST_VALUE])) or "nothing"
    elif isinstance(value, dict):
        text = ", ".join(f"{key}={item}" for key, item in list(value.items())[:_LONGEST_VALUE]) or "nothing"
    else:
        text = str(value)
    if len(text) > _LONGEST_VALUE:
        text = text[: _LONGEST_VALUE - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
