"""`/lmx/digest`: what the ledger says of a week."""

import asyncio
from typing import Final

from quart import Blueprint, Response, request

from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.errors import InvalidRequest
from lmx_ledger.core.week import read_period
from lmx_ledger.report.apart import NotMade
from lmx_ledger.report.digest.apart import digest_apart
from lmx_ledger.report.from_ledger import FORMS
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import unavailable

_KNOWN: Final = ("format", "week", "since", "until")


def blueprint(context: Context) -> Blueprint:
    """The route. Each is made in a process of its own, one after the other: two would take the worker's cores."""
    face = Blueprint("digest", __name__)
    turn = asyncio.Lock()

    @face.get("/lmx/digest")
    async def digest() -> Response:
        for name in request.args:
            if name not in _KNOWN:
                raise InvalidRequest(f"{name!r} is not known here; there are {', '.join(_KNOWN)}", param=name)
        form = request.args.get("format", "md")
        if form not in FORMS:
            raise InvalidRequest(f"format is one of {', '.join(FORMS)}", param="format")
        week, since, until = (request.args.get(name) for name in _KNOWN[1:])
        try:
            period = read_period(week, since, until, utc_us())
        except ValueError as error:
            raise InvalidRequest(str(error), param="since" if week is None else "week") from None
        try:
            async with turn:
                body = await digest_apart(context.ledger.path, period, form)
        except NotMade as error:
            raise unavailable(error) from error
        return Response(body, content_type=FORMS[form])

    return face
