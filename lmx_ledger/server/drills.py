"""The operators' route for rehearsals."""

import msgspec
from quart import Blueprint, Response, request

from lmx_ledger.core import events as ev
from lmx_ledger.server.context import Context, DrillOrder
from lmx_ledger.server.operator import json_of
from lmx_ledger.server.reading import read_json, typed

_STOP = "stop"


def blueprint(context: Context) -> Blueprint:
    """`/lmx/drills`: GET what goes on, POST `{kind, for_s, ...}` to begin, `{kind: "stop"}` to end."""
    face = Blueprint("drills", __name__)

    @face.get("/lmx/drills")
    async def drills() -> Response:
        return json_of(context.drills.public())

    @face.post("/lmx/drills")
    async def begin() -> Response:
        order = typed(await read_json(request, context.config.server), DrillOrder)
        asked = {name: value for name, value in msgspec.structs.asdict(order).items() if value is not None}
        commanded = ev.OperatorCommanded(command="drill", arguments=asked, via="http")
        seq = await context.ledger.commit(ev.Event(data=commanded, stream="drill"))
        if order.kind == _STOP:
            await context.drills.stop()
        else:
            await context.drills.start(order, seq)
        return json_of(context.drills.public())

    return face
