"""The status of a run as its events tell it: what `lmx serve status --at` shows, of any moment, without a daemon."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.clock import parse_rfc3339, rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.fold import PerBoot, Runs, state_at
from lmx_ledger.ledger.follow import Asked
from lmx_ledger.serving.rates import percentile_95

_RECENT: Final = 256
"""As many requests as the rates of a live status page look back."""
_ENDED: Final = {"request.finished", "request.failed", "request.rejected", "request.cancelled"}
_STATES: Final = {
    "daemon.ready": "running",
    "daemon.draining": "draining",
    "daemon.drained": "stopping",
    "daemon.stopped": "stopped",
    "daemon.crash_detected": "crashed",
}


class ModelAt(msgspec.Struct, frozen=True):
    """A model of the run, in the words of `/lmx/models`."""

    id: str
    state: str
    path: str = ""
    failure: str | None = None
    weights_bytes: int = 0
    resident_bytes: int = 0
    context: int = 0
    last_used_us: int | None = None


class RequestAt(msgspec.Struct, frozen=True):
    """A request that has not ended: of which model, and where; `streams` are its choices in the engine."""

    model: str | None
    queued: bool = False
    streams: int = 0
    prompt_tokens: int = 0


class FirstToken(msgspec.Struct, frozen=True, array_like=True):
    """What the rates are made of."""

    ttft_ms: float
    prefill_ms: float
    prompt_tokens: int


class RunAt(msgspec.Struct, frozen=True):
    """One run. Sizes in bytes, moments in microseconds since the epoch.

    Of a run whose start was sealed away, the state is `unknown` and so is what only its start tells.
    """

    state: str = "unknown"
    version: str = ""
    pid: int | None = None
    host: str = ""
    port: int | None = None
    started_us: int | None = None
    ended_us: int | None = None
    models: dict[str, ModelAt] = {}
    requests: dict[str, RequestAt] = {}
    first_tokens: tuple[FirstToken, ...] = ()


class StatusFold:
    """See `ledger.fold.RunFold`."""

    name: Final = "status"
    version: Final = 2
    types: Final = ("daemon.*", "model.*", "engine.exited", "request.*", "paging.*")
    state: Final = RunAt

    def initial(self, before: RunAt | None) -> RunAt:  # noqa: ARG002 - a run begins with nothing
        """A run of which nothing is known yet."""
        return RunAt()

    def evolve(self, state: RunAt, event: Recorded) -> RunAt:
        """After one more event."""
        kind = event.type
        if kind.startswith("request."):
            return _with_request(state, event)
        if event.model is not None:
            return _with_model(state, event, event.model)
        data = event.data
        if kind == "daemon.started":
            return msgspec.structs.replace(
                state,
                state="starting",
                version=data["version"],
                pid=data["pid"],
                host=data["host"],
                port=data["port"],
                started_us=event.time_us,
            )
        if kind not in _STATES:
            return state
        if kind in {"daemon.stopped", "daemon.crash_detected"}:
            return msgspec.structs.replace(state, state=_STATES[kind], ended_us=_end_us(event), requests={})
        return msgspec.structs.replace(state, state=_STATES[kind])


def status_projection() -> PerBoot[RunAt]:
    """The fold of every run's status."""
    return PerBoot(StatusFold())


def _end_us(event: Recorded) -> int:
    """A crash is detected by the next start; the run ended with its last event."""
    try:
        return parse_rfc3339(event.data.get("last_time", ""))
    except ValueError:
        return event.time_us


def _with_request(state: RunAt, event: Recorded) -> RunAt:
    kind, request, data = event.type, event.request, event.data
    if request is None:
        return state
    known = state.requests.get(request)
    if kind in _ENDED:
        if known is None:
            return state
        rest = {other: at for other, at in state.requests.items() if other != request}
        return msgspec.structs.replace(state, requests=rest)
    if known is None and kind != "request.received":
        return state
    now = known or RequestAt(event.model)
    if kind == "request.queued":
        now = RequestAt(now.model, queued=True)
    elif kind == "request.admitted":
        now = RequestAt(now.model, streams=data["choices"], prompt_tokens=data["prompt_tokens"])
        if (model := state.models.get(event.model or "")) is not None:
            used = msgspec.structs.replace(model, last_used_us=event.time_us)
            state = msgspec.structs.replace(state, models={**state.models, model.id: used})
    elif kind == "request.first_token":
        first = FirstToken(data["ttft_ms"], data["prefill_ms"], now.prompt_tokens)
        state = msgspec.structs.replace(state, first_tokens=(*state.first_tokens[1 - _RECENT :], first))
    if now is known:
        return state
    return msgspec.structs.replace(state, requests={**state.requests, request: now})


