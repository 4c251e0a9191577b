"""`/lmx/sessions`: conversations, what is kept of them, what their misses cost, and how one is erased."""

import asyncio
from collections import defaultdict
from typing import Any, Final

from quart import Blueprint, Response, request

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import Conflict, InvalidRequest, NotFound
from lmx_ledger.engine.stream import EngineError
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.projection import FILE
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import asked, json_of, number
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.session.book import ERASED, Entry, entries
from lmx_ledger.session.files import erase_files
from lmx_ledger.session.report import shown, shown_totals, turns

_DEFAULT: Final = 100
_MOST: Final = 1_000

Place = tuple[str, str, str]
"""Model, fingerprint of its weights, form in which KV is kept."""


def blueprint(context: Context) -> Blueprint:
    """The routes of conversations."""
    face = Blueprint("sessions", __name__)

    @face.get("/lmx/sessions")
    async def sessions() -> Response:
        for name in request.args:
            if name not in {"limit", "model"}:
                raise InvalidRequest(f"{name!r} is no filter; there are limit and model", param=name)
        limit = number("limit", request.args.get("limit", str(_DEFAULT)))
        if not 1 <= limit <= _MOST:
            raise InvalidRequest(f"limit goes from 1 to {_MOST}", param="limit")
        model = request.args.get("model")
        known = [entry for entry in await _entries(context) if model in {None, entry.model}]
        rows = await _shown(context, known[:limit])
        return json_of({"sessions": rows, "count": len(known), "totals": shown_totals(known)})

    @face.get("/lmx/sessions/<path:name>")
    async def one(name: str) -> Response:
        known = await _entries(context, name)
        if not known:
            raise NotFound(_unknown(name))
        rows = await _shown(context, known)
        return json_of({"sessions": rows, "turns": await asked(turns, context.reader, name)})

    @face.delete("/lmx/sessions/<path:name>")
    async def erase(name: str) -> Response:
        return json_of(await _erase(context, name))

    return face


def _unknown(name: str) -> str:
    return f"there is no session {name[:200]!r}; the known ones: lmx sessions list"


async def _entries(context: Context, session: str | None = None) -> list[Entry]:
    history = History(context.ledger.path, context.reader)
    return await asked(entries, context.config.home / FILE, history, session=session)


async def _shown(context: Context, known: list[Entry]) -> list[dict[str, Any]]:
    """With their bytes, where the model's worker can be asked."""
    extents: dict[int, tuple[int, int]] = {}
    for model in context.serving.models.all():
        mine = [(n, entry) for n, entry in enumerate(known) if entry.model == model.id]
        worker = model.worker
        if not mine or worker is None or model.kv is None:
            continue
        try:
            ends = [[bytes.fromhex(end.end) for end in entry.ends if end.form == model.kv.form] for _, entry in mine]
            measured = await worker.measure_kv(ends)
        except EngineError:
            # It is being replaced: then nobody can say just now.
            continue
        extents |= {n: extent for (n, _), extent in zip(mine, measured, strict=True)}
    busy = context.serving.sessions.busy
    return [shown(entry, extents.get(n), in_flight=busy(entry.session)) for n, entry in enumerate(known)]


async def _erase(context: Context, name: str) -> dict[str, Any]:
    """Overwrite and forget what is kept of a conversation; what others begin with as well stays."""
    table = context.serving.sessions
    known = await _entries(context, name)
    heads = table.heads(name)
    if not known and not heads:
        raise NotFound(_unknown(name))
    if table.busy(name):
        raise Conflict(f"session {name!r} has a request in flight; erase it when that has ended")
    ends: defaultdict[Place, set[bytes]] = defaultdict(set)
    for entry in known:
        for end in entry.ends:
            ends[entry.model, end.fingerprint, end.form].add(bytes.fromhex(end.end))
    for model, head in heads:
        if head.end:
            ends[model, head.place.fingerprint, head.place.form].add(head.end)
    order = await context.ledger.commit(
        ev.Event(
            data=ev.OperatorCommanded(command="sessions.rm", arguments={"session": name}, via="http"),
            stream=f"session:{name}",
            session=name,
        )
    )
    bytes_of: defaultdict[str, int] = defaultdict(int)
    for place, names in ends.items():
        bytes_of[place[0]] += await _erase_at(context, place, list(names))
    for model in {entry.model for entry in known} | {model for model, _ in heads}:
        pieces = sum(len(names) for (of, *_), names in ends.items() if of == model)
        gone = ev.KvEvicted(pieces=pieces, bytes=bytes_of[model], reason=ERASED)
        event = ev.Event(data=gone, stream=f"session:{name}", session=name, model=model, cause=order)
        await context.ledger.commit(event)
    table.forget(name)
    return {"id": name, "erased_bytes": sum(bytes_of.values())}


async def _erase_at(context: Context, place: Place, ends: list[bytes]) -> int:
    _, fingerprint, form = place
    try:
        for model in context.serving.models.all():
            if _has(model, fingerprint, form) and model.worker is not None:
                return await model.worker.erase_kv(ends)
        return await asyncio.to_thread(erase_files, context.config.home, fingerprint, form, ends)
    except BlockingIOError:
        raise Conflict("another process has these files; erase the session there, or stop that one first") from None
    except (OSError, EngineError) as error:
        raise Conflict(f"nothing more was erased; try again when this is mended: {error}") from None


def _has(model: ServedModel, fingerprint: str, form: str) -> bool:
    return model.fingerprint == fingerprint and model.kv is not None and model.kv.form == form
