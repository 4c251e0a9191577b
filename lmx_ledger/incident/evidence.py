"""What the ledger knows about one request: its own events, their causes, and what happened around it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.ids import request_id_of
from lmx_ledger.ledger.causes import causes_of, event_at
from lmx_ledger.ledger.filter import EventFilter

ENDS: Final = ("request.finished", "request.failed", "request.cancelled", "request.rejected")
_STAYS: Final = ("request.received", "request.admitted", "request.first_token", *ENDS[:3])
_AROUND: Final = (
    "paging.*",
    "engine.exited",
    "engine.restarted",
    "model.*",
    "guard.*",
    "breaker.opened",
    "sensor.slept",
    "sensor.woke",
    "drill.started",
)
_STATES: Final = {
    "sensor.thermal_throttled": "sensor.thermal_recovered",
    "sensor.swap_thrash": "sensor.swap_recovered",
}
"""What begins that the whole machine suffers from, and what ends it."""
_BURNED_US: Final = 300_000_000
_BURNED: Final = 200
"""So long, and so many requests, before an alert: what they waited for is what burned."""
_LATER_US: Final = 900_000_000
"""So long after a request an incident may be found that had begun before it."""
_EARLIER_US: Final = 86_400_000_000
_TOOK_KV: Final = ("paging.planned", "kv.evicted", "engine.exited", "model.unloaded", "model.loaded", "kv.corrupt")
_LOST: Final = frozenset({"evicted", "paged", "corrupt", "model_changed", "template_changed", "format_changed"})
_MOST: Final = 1_000
_CHECKED: Final = 20_000
"""Events of which the chain of hashes is looked at, before and within the request."""


class Asked(Protocol):
    """The ledger: `Reader`."""

    def head(self) -> int:
        """The newest seq; 0 in an empty ledger."""

    def events(self, wanted: EventFilter) -> list[Recorded]:
        """At most `limit` events."""

    def broken_in(self, first: int, last: int) -> int | None:
        """The first of these events that is not as written."""


class Stay(NamedTuple):
    """Another request of the same model in the engine: from which event on, when its prompt was read, and its end.

    `read` and `ended` are None where that was not yet so; of what did not end `wall_ms` is None. `client` is what its
    program calls itself.
    """

    request: str
    admitted: int
    prompt_tokens: int
    read: int | None = None
    ended: int | None = None
    completion_tokens: int | None = None
    wall_ms: float | None = None
    session: str | None = None
    client: str | None = None


class Evidence(NamedTuple):
    """Of one request. `own` are its events; `chains` has the causes of some events by their seq, the first one first.

    `around` happened between its first and its last event, `before` since the last turn of its conversation, `outs`
    are the page-outs before its page-ins, `wants` is who wanted each plan, by the plan's seq. `suffered` is what the
    machine suffered from meanwhile. Of a refusal because of an alert `burned` is what the requests before that spent
    their time on (ms by part), and `slowest` the evidence of the slowest one. `incidents` are the `incident.opened` of
    those that it ran in. `state`: `ended`, `running`, or `lost` (the daemon ended without a word, or was stopped).
    `broken_at`: the ledger is not as it was written from there on.
    """

    request: str
    own: Sequence[Recorded]
    chains: Mapping[int, Sequence[Recorded]] = MappingProxyType({})
    around: Sequence[Recorded] = ()
    others: Sequence[Stay] = ()
    before: Sequence[Recorded] = ()
    outs: Sequence[Recorded] = ()
    wants: Mapping[int, Recorded] = MappingProxyType({})
    ceiling: Recorded | None = None
    suffered: Sequence[Recorded] = ()
    burned: Mapping[str, float] = MappingProxyType({})
    slowest: "Evidence | None" = None
    incidents: Sequence[Recorded] = ()
    state: str = "ended"
    broken_at: int | None = None


def gather(ledger: Asked, any_id: str, is_alive: Callable[[int], bool], *, walk: bool = True) -> Evidence | None:
    """What there is of the request with that id, in any vendor's clothes; None where the ledger does not know it.

    `is_alive`: whether the process of that number runs; a daemon's is asked for where a request has no end. `walk`:
    look at the hashes of the events around it, which for many requests takes its time.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    request = request_id_of(any_id) or any_id
    own = ledger.events(EventFilter(request=request, limit=_MOST))
    own = [event for event in own if event.type.startswith(("request.", "kv."))]
    if not own:
        return None
    ended = any(event.type in ENDS for event in own)
    first, last = own[0].seq, own[-1].seq if ended else ledger.head()
    model = next((event.model for event in own if event.model is not None), None)
    found = ledger.events(EventFilter(types=_AROUND, after=first - 1, limit=_MOST))
    around = [event for event in found if event.seq <= last]
    around += _begun_before(ledger, own, model)
    outs = [out for event in around if (out := _out_before(ledger, event, model)) is not None]
    before = _since_last_turn(ledger, own)
    chains = {}
    for event in _worth_following(own, around, outs, before):
        chains[event.seq] = causes_of(ledger, event)
    plans = {event.seq: event for group in (around, before, *chains.values()) for event in group}
    burned = _burned(ledger, chains.get(own[-1].seq, ()))
    slowest = max(burned, key=lambda one: (one.data["ttft_ms"] or 0.0, one.seq), default=None)
    return Evidence(
        request=request,
        own=own,
        chains=chains,
        around=sorted(around, key=lambda event: event.seq),
        others=[stay for stay in _others(ledger, model, last) if stay.request != request],
        before=before,
        outs=outs,
        wants=_wants(ledger, plans.values()),
        ceiling=_ceiling(ledger, own),
        burned=_spent(burned),
        slowest=gather(ledger, slowest.request, is_alive, walk=False)
        if slowest is not None and slowest.request
        else None,
        suffered=_suffered(ledger, own[0], last),
        incidents=_incidents(ledger, own, model),
        state="ended" if ended else _state(ledger, own[0].boot, is_alive),
        broken_at=ledger.broken_in(max(first - _CHECKED // 2, 1), min(last, first + _CHECKED // 2)) if walk else None,
    )


def stays(events: Iterable[Recorded]) -> list[Stay]:
    """Who was in the engine, from a model's events, oldest first; whose admission is not among them is left out."""
    found: dict[str, Stay] = {}
    clients: dict[str, str | None] = {}
    for event in events:
        request = event.request or ""
        if event.type == "request.received":
            clients[request] = event.data["client"]
        elif event.type == "request.admitted":
            came = Stay(
                request, event.seq, event.data["prompt_tokens"], session=event.session, client=clients.get(request)
            )
            found.setdefault(request, came)
        elif request in found and event.type == "request.first_token":
            found[request] = found[request]._replace(read=event.seq)
        elif request in found:
            data = event.data
            found[request] = found[request]._replace(
                ended=event.seq, completion_tokens=data["completion_tokens"], wall_ms=data["wall_ms"]
            )
    return list(found.values())


def _others(ledger: Asked, model: str | None, last: int) -> list[Stay]:
    if model is None:
        return []
    wanted = EventFilter(types=_STAYS, model=model, order="desc", after=last + 1, limit=_MOST)
    return stays(reversed(ledger.events(wanted)))


def _begun_before(ledger: Asked, own: Sequence[Recorded], model: str | None) -> list[Recorded]:
    """A load, a page-in or a plan that may have been under way when it came: the last of each."""
    before = EventFilter(after=own[0].seq, order="desc", limit=1)
    found = []
    if model is not None:
        for kind in ("model.load_started", "paging.in_started"):
            found += ledger.events(replace(before, types=(kind,), model=model))
    for plan in ledger.events(replace(before, types=("paging.planned",))):
        if model in {plan.model, *(step[1] for step in plan.data.get("steps") or ()), *plan.data["victims"]}:
            found.append(plan)
    return found


def _out_before(ledger: Asked, event: Recorded, model: str | None) -> Recorded | None:
    if event.type != "paging.in_started" or event.model != model:
        return None
    wanted = EventFilter(types=("paging.out_finished",), model=model, after=event.seq, order="desc", limit=1)
    return next(iter(ledger.events(wanted)), None)


def _since_last_turn(ledger: Asked, own: Sequence[Recorded]) -> list[Recorded]:
    """What may have taken the KV that was missed."""
    missed = next((event for event in own if event.type == "kv.missed"), None)
    if missed is None or missed.data["reason"] not in _LOST or missed.session is None:
        return []
    turn = EventFilter(session=missed.session, after=own[0].seq, order="desc", limit=1)
    since = next((event.seq for event in ledger.events(turn)), 0)
    newest = ledger.events(EventFilter(types=_TOOK_KV, after=missed.seq, order="desc", limit=200))
    return [
        event
        for event in reversed(newest)
        if event.seq > since
        and (_has_gone(event, missed.model) if event.type == "paging.planned" else event.model == missed.model)
    ]


def _has_gone(event: Recorded, model: str | None) -> bool:
    """Whether a plan has KV of that model go."""
    return any(step[0] == "kept" and step[1] == model for step in event.data.get("steps") or ())


def _worth_following(*groups: Sequence[Recorded]) -> list[Recorded]:
    """Events that somebody else caused, as far as they tell of this request."""
    wanted = {
        "kv.missed",
        "request.rejected",
        "request.resumed",
        "request.failed",
        "request.degraded",
        "paging.planned",
        "paging.out_finished",
        "model.load_started",
        "engine.exited",
        "kv.evicted",
    }
    return [event for group in groups for event in group if event.type in wanted and event.cause is not None][:100]


def _wants(ledger: Asked, events: Iterable[Recorded]) -> dict[int, Recorded]:
    found = {}
    for plan in events:
        wanted_by = plan.data.get("wanted_by")
        if plan.type == "paging.planned" and wanted_by and (asked := event_at(ledger, wanted_by)) is not None:
            found[plan.seq] = asked
    return found


def _ceiling(ledger: Asked, own: Sequence[Recorded]) -> Recorded | None:
    """The last word on how long prompts and answers may be, where one was too long."""
    if not any(event.type in {"request.degraded", "request.rejected"} for event in own):
        return None
    wanted = EventFilter(types=("guard.context_ceiling_changed",), after=own[-1].seq, order="desc", limit=1)
    return next(iter(ledger.events(wanted)), None)


def _suffered(ledger: Asked, first: Recorded, last: int) -> list[Recorded]:
    """Heat and swapping that lasted when it came, or began before its end, in that run."""
    found = []
    for begins, ends in _STATES.items():
        newest = EventFilter(types=(begins, ends), boot=first.boot, after=last + 1, order="desc", limit=2)
        for event in ledger.events(newest):
            # What began last may be over; that matters where it was so only after the request had come.
            if event.type == begins:
                found.append(event)
                break
            if event.seq < first.seq:
                break
    return found


def _burned(ledger: Asked, chain: Sequence[Recorded]) -> list[Recorded]:
    """Of an alert in the chain: the requests that had ended before it, the newest first."""
    alert = next((event for event in reversed(chain) if event.type == "slo.burn_alerted"), None)
    if alert is None:
        return []
    wanted = EventFilter(
        types=("request.finished",), model=alert.model, after=alert.seq, order="desc", limit=_BURNED,
        since_us=alert.time_us - _BURNED_US,
    )  # fmt: skip
    return ledger.events(wanted)


def _spent(ended: Iterable[Recorded]) -> dict[str, float]:
    spent: dict[str, float] = {}
    for event in ended:
        for part, took_ms in (event.data.get("parts_ms") or {}).items():
            spent[part] = spent.get(part, 0.0) + took_ms
    return spent


def _incidents(ledger: Asked, own: Sequence[Recorded], model: str | None) -> list[Recorded]:
    """The newest one last; those that were part of another one are not told of."""
    first_us, last_us = own[0].time_us, own[-1].time_us
    window = EventFilter(
        types=("incident.*",), since_us=first_us - _EARLIER_US, until_us=last_us + _LATER_US, limit=_MOST
    )
    open_ones: dict[str, Recorded] = {}
    for event in ledger.events(window):
        name, data = event.incident or "", event.data
        match event.type:
            case "incident.opened":
                began_us = parse_rfc3339(data["started_at"])
                if began_us <= last_us and (not data["models"] or model is None or model in data["models"]):
                    open_ones[name] = event
            case "incident.merged" if data["merged"]:
                open_ones.pop(data["merged"], None)
            case "incident.mitigated" if parse_rfc3339(data["at"]) < first_us:
                open_ones.pop(name, None)
            case "incident.closed" if event.time_us < first_us:
                open_ones.pop(name, None)
    return list(open_ones.values())


def _state(ledger: Asked, boot: str, is_alive: Callable[[int], bool]) -> str:
    if ledger.events(EventFilter(types=("daemon.stopped",), boot=boot, limit=1)):
        return "lost"
    started = ledger.events(EventFilter(types=("daemon.started",), boot=boot, limit=1))
    return "running" if started and is_alive(started[0].data["pid"]) else "lost"
