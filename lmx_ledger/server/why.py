"""`/lmx/why`: where the time of a request went, which ones were slow, and what that cost over a while."""

from datetime import datetime, tzinfo
from typing import Any, Final

import psutil
from quart import Blueprint, Response, request
from werkzeug.datastructures import MultiDict

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.errors import InvalidRequest, NotFound
from lmx_ledger.incident.costs import costs, events_since
from lmx_ledger.incident.evidence import gather
from lmx_ledger.incident.slowest import BY, last_ended, slowest
from lmx_ledger.incident.why import why
from lmx_ledger.ledger.query import Reader
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import asked, json_of, moment, number

_KNOWN: Final = ("last", "slowest", "since", "by")
_MOST: Final = 100
_COSTS_SINCE: Final = "7d"


def blueprint(context: Context) -> Blueprint:
    """The routes of explanations."""
    face = Blueprint("why", __name__)

    @face.get("/lmx/why")
    async def some() -> Response:
        _only(request.args, _KNOWN)
        if "slowest" in request.args:
            count = number("slowest", request.args["slowest"] or "10")
            if not 1 <= count <= _MOST:
                raise InvalidRequest(f"slowest goes from 1 to {_MOST}", param="slowest")
            by = request.args.get("by", "wall")
            if by not in BY:
                raise InvalidRequest(f"by is {' or '.join(BY)}", param="by")
            since_us = moment("since", request.args["since"]) if "since" in request.args else None
            rows = await asked(slowest, context.reader, count, since_us, by, psutil.pid_exists, here())
            return json_of({"slowest": rows, "by": by})
        if "last" not in request.args:
            raise InvalidRequest("name a request (/lmx/why/ID), or ask for ?last or ?slowest=10")
        newest = await asked(last_ended, context.reader)
        if newest is None:
            raise NotFound("no request has ended yet")
        return json_of(await asked(_explained, context.reader, newest))

    @face.get("/lmx/why/costs")
    async def dear() -> Response:
        _only(request.args, ("since",))
        since_us = moment("since", request.args.get("since", _COSTS_SINCE))
        told = await asked(lambda: costs(events_since(context.reader, since_us)))
        return json_of({"since": rfc3339(max(since_us, 0)), **told})

    @face.get("/lmx/why/<name>")
    async def one(name: str) -> Response:
        return json_of(await asked(_explained, context.reader, name))

    return face


def here() -> tzinfo:
    """The zone in which people beside this machine read a clock."""
    zone = datetime.now().astimezone().tzinfo
    assert zone is not None  # noqa: S101 - astimezone() gives one
    return zone


def _explained(reader: Reader, name: str) -> dict[str, Any]:
    evidence = gather(reader, name, psutil.pid_exists)
    if evidence is None:
        raise NotFound(f"there is no request {name[:100]!r} in the ledger; which there were: lmx why --slowest 10")
    return why(evidence, here()).public()


def _only(arguments: MultiDict[str, str], known: tuple[str, ...]) -> None:
    for name in arguments:
        if name not in known:
            raise InvalidRequest(f"{name!r} is not known here; there are {', '.join(known)}", param=name)
