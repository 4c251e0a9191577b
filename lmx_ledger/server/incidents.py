"""The operators' routes for incidents."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from quart import Blueprint, Response, request

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import utc_us
from lmx_ledger.core.errors import Conflict, InvalidRequest
from lmx_ledger.incident.account import distrust, openers, told, told_timeline, window
from lmx_ledger.incident.bundle.form import BadBundle, file_name
from lmx_ledger.incident.bundle.write import bundle
from lmx_ledger.incident.state import STATUSES, Incident
from lmx_ledger.ledger.heads import key_of
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.report.apart import NotMade
from lmx_ledger.report.from_ledger import FORMS
from lmx_ledger.report.postmortem_apart import postmortem_apart
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import asked, json_of, moment, unavailable


def blueprint(context: Context) -> Blueprint:
    """`/lmx/incidents`, and of each what it was, its timeline, and that somebody saw it or is done with it."""
    face = Blueprint("incidents", __name__)
    turn = asyncio.Lock()

    @face.get("/lmx/incidents")
    async def incidents() -> Response:
        for name in request.args:
            if name not in {"status", "since"}:
                raise InvalidRequest(f"{name!r} is no filter; there are status and since", param=name)
        statuses = request.args.getlist("status")
        for status in statuses:
            if status not in STATUSES:
                raise InvalidRequest(f"status is one of {', '.join(STATUSES)}", param="status")
        since_us = moment("since", request.args["since"]) if "since" in request.args else 0
        try:
            state = await context.incidents.state()
        except LedgerError as error:
            raise unavailable(error) from error
        return json_of({"incidents": [one.public() for one in state.all() if one.matches(statuses, since_us)]})

    @face.get("/lmx/incidents/<name>")
    async def one(name: str) -> Response:
        return json_of(await asked(_told, context, await _find(context, name)))

    @face.get("/lmx/incidents/<name>/timeline")
    async def line(name: str) -> Response:
        return json_of(await asked(_timeline, context, await _find(context, name)))

    @face.get("/lmx/incidents/<name>/report")
    async def report(name: str) -> Response:
        form = request.args.get("format", "md")
        if form not in FORMS:
            raise InvalidRequest(f"format is one of {', '.join(FORMS)}", param="format")
        incident = await _find(context, name)
        try:
            # Of several that ask one after the other is answered, on no more than one core.
            async with turn:
                body = await postmortem_apart(context.ledger.path, incident.id, utc_us(), form)
        except NotMade as error:
            raise unavailable(error) from error
        return Response(body, content_type=FORMS[form])

    @face.get("/lmx/incidents/<name>/bundle")
    async def bundled(name: str) -> Response:
        incident = await _find(context, name)
        body = await asked(_bundle, context, incident.id)
        named = {"Content-Disposition": f'attachment; filename="{file_name(incident.id)}"'}
        return Response(body, content_type="application/gzip", headers=named)

    @face.post("/lmx/incidents/<name>/ack")
    async def acknowledge(name: str) -> Response:
        return await _ordered(context, name, "incidents.ack", context.incidents.acknowledge)

    @face.post("/lmx/incidents/<name>/close")
    async def close(name: str) -> Response:
        return await _ordered(context, name, "incidents.close", context.incidents.close)

    return face


async def _ordered(
    context: Context, name: str, command: str, act: Callable[[str, ev.Cause], Awaitable[Incident]]
) -> Response:
    incident = await _find(context, name)
    commanded = ev.OperatorCommanded(command=command, arguments={"incident": incident.id}, via="http")
    order = ev.Event(data=commanded, stream=f"incident:{incident.id}", incident=incident.id)
    seq = await context.ledger.commit(order)
    return json_of((await act(incident.id, seq)).public())


async def _find(context: Context, name: str) -> Incident:
    try:
        return await context.incidents.find(name)
    except LedgerError as error:
        raise unavailable(error) from error


def _bundle(context: Context, incident_id: str) -> bytes:
    ledger = context.ledger.path
    try:
        key = key_of(ledger, make=True)
    except LedgerError as error:
        raise Conflict(str(error)) from None
    try:
        return bundle(ledger, context.reader, incident_id, key)
    except BadBundle as error:
        raise Conflict(str(error)) from None


def _told(context: Context, incident: Incident) -> dict[str, Any]:
    ledger, reader = context.ledger.path, context.reader
    found = window(ledger, reader, incident, utc_us())
    return told(incident, found, openers(ledger, reader, incident, found), distrust(reader, walk=False))


def _timeline(context: Context, incident: Incident) -> dict[str, Any]:
    reader = context.reader
    return told_timeline(
        incident, window(context.ledger.path, reader, incident, utc_us()), distrust(reader, walk=False)
    )
