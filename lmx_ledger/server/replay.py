"""`POST /lmx/replay`: what would have been decided under other rules."""

from typing import Annotated

import msgspec
from quart import Blueprint, Response, request

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.errors import InvalidRequest
from lmx_ledger.incident.replayed import replay
from lmx_ledger.incident.rules import BadRule
from lmx_ledger.ledger.history import Whole
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import asked, json_of, moment
from lmx_ledger.server.reading import read_json, typed

_HOUR = "1h"


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """`since` and `until` are a duration back from now, or a time; `set` has keys of the configuration and values."""

    since: str = _HOUR
    until: str | None = None
    set: Annotated[dict[str, str], msgspec.Meta(max_length=32)] = {}


def blueprint(context: Context) -> Blueprint:
    """The route."""
    face = Blueprint("replay", __name__)

    @face.post("/lmx/replay")
    async def replayed() -> Response:
        order = typed(await read_json(request, context.config.server), Order)
        since_us = moment("since", order.since)
        until_us = utc_us() if order.until is None else moment("until", order.until)
        try:
            found = await asked(replay, Whole(context.ledger.path, context.reader), since_us, until_us, order.set)
        except BadRule as error:
            raise InvalidRequest(str(error), param="set") from None
        return json_of(found.public())

    return face
