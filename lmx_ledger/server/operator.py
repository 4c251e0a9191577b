"""The operators' routes under `/lmx`: never queued behind inference, never shed."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Literal, ParamSpec, TypeVar

import msgspec
from quart import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from lmx_ledger import __version__
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.errors import InvalidRequest, LedgerUnavailable, NotFound
from lmx_ledger.core.events import Severity
from lmx_ledger.core.reading import read_moment
from lmx_ledger.ledger.causes import causes_of, effects_of, event_at
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.server.context import Context
from lmx_ledger.server.event_stream import event_stream
from lmx_ledger.serving.status import NothingThen, public, status_at

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_EVENTS: Final = 1000
_DEFAULT_EVENTS: Final = 100
_MAX_EFFECTS: Final = 1000
_MAX_TYPES: Final = 100
_EXACT: Final = ("request", "session", "model", "incident", "boot")
_KNOWN: Final = {"type", "severity", "cause", "since", "until", "order", "after", "limit", *_EXACT}


def blueprint(context: Context) -> Blueprint:
    """`/lmx/status`, `/lmx/models`, `/lmx/slo`, `/lmx/events` and what belongs to it."""
    face = Blueprint("operator", __name__)

    @face.get("/lmx/status")
    async def status() -> Response:
        if "at" in request.args:
            return json_of(await asked(_status_at, context, request.args))
        return json_of(_status(context))

    @face.get("/lmx/models")
    async def models() -> Response:
        return json_of({"models": [model.public() for model in context.serving.models.all()]})

    @face.get("/lmx/guard")
    async def guard() -> Response:
        return json_of(context.guard.public())

    @face.get("/lmx/slo")
    async def slo() -> Response:
        try:
            await context.objectives.refresh()
        except LedgerError as error:
            raise unavailable(error) from error
        return json_of(context.objectives.public())

    @face.get("/lmx/events")
    async def events() -> Response:
        wanted = read_filter(request.args)
        found = await asked(context.reader.events, wanted)
        more = found[-1].seq if len(found) == wanted.limit else None
        return json_of({"events": [event.public() for event in found], "next": more})

    @face.get("/lmx/events/stream")
    async def stream() -> Response:
        wanted = read_filter(request.args)
        try:
            return await event_stream(context, wanted)
        except LedgerError as error:
            raise unavailable(error) from error

    @face.get("/lmx/events/<seq>")
    async def one_event(seq: str) -> Response:
        event = await asked(event_at, context.reader, number("seq", seq))
        if event is None:
            raise NotFound(f"there is no event {seq}; the newest one is {context.ledger.last_seq}")
        causes = await asked(causes_of, context.reader, event)
        effects = await asked(effects_of, context.reader, event, _MAX_EFFECTS)
        return json_of(
            {
                "event": event.public(),
                "causes": [cause.public() for cause in causes],
                "effects": [effect.public() for effect in effects],
            }
        )

    return face


async def asked(question: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What a question to the ledger's file gives, asked on another thread: a scan of it must not stop the streams.

    Raises:
        LedgerUnavailable: the file cannot be read.
    """
    try:
        return await asyncio.to_thread(question, *args, **kwargs)
    except LedgerError as error:
        raise unavailable(error) from error


def unavailable(error: LedgerError) -> LedgerUnavailable:
    """The ledger's trouble as an answer."""
    return LedgerUnavailable(f"{error}; look at the file with lmx doctor", retry_after_s=5)


def _status(context: Context) -> dict[str, Any]:
    serving, daemon = context.serving, context.daemon
    memory, guard = context.memory.public(), context.guard.public()
    return {
        "version": __version__,
        "boot": context.boot,
        "profile": "desktop",
        "port": context.config.server.port,
        "state": daemon.state,
        "stage": guard["stage"],
        "reasons": guard["reasons"],
        "safe_mode": guard["safe_mode"],
        "max_context_tokens": guard["max_context_tokens"],
        "drill": context.drills.public()["running"],
        "uptime_s": round(daemon.uptime_s, 3),
        "in_flight": serving.in_flight,
        "queued": serving.queued,
        "wait_s": round(max((model.queue.wait_s() for model in serving.models.all()), default=0.0), 3),
        "decode_tps": serving.rates.decode_tps,
        "prefill_tps": serving.rates.prefill_tps,
        "ttft_p95_ms": serving.rates.ttft_p95_ms,
        "itl_p95_ms": serving.rates.itl_p95_ms,
        "memory": {name: memory[name] for name in ("limit_bytes", "used_bytes", "used_fraction", "measured_bytes")},
        "models": [model.public() for model in serving.models.all()],
        "ledger": {
            "seq": context.ledger.last_seq,
            "queue": context.ledger.queue_depth,
            "lost": context.ledger.lost,
            "error": context.ledger.error,
        },
    }


def _status_at(context: Context, arguments: MultiDict[str, str]) -> dict[str, Any]:
    now_us = utc_us()
    port = number("port", arguments["port"]) if "port" in arguments else None
    snapshots = context.config.home / FILE
    try:
        return public(
            status_at(History(context.ledger.path, context.reader), snapshots, moment("at", arguments["at"]), now_us),
            port,
        )
    except NothingThen as nothing:
        raise InvalidRequest(str(nothing), param="at") from None


def read_filter(arguments: MultiDict[str, str]) -> EventFilter:
    """The query string of `/lmx/events` as a filter.

    Raises:
        InvalidRequest: a name that is no filter, or a value that cannot be one; `param` names it.
    """
    for name in arguments:
        if name not in _KNOWN:
            raise InvalidRequest(f"{name!r} is no filter; there are {', '.join(sorted(_KNOWN))}", param=name)
    values: dict[str, Any] = {"types": tuple(arguments.getlist("type"))}
    if len(values["types"]) > _MAX_TYPES:
        raise InvalidRequest(
            f"at most {_MAX_TYPES} types in one question; paging.* stands for all of a kind", param="type"
        )
    for name in _EXACT:
        if name in arguments:
            values[name] = arguments[name]
    for name in ("cause", "after", "limit"):
        if name in arguments:
            values[name] = number(name, arguments[name])
    for name in ("since", "until"):
        if name in arguments:
            values[f"{name}_us"] = moment(name, arguments[name])
    if "severity" in arguments:
        try:
            values["severity"] = Severity.parse(arguments["severity"])
        except ValueError as error:
            raise InvalidRequest(str(error), param="severity") from None
    order: Literal["asc", "desc"]
    match arguments.get("order", "asc"):
        case "asc":
            order = "asc"
        case "desc":
            order = "desc"
        case _:
            raise InvalidRequest("order is asc or desc", param="order")
    limit = values.pop("limit", _DEFAULT_EVENTS)
    if not 1 <= limit <= _MAX_EVENTS:
        raise InvalidRequest(f"limit goes from 1 to {_MAX_EVENTS}", param="limit")
    return EventFilter(**values, order=order, limit=limit)


def number(name: str, text: str) -> int:
    """A whole number of a query string.

    Raises:
        InvalidRequest: it is none; `param` names it.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest(f"{name} is a whole number", param=name)
    return int(text)


def moment(name: str, text: str) -> int:
    """Of an argument, a duration back from now or a time: microseconds.

    Raises:
        InvalidRequest: it is neither.
    """
    try:
        return read_moment(text, utc_us())
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", param=name) from None


def json_of(value: object) -> Response:
    """As JSON."""
    return Response(msgspec.json.encode(value), content_type="application/json")
