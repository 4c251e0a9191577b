"""What to change, by rule: a table from what the events show to an action, its reason and the key that it turns."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from lmx_ledger.report.facts import Facts
from lmx_ledger.report.model import Action, Incident
from lmx_ledger.report.text import counted, figure, lasted

LATE_S: Final = 300.0
"""Noticed later than this is a matter of its own."""
_STORM: Final = 3
_MANY: Final = 10
_LOST: Final = 1_000


class _Found(NamedTuple):
    what: str
    why: str
    config: str | None
    kinds: tuple[str, ...]


_Rule = Callable[[Facts], _Found | None]


def _paging_storm(facts: Facts) -> _Found | None:
    model, outs = facts.most("out")
    if outs < _STORM or facts.count["in"] < _STORM - 1:
        return None
    back, ins = facts.most("in")
    asked, _ = facts.most("asked")
    return _Found(
        f"Give the models room: raise the memory limit or page_at, pin {asked or model}, or serve one model fewer.",
        f"Weights of {model} left memory {counted(outs, 'time')}, and those of {back} came back {counted(ins, 'time')}:"
        " together the models do not fit, and took turns.",
        "[memory] limit, page_at; [[models]] pin, priority",
        ("out", "in"),
    )


def _flood(facts: Facts) -> _Found | None:
    refused = facts.count["turned_away"]
    if refused < _MANY:
        return None
    who, sent = facts.most("received")
    loud = f" {who} alone sent {sent:,} of {facts.count['received']:,}." if sent * 2 > facts.count["received"] else ""
    return _Found(
        "Let more run or wait at once, or have the clients send less and heed Retry-After.",
        f"{counted(refused, 'request')} of {facts.requests:,} were turned away for lack of a place (429).{loud}",
        "[queue] max_running, max_waiting; [guard] queue_wait",
        ("turned_away",),
    )


def _broken_prefix(facts: Facts) -> _Found | None:
    lost = facts.count["lost.diverged"]
    if lost < _LOST:
        return None
    what, tokens = facts.most("lost.diverged")
    return _Found(
        f"Keep the beginning of the prompt the same from turn to turn: {what} changes it; put that at the end.",
        f"{lost:,} tokens that were known were computed again, {tokens:,} of them because of {what}.",
        None,
        ("lost.diverged",),
    )


def _cache_small(facts: Facts) -> _Found | None:
    lost = facts.count["lost.evicted"]
    if lost < _LOST:
        return None
    return _Found(
        "Keep more KV: give it more memory or disk.",
        f"{lost:,} tokens were computed again because their KV had been let go for room.",
        "[kv] ram, disk",
        ("lost.evicted", "evicted.room"),
    )


def _crashes(facts: Facts) -> _Found | None:
    model, exits = facts.most("exited")
    if not exits:
        return None
    last = facts.last["exited"]
    how = last.get("signal") or f"status {last.get('code')}"
    acts = last.get("last_acts") or []
    doing = f"; its last act: {acts[-1]}" if acts else ""
    short = how in {"SIGKILL", "status 12"}
    return _Found(
        f"Give the worker of {model} more room: it was most likely short of memory."
        if short
        else f"Find out why the worker of {model} dies: stderr and flight recorder are in the event.",
        f"It ended {counted(exits, 'time')} unasked (last: {how}{doing}).",
        "[memory] limit" if short else None,
        ("exited", "breaker.opened"),
    )


def _hangs(facts: Facts) -> _Found | None:
    count = facts.count["hung"] + facts.count["restart.no_progress"]
    if not count:
        return None
    return _Found(
        "Find out what the worker hangs in; if its steps are only long, allow them more time.",
        f"A worker that had work gave nothing and was replaced ({counted(count, 'time')}).",
        "[engine] hang_timeout, prefill_step",
        ("hung", "restart.no_progress"),
    )


def _heat(facts: Facts) -> _Found | None:
    if not facts.count["sensor.thermal_throttled"]:
        return None
    drop = facts.last["sensor.thermal_throttled"].get("gpu_drop")
    by = f" by {figure(drop, 'share')}" if drop is not None else ""
    return _Found(
        "Cool the machine, or ask less of it at once: fewer streams, a lower ceiling while it is hot.",
        f"Heat slowed it{by} ({counted(facts.count['sensor.thermal_throttled'], 'time')}).",
        "[queue] max_running; [context] safe_mode_tokens",
        ("sensor.thermal_throttled",),
    )


def _swap(facts: Facts) -> _Found | None:
    if not facts.count["sensor.swap_thrash"]:
        return None
    return _Found(
        "Take less memory than the machine can give: lower the limit, or close what else runs there.",
        f"The machine swapped, {figure(facts.last['sensor.swap_thrash'].get('bytes_per_s'), 'bytes/s')} at the last.",
        "[memory] limit",
        ("sensor.swap_thrash",),
    )


def _others(facts: Facts) -> _Found | None:
    if not facts.count["breached.memory_limit"]:
        return None
    why, _ = facts.most("breached.memory_limit")
    low = facts.last["breached.memory_limit"].get("to_bytes")
    return _Found(
        "Find out which other program needs the memory, and move it or plan for it.",
        f"The limit was lowered {counted(facts.count['breached.memory_limit'], 'time')}, at the last to"
        f" {figure(low, 'bytes')} ({why.replace('_', ' ')}).",
        "[memory] limit",
        ("breached.memory_limit",),
    )


def _never_fits(facts: Facts) -> _Found | None:
    count = facts.count["refused.insufficient_memory"]
    if not count:
        return None
    return _Found(
        "Ask `lmx fit` before a model is served here, or take a smaller one.",
        f"{counted(count, 'request')} could never have fitted under the limit (507).",
        "[memory] limit",
        ("refused.insufficient_memory",),
    )


def _too_long(facts: Facts) -> _Found | None:
    count = facts.count["refused.context_length_exceeded"]
    if not count:
        return None
    return _Found(
        "Have the client shorten its prompts, or raise the ceiling where memory allows it.",
        f"{counted(count, 'request')} had a prompt over the ceiling in force.",
        "[context] max_tokens, safe_mode_tokens",
        ("refused.context_length_exceeded",),
    )


def _no_load(facts: Facts) -> _Found | None:
    count = facts.count["model.load_failed"]
    if not count:
        return None
    return _Found(
        f"Mend or replace the files of {facts.most('model.load_failed')[0]}: `lmx models list` says what is whole.",
        f"It could not be loaded: {str(facts.last['model.load_failed'].get('error'))[:160]}",
        "[[models]] path",
        ("model.load_failed",),
    )


def _crashed(facts: Facts) -> _Found | None:
    count = facts.count["daemon.crash_detected"]
    if not count:
        return None
    return _Found(
        "Find out what ended the daemon: its last acts are in the event, the system's log may have more.",
        f"A run ended without a word ({counted(count, 'time')}).",
        None,
        ("daemon.crash_detected",),
    )


def _disk(facts: Facts) -> _Found | None:
    kinds = ("kv.corrupt", "evicted.unwritable", "ledger.dropped")
    count = sum(facts.count[kind] for kind in kinds)
    if not count:
        return None
    return _Found(
        "Look after the disk: its health, its free space, who else keeps it busy.",
        f"What was written was damaged, late or could not be written ({counted(count, 'event')}).",
        "[storage] home; [kv] disk",
        kinds,
    )


def _blind(facts: Facts) -> _Found | None:
    count = facts.count["sensor.unavailable"]
    if not count:
        return None
    return _Found(
        f"Make the sensor readable again: {str(facts.last['sensor.unavailable'].get('error'))[:160]}",
        "Without it the guard judges by what it knew before.",
        "[sensors] every",
        ("sensor.unavailable",),
    )


def _only_slow(facts: Facts) -> _Found | None:
    if facts.slow < _MANY or facts.slow * 10 < facts.requests:
        return None
    return _Found(
        "Hold the objectives against what this machine can do, or serve a smaller model.",
        f"{facts.slow:,} of {counted(facts.requests, 'request')} were answered later than the objectives allow.",
        "[slo.ttft] threshold; [slo.itl] threshold",
        ("slo.burn_alerted",),
    )


RULES: Final[dict[str, _Rule]] = {
    "paging_storm": _paging_storm,
    "flood": _flood,
    "broken_prefix": _broken_prefix,
    "worker_crashes": _crashes,
    "worker_hangs": _hangs,
    "heat": _heat,
    "swapping": _swap,
    "memory_taken": _others,
    "never_fits": _never_fits,
    "prompt_too_long": _too_long,
    "load_failed": _no_load,
    "daemon_crash": _crashed,
    "kv_too_small": _cache_small,
    "disk": _disk,
    "sensor_blind": _blind,
    "slow": _only_slow,
}
"""In the order in which they are told."""


def actions_of(facts: Facts, incident: Incident) -> list[Action]:
    """What follows from the facts; the owner is for people to fill in."""
    return [*_by_rule(facts), *_of_incident(facts, incident)]


def _by_rule(facts: Facts) -> Iterator[Action]:
    for rule, applies in RULES.items():
        if (found := applies(facts)) is not None:
            because: Sequence[int] = sorted(seq for kind in found.kinds for seq in facts.seqs.get(kind, ()))
            yield Action(rule=rule, what=found.what, why=found.why, config=found.config, because=list(because)[:6])


def _of_incident(facts: Facts, incident: Incident) -> Iterator[Action]:
    late_s = (incident.detected_us - incident.started_us) / 1e6
    if late_s > LATE_S:
        yield Action(
            rule="noticed_late",
            what="Have it noticed sooner: a shorter period alerts on shorter windows.",
            why=f"It went on for {lasted(late_s)} before anybody was told.",
            config="[slo.*] period, min_events",
            because=list(incident.opened_by[:6]),
        )
    if incident.drill:
        yield Action(
            rule="drill",
            what="Hold what happened against what was expected of the rehearsal, and write the difference down.",
            why="It was a drill: nothing of it was real but the answers to it.",
            config=None,
            because=facts.seqs.get("drill.started", [])[:6],
        )