def _with_model(state: RunAt, event: Recorded, name: str) -> RunAt:
    before = state.models.get(name) or ModelAt(name, "unloaded")
    data = event.data
    match event.type:
        case "model.load_started":
            now = msgspec.structs.replace(before, state="loading", path=data["path"])
        case "model.loaded":
            now = msgspec.structs.replace(
                before,
                state="resident",
                failure=None,
                weights_bytes=data["weights_bytes"],
                resident_bytes=data["weights_bytes"],
                context=data["context"],
            )
        case "paging.out_finished" if data["resident_bytes"] is not None:
            left = data["resident_bytes"]
            out = "resident" if left == before.weights_bytes else "partly_paged" if left else "paged"
            now = msgspec.structs.replace(before, state=out, resident_bytes=left)
        case "paging.in_finished" if data["error"] is None:
            now = msgspec.structs.replace(before, state="resident", resident_bytes=before.weights_bytes)
        case "model.load_failed":
            now = msgspec.structs.replace(
                before, state="failed", failure=data["error"], path=data["path"], resident_bytes=0
            )
        case "model.unloaded":
            now = msgspec.structs.replace(before, state="unloaded", resident_bytes=0)
        case "engine.exited" if not data["expected"]:
            now = msgspec.structs.replace(before, state="loading", resident_bytes=0)
        case _:
            return state
    return msgspec.structs.replace(state, models={**state.models, name: now})


class NothingThen(Exception):
    """The ledger tells nothing of that moment; the message is one line that says why and what to ask instead."""


class Seen(NamedTuple):
    """Every run as of a moment, and the last event before it."""

    at_us: int
    event: Recorded
    runs: Runs[RunAt]


def status_at(ledger: Asked, snapshots: Path, at_us: int, now_us: int) -> Seen:
    """Every run as of that moment, folded from the nearest snapshot in the projections file.

    Raises:
        NothingThen: the moment is in the future, or before the first event, or there is no event at all.
        LedgerError: the ledger cannot be read.
    """
    if at_us > now_us:
        raise NothingThen("that moment is in the future, where nothing has happened yet; without --at: as it is now")
    last = ledger.events(EventFilter(until_us=at_us + 1, order="desc", limit=1))
    if not last:
        first = ledger.events(EventFilter(limit=1))
        if not first:
            raise NothingThen("the ledger is empty: no daemon has written to it yet; start one with: lmx serve start")
        seq, began = first[0].seq, rfc3339(first[0].time_us)
        archived = "" if seq == 1 else "; what was before is sealed away, lmx ledger export reads it"
        raise NothingThen(f"that moment is before the first event: {seq}, at {began}{archived}")
    return Seen(at_us, last[0], state_at(status_projection(), ledger, snapshots, last[0].seq))


def choose(runs: Runs[RunAt], port: int | None) -> tuple[str, RunAt] | None:
    """What a status page shows: the newest run that goes on, else the one that ended last; of that port, if given."""
    fitting = [(boot, run) for boot, run in runs.running.items() if port in {None, run.port}]
    if fitting:
        return fitting[-1]
    if runs.ended is not None and port in {None, runs.ended.port}:
        return runs.ended_boot, runs.ended
    return None


def public(seen: Seen, port: int | None) -> dict[str, Any]:
    """The form of `/lmx/status`, with `as_of`, the last `event` before it, and which `others` ran then.

    What events do not tell (decode speed, the memory limit) is null.

    Raises:
        NothingThen: no run of that port is known.
    """
    chosen = choose(seen.runs, port)
    if chosen is None:
        where = "" if port is None else f" on port {port}"
        raise NothingThen(f"no daemon had started{where} by {rfc3339(seen.at_us)}; lmx events shows what had happened")
    boot, run = chosen
    requests = list(run.requests.values())
    prefill_ms = sum(first.prefill_ms for first in run.first_tokens)
    prompt_tokens = sum(first.prompt_tokens for first in run.first_tokens)
    until_us = run.ended_us if run.ended_us is not None else seen.at_us
    weights = sum(model.resident_bytes for model in run.models.values())
    return {
        "as_of": rfc3339(seen.at_us),
        "event": {"seq": seen.event.seq, "time": rfc3339(seen.event.time_us)},
        "version": run.version,
        "boot": boot,
        "pid": run.pid,
        "host": run.host,
        "port": run.port,
        "state": run.state,
        "started": None if run.started_us is None else rfc3339(run.started_us),
        "ended": None if run.ended_us is None else rfc3339(run.ended_us),
        "uptime_s": None if run.started_us is None else round((until_us - run.started_us) / 1e6, 3),
        "in_flight": len(requests),
        "queued": sum(request.queued for request in requests),
        "decode_tps": None,
        "prefill_tps": round(prompt_tokens / (prefill_ms / 1e3), 1) if prefill_ms else None,
        "ttft_p95_ms": percentile_95([first.ttft_ms for first in run.first_tokens]),
        "memory": {"limit_bytes": None, "used_bytes": None, "weights_bytes": weights},
        "models": [_public_model(model, requests) for model in run.models.values()],
        "ledger": {"seq": seen.event.seq},
        "others": [
            {"boot": other, "port": at.port, "state": at.state}
            for other, at in seen.runs.running.items()
            if other != boot
        ],
    }


def _public_model(model: ModelAt, requests: list[RequestAt]) -> dict[str, Any]:
    own = [request for request in requests if request.model == model.id]
    return {
        "id": model.id,
        "aliases": [],
        "path": model.path,
        "state": model.state,
        "failure": model.failure,
        "weights_bytes": model.weights_bytes,
        "resident_bytes": model.resident_bytes,
        "in_flight": sum(request.streams for request in own),
        "waiting": sum(request.queued for request in own),
        "last_used": rfc3339(model.last_used_us) if model.last_used_us else None,
        "context": model.context,
    }
