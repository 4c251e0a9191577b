"""What an event says to somebody who has never seen this system, as one sentence; what strangers wrote is harmless."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, tzinfo
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_bytes, show_duration
from lmx_ledger.ledger.log_lines import render

_LONGEST: Final = 120

_WANTED: Final = {
    "load": "to load {model}",
    "page_in": "to bring {model}'s weights back",
    "kv": "to make room for a conversation with {model}",
    "limit": "because more was held than the memory limit allows",
    "asked": "because an operator wanted it",
}
_GOING: Final = {"page_out": "weights", "kept": "KV at rest"}
_SIGNALS: Final = {
    "queue_wait": "requests waited too long in line",
    "memory_full": "memory was nearly full",
    "swap": "the machine was swapping",
    "thermal": "heat slowed the machine",
    "gpu": "the GPU was busy for too long",
    "burn": "an objective's budget burned too fast",
}
_LOADED_FOR: Final = {
    "configured": "the configuration names it",
    "requested": "a request named it",
    "restart": "its worker had ended and another one took its place",
    "asked": "an operator wanted it",
}


def plain(value: object) -> str:
    """One line of bounded length: control characters and changes of writing direction are replaced."""
    text = str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3] + "..."
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def clock(time_us: int, zone: tzinfo) -> str:
    """The time of the day there: `14:02:11`."""
    return f"{datetime.fromtimestamp(time_us // 1_000_000, zone):%H:%M:%S}"


def ms(value: float) -> str:
    """A duration of so many milliseconds, for people; short ones with a digit behind the point."""
    return f"{value:.1f} ms" if value < 9.95 else show_duration(value / 1e3)


def purpose(reason: str, model: str | None) -> str:
    """What a plan of that reason, for that model, was for: `to load m`."""
    return _WANTED.get(reason, "to make room for {model}").format(model=plain(model or "a model"))


def sentence(event: Recorded, zone: tzinfo) -> str:
    """What happened, and when; a type that has no sentence of its own says its log line."""
    say = _SENTENCES.get(event.type)
    said = say(event, event.data) if say is not None else render(event).partition("] ")[2].removesuffix(".")
    return f"at {clock(event.time_us, zone)} {said}."


def _planned(event: Recorded, data: Mapping[str, Any]) -> str:
    by_act: dict[str, list[str]] = {}
    for act, model, *_ in data.get("steps") or ():
        by_act.setdefault(str(act), []).append(plain(model))
    if data["reason"] == "asked":
        by_act["page_out"] = [plain(name) for name in data["victims"]]
    told = []
    if going := [f"{what} of {_names(by_act[act])}" for act, what in _GOING.items() if act in by_act]:
        told.append(f"let {' and '.join(going)} go")
    if "yield" in by_act:
        told.append(f"let nobody new in at {_names(by_act['yield'])}")
    if not told and "spare" in by_act:
        told.append(f"took back what {_names(by_act['spare'])} had no need of")
    need, short = data.get("need_bytes"), data.get("short_by_bytes")
    room = f" ({show_bytes(need)})" if need else ""
    waited = f"; {show_bytes(short)} of it had to be waited for" if short else ""
    act = " and ".join(told) or "found nothing that could go"
    return f"plan {event.seq} {act} {purpose(str(data['reason']), event.model)}{room}{waited}"


def _names(models: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(models))


def _out(event: Recorded, data: Mapping[str, Any]) -> str:
    if data.get("error"):
        return f"{plain(event.model)}'s weights could not be put out: {plain(data['error'])}"
    return f"{show_bytes(data['bytes'])} of {plain(event.model)}'s weights left memory"


def _in(event: Recorded, data: Mapping[str, Any]) -> str:
    if data.get("error"):
        return f"{plain(event.model)}'s weights could not be read back: {plain(data['error'])}"
    return (
        f"{show_bytes(data['bytes'])} of {plain(event.model)}'s weights were back in memory, read in {ms(data['ms'])}"
    )


def _evicted(event: Recorded, data: Mapping[str, Any]) -> str:
    why = {
        "room": "for lack of room",
        "form": "because it is kept in another form now",
        "erased": "because an operator had it erased",
        "unwritable": f"could not be written ({plain(data.get('error'))})",
    }.get(data["reason"], plain(data["reason"]))
    if data["reason"] == "unwritable":
        return f"KV of {plain(event.model)} {why}"
    return f"{show_bytes(data['bytes'])} of kept KV of {plain(event.model)} went {why}"


def _exited(event: Recorded, data: Mapping[str, Any]) -> str:
    how = f"by {plain(data['signal'])}" if data.get("signal") else f"with status {plain(data.get('code'))}"
    acts = data.get("last_acts") or []
    last = f"; the last thing that it did: {plain(acts[-1])}" if acts else ""
    hung = " after it had given nothing for too long" if data.get("hung") else ""
    return f"the worker of {plain(event.model)} ended {how}{hung}{last}"


def _restart(event: Recorded, data: Mapping[str, Any]) -> str:
    if data["reason"] == "no_progress":
        silent = f" for {show_duration(data['silent_s'])}" if data.get("silent_s") else ""
        return f"the guard had the worker of {plain(event.model)} replaced: it was busy and gave nothing{silent}"
    return f"the guard had the worker of {plain(event.model)} replaced, because refusing new work was not enough"


def _load_started(event: Recorded, data: Mapping[str, Any]) -> str:
    why = _LOADED_FOR.get(data["reason"], plain(data["reason"]))
    return f"{plain(event.model)} began to load ({show_bytes(data['weights_bytes'])}), because {why}"


def _loaded(event: Recorded, data: Mapping[str, Any]) -> str:
    return f"{plain(event.model)} was loaded ({show_bytes(data['weights_bytes'])}), after {ms(data['ms'])}"


def _breached(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    name = data["name"]
    if name == "memory":
        return f"{data['fraction']:.0%} of the memory limit was reached, at {data['page_at']:.0%} what is idle goes"
    if name == "memory_limit":
        return (
            f"the memory limit went from {show_bytes(data['from_bytes'])} down to {show_bytes(data['to_bytes'])}, "
            f"for {plain(str(data['reason']).replace('_', ' '))}"
        )
    return _SIGNALS.get(name, f"the threshold of {plain(name)} was reached")


def _stage(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    why = ", ".join(_SIGNALS.get(name, plain(name)) for name in data["reasons"]) or "things were calm again"
    return f"the guard went from {plain(data['from'])} to {plain(data['to'])}, because {why}"


def _ceiling(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    if data["reason"] == "recovered":
        return f"safe mode ended: prompts and answers may have {data['to']:,} tokens again"
    why = {"safe_mode_thermal": "heat slowed this machine", "safe_mode_swap": "this machine swapped"}
    return f"safe mode began, because {why.get(data['reason'], plain(data['reason']))}: at most {data['to']:,} tokens"


def _commanded(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    named = data["arguments"].get("model") if isinstance(data["arguments"], dict) else None
    about = f" for {plain(named)}" if named else ""
    return f"an operator ordered {plain(data['command'])}{about} (via {plain(data['via'])})"


def _configured(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    changed = ", ".join(f"{plain(name)} to {plain(value)}" for name, value in data["changed"].items())
    return f"a configuration was read that changed {changed or 'nothing that is in force'}"


def _asked(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    return f"request {plain(event.request)} asked for {plain(event.model)}"


def _hot(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    drop = data.get("gpu_drop")
    how = f" (its GPU's clock was {drop:.0%} lower)" if drop is not None else ""
    return f"heat slowed this machine{how}"


def _swaps(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    return f"this machine swapped ({show_bytes(data['bytes_per_s'])} a second)"


def _shed(event: Recorded, data: Mapping[str, Any]) -> str:
    return f"the guard put {plain(event.model)} out of memory, so that {plain(data['primary'])} keeps its own"


def _drill(event: Recorded, data: Mapping[str, Any]) -> str:  # noqa: ARG001 - as the others
    return f"a rehearsal of {plain(data['kind'])} began: what follows from it is not real"


_SENTENCES: Final[dict[str, Callable[[Recorded, Mapping[str, Any]], str]]] = {
    "paging.planned": _planned,
    "paging.out_finished": _out,
    "paging.in_finished": _in,
    "kv.evicted": _evicted,
    "engine.exited": _exited,
    "guard.restart_requested": _restart,
    "model.load_started": _load_started,
    "model.loaded": _loaded,
    "guard.threshold_breached": _breached,
    "guard.stage_changed": _stage,
    "guard.context_ceiling_changed": _ceiling,
    "guard.model_shed": _shed,
    "sensor.thermal_throttled": _hot,
    "sensor.swap_thrash": _swaps,
    "operator.commanded": _commanded,
    "config.changed": _configured,
    "request.received": _asked,
    "request.queued": _asked,
    "request.admitted": _asked,
    "drill.started": _drill,
}
