"""What there was to serve a run with: its models and their sizes, how fast weights move, and what came from outside.

All of it is read off the run's own events; pure. What no event tells is left out, and a model of the run goes without.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard import recorded_memory
from lmx_ledger.guard.signals import BURN, GPU, SWAP, THERMAL
from lmx_ledger.guard.stages import Off, On
from lmx_ledger.memory import recorded as plans
from lmx_ledger.memory.holding import LEAST_KEPT
from lmx_ledger.memory.plan import Line

TYPES: Final = (
    *("config.*", "daemon.started", "model.*", "paging.*", "engine.exited", "kv.saved"),
    *("guard.threshold_breached", "guard.threshold_cleared", "guard.restart_requested", "sensor.sampled"),
    *("slo.burn_alerted", "slo.burn_cleared"),
)
OUTSIDE: Final = (SWAP, THERMAL, GPU, BURN)
"""Signals that come and go as they did; whether alerts burn the model says itself, of objectives that it knows."""
_GONE: Final = ("asked", "ttl", "reload")
"""Reasons of a `model.unloaded` that is repeated where the model is idle."""
_CONFIGURED: Final = "configured"
_LIMIT: Final = "memory_limit"
_RESTART: Final = "restart"
_LEAST_WORKING: Final = 1 << 20
"""What a model with work takes beside weights and KV, where no plan has told it."""


class Outage(NamedTuple):
    """A model whose worker gave no sign of life from then on; from `gone_s` on nobody was let in, until `until_s`."""

    model: str
    from_s: float
    gone_s: float
    until_s: float


class Alert(NamedTuple):
    """A page alert that began (`on`) or ended: how fast the budget burned, and from which rate on it alerts."""

    at_s: float
    on: bool
    objective: str
    model: str | None
    window: str
    burn: float = 0.0
    factor: float = 0.0


class Move(NamedTuple):
    """What moving weights takes: some seconds each time, and some for each byte."""

    each_s: float = 0.0
    byte_s: float = 0.0

    def takes_s(self, size: int) -> float:
        """To move so many bytes."""
        return self.each_s + self.byte_s * size


_AT_ONCE: Final = Move()


@dataclass
class Weights:
    """A model as memory has it. `layers` are its weights in the order in which they go, in bytes; `token` bytes of KV.

    `busy` bytes are taken by passes while it has work (a part of its KV on top; `most` of them now and then), `idle`
    ones all the time. At the beginning `there` it is loaded, with the first `out` of its layers on disk only.
    """

    model: str
    layers: tuple[int, ...] = ()
    token: float = 0.0
    busy: int = _LEAST_WORKING
    most: int = _LEAST_WORKING
    idle: int = 0
    pinned: bool = False
    priority: int = 0
    context: int = 0
    load_s: float = 0.0
    there: bool = False
    out: int = 0


@dataclass
class Machine:
    """One run's. Seconds count from the same moment as its demand's.

    `limit` is the configured limit on memory, None where nobody has told it: then memory binds nobody. `lowered` is by
    how much others had it lowered, from when on. `tries` are loads that were tried because they were configured,
    `gone` unloads that an operator or time wanted.
    """

    models: dict[str, Weights] = field(default_factory=dict)
    limit: int | None = None
    lowered: list[tuple[float, int]] = field(default_factory=list)
    others: int = 0
    page_in: Move = _AT_ONCE
    page_out: Move = _AT_ONCE
    outages: list[Outage] = field(default_factory=list)
    tries: list[tuple[float, str]] = field(default_factory=list)
    gone: list[tuple[float, str]] = field(default_factory=list)
    signals: list[tuple[float, On | Off]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)


class Paged(NamedTuple):
    """Weights that came back: when, and how long that took."""

    at_s: float
    ms: float


def machine(events: Sequence[Recorded], base_us: int, signals: Iterable[tuple[int, On | Off]]) -> Machine:
    """Of one run's events (`TYPES`, from its start on, oldest first), as it was at `base_us` and what came after.

    `signals` are those of `OUTSIDE`, with their wall time.
    """
    found = Machine(models=_configured(events), outages=outages(events, base_us))
    _read_sizes(found, events)
    _read_residency(found, events, base_us)
    found.page_in = _move(events, "in", found)
    found.page_out = _move(events, "out", found)
    found.lowered = list(_lowered(events, base_us))
    found.signals = [((at_us - base_us) / 1e6, one) for at_us, one in signals if one.name in OUTSIDE]
    found.alerts = list(_alerts(events, base_us))
    return found


def outages(events: Iterable[Recorded], base_us: int) -> list[Outage]:
    """When workers were away: from their last sign of life until the next one had loaded the model."""
    since: dict[str, tuple[float, float]] = {}
    silent: dict[int, float] = {}
    found: list[Outage] = []
    last = 0.0
    for event in events:
        last, model = (event.time_us - base_us) / 1e6, event.model or ""
        match event.type:
            case "guard.restart_requested":
                silent[event.seq] = float(event.data.get("silent_s") or 0.0)
            case "engine.exited" if not event.data["expected"] or event.data.get("hung"):
                since.setdefault(model, (last - silent.get(event.cause or 0, 0.0), last))
            case "model.load_started" if event.data["reason"] == _RESTART:
                since.setdefault(model, (last, last))
            case "model.loaded" if model in since:
                found.append(Outage(model, *since.pop(model), last))
            case "model.unloaded":
                since.pop(model, None)
    return [*found, *(Outage(model, *begin, math.inf) for model, begin in since.items())]


def page_ins(events: Iterable[Recorded], base_us: int) -> list[Paged]:
    """Those that the ledger has."""
    return [
        Paged((event.time_us - base_us) / 1e6, event.data["ms"])
        for event in events
        if event.type == "paging.in_finished" and event.data.get("error") is None
    ]


def _configured(events: Iterable[Recorded]) -> dict[str, Weights]:
    models: dict[str, Weights] = {}
    for event in events:
        if event.type == "config.loaded":
            for one in event.data["changed"].get("models") or ():
                models[one["id"]] = Weights(one["id"], pinned=one.get("pin", False), priority=one.get("priority", 0))
        elif event.type.startswith("model.") and event.model is not None:
            one = models.setdefault(event.model, Weights(event.model))
            size = event.data.get("weights_bytes")
            if size and not one.layers:
                # Until a plan says how it is cut, it goes and comes as a whole.
                one.layers = (size,)
            if event.type == "model.loaded":
                one.context = event.data["context"]
                one.load_s = event.data["ms"] / 1e3
    known = [one.load_s for one in models.values() if one.load_s]
    for one in models.values():
        one.load_s = one.load_s or (median(known) if known else 0.0)
    return models


def _read_sizes(found: Machine, events: Iterable[Recorded]) -> None:
    busy, idle = dict[str, list[int]](), dict[str, list[int]]()
    for event in events:
        if event.type == "kv.saved" and event.data["tokens"] and event.model in found.models:
            one = found.models[event.model]
            # Of a conversation's first turn all of it is new.
            one.token = max(one.token, event.data["bytes"] / event.data["tokens"])
        elif event.type.startswith("guard.threshold_") and (judged := recorded_memory.asked(event)) is not None:
            found.limit = judged.observed.configured_bytes
        elif event.type == "paging.planned" and (asked := plans.asked(event)) is not None:
            found.limit = asked.account.configured or asked.account.limit
            found.others = asked.account.others
            for line in asked.account.lines:
                one = found.models.setdefault(line.model, Weights(line.model))
                if len(line.layers) > len(one.layers) or sum(line.layers) > sum(one.layers):
                    one.layers = line.layers
                _note_working(line, busy, idle)
    for name, one in found.models.items():
        one.idle = int(median(idle[name])) if name in idle else 0
        if name in busy:
            one.busy = max(int(median(busy[name])) - one.idle, 0)
            one.most = max(*busy[name], one.idle) - one.idle


def _note_working(line: Line, busy: dict[str, list[int]], idle: dict[str, list[int]]) -> None:
    if line.busy and line.kv:
        # What a layer takes while it grows goes with the KV, and is counted with that.
        grown = line.kv // max(len(line.layers) - 1, 1)
        busy.setdefault(line.model, []).append(max(line.working - grown - LEAST_KEPT, 0))
    elif not line.busy and not line.spare:
        # With something to spare it holds what it has not given back yet.
        idle.setdefault(line.model, []).append(line.working)


def _read_residency(found: Machine, events: Iterable[Recorded], base_us: int) -> None:
    for event in events:
        one = found.models.get(event.model or "")
        if one is None:
            continue
        data, at_s = event.data, (event.time_us - base_us) / 1e6
        if event.type == "model.load_started" and data["reason"] == _CONFIGURED and at_s >= 0:
            found.tries.append((at_s, one.model))
        elif event.type == "model.unloaded" and data["reason"] in _GONE and at_s >= 0:
            found.gone.append((at_s, one.model))
        if event.type in {"model.pinned", "model.unpinned"}:
            one.pinned = event.type == "model.pinned"
        if at_s >= 0:
            continue
        match event.type:
            case "model.loaded":
                one.there, one.out = True, 0
            case "model.unloaded" | "model.load_failed":
                one.there, one.out = False, 0
            case "paging.in_finished" if data.get("error") is None:
                one.out = 0
            case "paging.out_finished" if data.get("resident_bytes") is not None:
                one.out = _layers_out(one.layers, data["resident_bytes"])


def _layers_out(layers: Sequence[int], resident: int) -> int:
    left, out = sum(layers), 0
    while left > resident and out < len(layers):
        left, out = left - layers[out], out + 1
    return out


def _move(events: Iterable[Recorded], way: str, found: Machine) -> Move:
    """From when it is told to when it is done; what the bytes themselves take the worker has measured."""
    began: dict[str, int] = {}
    size, took_ms, around = 0, 0.0, list[float]()
    for event in events:
        model = event.model or ""
        if event.type == f"paging.{way}_started":
            began[model] = event.time_us
        elif event.type == f"paging.{way}_finished" and event.data.get("error") is None and model in began:
            size += event.data["bytes"]
            took_ms += event.data["ms"]
            around.append(max((event.time_us - began.pop(model)) / 1e6 - event.data["ms"] / 1e3, 0.0))
    if size:
        return Move(median(around), took_ms / 1e3 / size)
    loads = [(one.load_s, sum(one.layers)) for one in found.models.values() if one.load_s and one.layers]
    if way == "out" or not loads:
        return Move()
    # A load reads them, too, and does more: it takes no less.
    return Move(0.0, math.fsum(s for s, _ in loads) / sum(size for _, size in loads))


def _lowered(events: Iterable[Recorded], base_us: int) -> Iterator[tuple[float, int]]:
    for event in events:
        if event.type.startswith("guard.threshold_") and event.data["name"] == _LIMIT:
            asked = recorded_memory.asked(event)
            if asked is not None:
                by = asked.observed.configured_bytes - event.data["to_bytes"]
                yield (event.time_us - base_us) / 1e6, max(by, 0)


def _alerts(events: Iterable[Recorded], base_us: int) -> Iterator[Alert]:
    for event in events:
        data = event.data
        if event.type in {"slo.burn_alerted", "slo.burn_cleared"} and data["severity"] == "page":
            yield Alert(
                (event.time_us - base_us) / 1e6,
                event.type == "slo.burn_alerted",
                data["objective"],
                event.model,
                data["long"],
                data.get("long_burn", 0.0),
                data["factor"],
            )
