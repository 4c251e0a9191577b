"""`POST /lmx/replay`: what would have been decided under other rules, and what would have followed, as an estimate."""

from typing import Annotated

import msgspec
from quart import Blueprint, Response, request

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.errors import InvalidRequest
from lmx_ledger.incident.replaying import answer
from lmx_ledger.incident.rules import BadRule
from lmx_ledger.incident.timeline import bounds
from lmx_ledger.ledger.history import Whole
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import asked, json_of, moment, unavailable
from lmx_ledger.server.reading import read_json, typed

_HOUR = "1h"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """`incident` is an id, a beginning of one, or `last`: then it is about its time. Without it, `since` and `until`
    are a duration back from now, or a time. `set` has keys of the configuration and values, `sweep` one key and many.
    """

    incident: str | None = None
    since: str | None = None
    until: str | None = None
    set: Annotated[dict[str, str], msgspec.Meta(max_length=32)] = {}
    sweep: str | None = None


def blueprint(context: Context) -> Blueprint:
    """The route."""
    face = Blueprint("replay", __name__)

    @face.post("/lmx/replay")
    async def replayed() -> Response:
        order = typed(await read_json(request, context.config.server), Order)
        since_us, until_us = await _time_of(context, order)
        ledger = Whole(context.ledger.path, context.reader)
        try:
            found = await asked(answer, ledger, since_us, until_us, order.set, order.sweep)
        except BadRule as error:
            raise InvalidRequest(str(error), param="set" if order.sweep is None else "sweep") from None
        return json_of(found.public())

    return face


async def _time_of(context: Context, order: Order) -> tuple[int, int]:
    now_us = utc_us()
    if order.incident is None:
        until_us = now_us if order.until is None else moment("until", order.until)
        return moment("since", order.since or _HOUR), until_us
    if order.since is not None or order.until is not None:
        raise InvalidRequest("an incident has its own time; leave since and until out", param="incident")
    try:
        return bounds(await context.incidents.find(order.incident), now_us)
    except LedgerError as error:
        raise unavailable(error) from error
