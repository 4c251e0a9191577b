"""Swim lanes, as data: incident, drill, operators, guard, models, sensors and breakers over time."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.chart import Band, Lane, LaneChart, Mark
from lmx_ledger.report.model import Incident
from lmx_ledger.report.window import Window, spans

_MODELS: Final = 8
_CELLS: Final = 160
_CHANGES: Final = "changes often"
_TONES: Final = {
    "loading": "busy",
    "resident": "calm",
    "paging out": "busy",
    "paged": "warn",
    "paging in": "busy",
    "unloaded": "plain",
    "failed": "bad",
    "no worker": "bad",
    "open": "bad",
    "half-open": "warn",
    "closed": "calm",
    "draining": "warn",
    "stopped": "plain",
    "throttled": "warn",
    "swapping": "warn",
    "cool": "calm",
    "calm": "calm",
    _CHANGES: "warn",
}
_MODEL: Final = {
    "model.load_started": ("unloaded", "loading"),
    "model.loaded": ("loading", "resident"),
    "model.load_failed": ("loading", "failed"),
    "model.unloaded": ("resident", "unloaded"),
    "paging.out_started": ("resident", "paging out"),
    "paging.out_finished": ("paging out", "paged"),
    "paging.in_started": ("paged", "paging in"),
    "paging.in_finished": ("paging in", "resident"),
    "engine.exited": ("resident", "no worker"),
    "engine.restarted": ("no worker", "resident"),
}
_HEAT: Final = {
    "sensor.thermal_throttled": ("cool", "throttled"),
    "sensor.thermal_recovered": ("throttled", "cool"),
}
_SWAP: Final = {"sensor.swap_thrash": ("calm", "swapping"), "sensor.swap_recovered": ("swapping", "calm")}
_BREAKER: Final = {
    "breaker.opened": ("closed", "open"),
    "breaker.half_opened": ("open", "half-open"),
    "breaker.closed": ("half-open", "closed"),
}
_DRILL: Final = {"drill.started": ("", "rehearsal"), "drill.finished": ("rehearsal", "")}
_DAEMON: Final = {
    "daemon.started": ("", "starting"),
    "daemon.ready": ("starting", "ready"),
    "daemon.draining": ("ready", "draining"),
    "daemon.undrained": ("draining", "ready"),
    "daemon.stopped": ("draining", "stopped"),
}
_Moves = dict[str, tuple[str, str]]


def lanes_of(incident: Incident, events: Sequence[Recorded], window: Window) -> LaneChart:
    """One lane for everything that had states or was done; none for what nothing tells of."""
    rows = [e for e in events if not e.type.startswith(("request.", "kv."))]
    models, breakers = defaultdict[str, list[Recorded]](list), defaultdict[str, list[Recorded]](list)
    for event in rows:
        if event.type in _MODEL and event.model is not None and not (event.type in _EXITS and _asked(event)):
            models[event.model].append(event)
        if event.type in _BREAKER:
            name = str(event.data.get("name"))
            breakers[f"{name} of {event.model}" if event.model else name].append(event)
    most = sorted(models, key=lambda name: (-len(models[name]), name))
    lanes = [
        Lane(label="incident", bands=_incident(incident, window)),
        Lane(label="drill", bands=_states(rows, _DRILL, window)),
        Lane(label="operators", marks=_marks(rows, {"operator.commanded"}, "command", window)),
        Lane(label="daemon", bands=_states(rows, _DAEMON, window)),
        Lane(
            label="guard",
            bands=spans(rows, "guard.stage_changed", lambda d: str(d["from"]), lambda d: str(d["to"]), window),
        ),
        Lane(label="context ceiling", bands=_ceiling(rows, window)),
        *(
            Lane(label=name, bands=_states(models[name], _MODEL, window), marks=_exits(models[name], window))
            for name in sorted(most[:_MODELS])
        ),
        Lane(label="heat", bands=_states(rows, _HEAT, window)),
        Lane(label="swap", bands=_states(rows, _SWAP, window)),
        Lane(label="sensors lost", marks=_marks(rows, {"sensor.unavailable"}, "sensor", window)),
        *(
            Lane(label=f"breaker {name}", bands=_states(found, _BREAKER, window))
            for name, found in sorted(breakers.items())[:_MODELS]
        ),
    ]
    more = f" {len(most) - _MODELS} more models are not drawn." if len(most) > _MODELS else ""
    return LaneChart(
        key="lanes",
        title="What was in which state",
        about=f"The incident, the guard, models, sensors and breakers over time.{more}",
        from_us=window.from_us,
        until_us=window.until_us,
        lanes=[lane for lane in lanes if lane.bands or lane.marks],
    )


def _incident(incident: Incident, window: Window) -> list[Band]:
    rest = ("open", "bad") if incident.mitigated_us is None else ("mitigated", "busy")
    ends = [
        (incident.detected_us, "unnoticed", "plain"),
        (incident.mitigated_us, "open", "bad"),
        (incident.over_us, *rest),
    ]
    bands, at_us = list[Band](), incident.started_us
    for end_us, name, tone in ends:
        if end_us is not None and end_us > at_us:
            bands.append(Band(from_us=at_us, until_us=end_us, label=name, tone=tone))
            at_us = end_us
    if incident.over_us is None and window.until_us > at_us:
        bands.append(Band(from_us=at_us, until_us=window.until_us, label=rest[0], tone=rest[1]))
    return bands


def _ceiling(events: Iterable[Recorded], window: Window) -> list[Band]:
    found = spans(
        events,
        "guard.context_ceiling_changed",
        lambda data: f"{data['from']:,} tokens",
        lambda data: f"{data['to']:,} tokens",
        window,
    )
    highest = max((int(band.label.split()[0].replace(",", "")) for band in found), default=0)
    return [
        Band(
            from_us=band.from_us,
            until_us=band.until_us,
            label=band.label,
            tone="calm" if band.label == f"{highest:,} tokens" else "warn",
        )
        for band in found
    ]


def _states(events: Iterable[Recorded], moves: _Moves, window: Window) -> list[Band]:
    """The bands that these moves lead through. A time that went back makes no band end before it begins."""
    bands, at_us, state, known = list[Band](), window.from_us, "", False
    for event in events:
        if event.type not in moves:
            continue
        before, after = moves[event.type]
        if event.data.get("error") and event.type.startswith("paging."):
            after = before
        state = state if known else before
        end_us = min(max(event.time_us, at_us), window.until_us)
        _add(bands, at_us, end_us, state)
        at_us, state, known = end_us, after, True
    _add(bands, at_us, window.until_us, state)
    return _calmed(bands, window)


def _add(bands: list[Band], from_us: int, until_us: int, state: str) -> None:
    if state and until_us > from_us:
        bands.append(Band(from_us=from_us, until_us=until_us, label=state, tone=_TONES.get(state, "plain")))


def _calmed(bands: list[Band], window: Window) -> list[Band]:
    """What changes faster than can be drawn becomes one band that says so."""
    cell = (window.until_us - window.from_us) // _CELLS
    kept: list[Band] = []
    run: list[Band] = []
    for band in [*bands, None]:
        if band is not None and band.until_us - band.from_us < cell:
            run.append(band)
            continue
        if len(run) > 2:
            kept.append(Band(from_us=run[0].from_us, until_us=run[-1].until_us, label=_CHANGES, tone=_TONES[_CHANGES]))
        else:
            kept += run
        run = []
        if band is not None:
            kept.append(band)
    return kept


_EXITS: Final = frozenset({"engine.exited", "engine.restarted"})


def _asked(event: Recorded) -> bool:
    return event.type == "engine.exited" and bool(event.data.get("expected"))


def _exits(events: Iterable[Recorded], window: Window) -> list[Mark]:
    return [
        Mark(at_us=e.time_us, label=f"worker ended ({e.data.get('signal') or e.data.get('code')})", seq=e.seq)
        for e in events
        if e.type == "engine.exited" and window.has(e.time_us)
    ][:200]


def _marks(events: Iterable[Recorded], types: set[str], name: str, window: Window) -> list[Mark]:
    found = [e for e in events if e.type in types and window.has(e.time_us)]
    return [Mark(at_us=e.time_us, label=str(e.data.get(name)), seq=e.seq) for e in found][:200]
