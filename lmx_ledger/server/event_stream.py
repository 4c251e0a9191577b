"""`/lmx/events/stream`: events as they come, as Server-Sent Events whose id is the seq."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

import msgspec
from quart import Response, request

from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.core.errors import InvalidRequest
from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import PAGE, Follower
from lmx_ledger.ledger.store import LedgerError
from lmx_ledger.server.context import Context

_LOOK_EVERY_S: Final = 0.05
_LOOK_AT_FILE_EVERY_MS: Final = 500.0
"""For what another daemon of the same home wrote; this one's own events are seen at once."""
_HEARTBEAT_MS: Final = 15_000.0
_NOT_HERE: Final = ("order", "limit", "until")


async def event_stream(context: Context, wanted: EventFilter) -> Response:
    """The answer that never ends of itself. It begins behind `Last-Event-ID`, else `after`, else with what comes.

    Raises:
        InvalidRequest: a filter that a stream cannot have, or a Last-Event-ID that is no seq.
        LedgerError: the ledger cannot be read.
    """
    for name in _NOT_HERE:
        if name in request.args:
            raise InvalidRequest(f"a stream has no {name}: it goes on with what comes, oldest first", param=name)
    last = request.headers.get("Last-Event-ID")
    if last:
        if not (last.isascii() and last.isdigit() and len(last) <= 18):
            raise InvalidRequest("Last-Event-ID is the seq of the last event that was received", param="Last-Event-ID")
        wanted = replace(wanted, after=int(last))
    if wanted.after is None and wanted.since_us is None:
        seen = await asyncio.to_thread(context.reader.head)
    else:
        seen = wanted.after or 0
    response = Response(_frames(context, Follower(context.reader, wanted, seen)), content_type="text/event-stream")
    response.timeout = None
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def _frames(context: Context, follower: Follower) -> AsyncIterator[bytes]:
    # At once, so that the client learns that it is connected.
    yield b": lmx\n\n"
    told_ns = looked_ns = mono_ns()
    own_seq = follower.seen
    first, in_trouble = True, False
    stopping = False
    while not stopping:
        # Once more when the daemon stops: what it did last is of interest.
        stopping = context.daemon.state == "stopping"
        due = first or stopping or context.ledger.last_seq > own_seq or elapsed_ms(looked_ns) >= _LOOK_AT_FILE_EVERY_MS
        found: list[Recorded] = []
        if due:
            first, looked_ns, own_seq = False, mono_ns(), context.ledger.last_seq
            try:
                found = list(await asyncio.to_thread(follower.advance))
            except LedgerError as error:
                if not in_trouble:
                    yield f": {error}; waiting until it can be read\n\n".encode()
                in_trouble, told_ns = True, mono_ns()
            else:
                in_trouble = False
        if found:
            told_ns = mono_ns()
            yield b"".join(_frame(event) for event in found)
            # More than a page has come: on with the next one.
            first = len(found) == PAGE
            stopping = stopping and not first
            continue
        if elapsed_ms(told_ns) >= _HEARTBEAT_MS:
            told_ns = mono_ns()
            yield b": still here\n\n"
        await asyncio.sleep(_LOOK_EVERY_S)


def _frame(event: Recorded) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.type.encode(), msgspec.json.encode(event.public()))
