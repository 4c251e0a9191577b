"""The operators' routes for what is in memory: `/lmx/memory`, and orders to load, unload, pin and page models."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from quart import Blueprint, Response, request

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import ModelNotFound
from lmx_ledger.server.context import Context
from lmx_ledger.server.operator import json_of
from lmx_ledger.server.reading import read_json, typed
from lmx_ledger.serving.models import ServedModel

_Order = Callable[[ServedModel, ev.Cause], Awaitable[None]]


class _Named(msgspec.Struct):
    model: str


class _PageOut(msgspec.Struct):
    """`bytes`: at least so many; 0: all."""

    model: str
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


def blueprint(context: Context) -> Blueprint:
    """`/lmx/memory` and `/lmx/models/...`."""
    face = Blueprint("residency", __name__)
    keeping = context.residency

    async def pin(model: ServedModel, cause: ev.Cause) -> None:
        await keeping.pin(model, cause, pinned=True)

    async def unpin(model: ServedModel, cause: ev.Cause) -> None:
        await keeping.pin(model, cause, pinned=False)

    orders: Final[dict[str, _Order]] = {
        "load": keeping.load,
        "unload": keeping.unload,
        "reload": keeping.reload,
        "pin": pin,
        "unpin": unpin,
    }

    @face.get("/lmx/memory")
    async def memory() -> Response:
        return json_of(context.memory.public())

    @face.post("/lmx/models/page-out")
    async def page_out() -> Response:
        order = typed(await read_json(request, context.config.server), _PageOut)
        model = await _known(context, order.model)
        seq = await _commanded(context, model, "page-out", {"bytes": order.bytes})
        moved = await context.paging.page_out(model, order.bytes, seq)
        return json_of(
            {
                "model": model.public(),
                "layers": moved.layers,
                "bytes": moved.bytes,
                "written_bytes": moved.written_bytes,
                "ms": round(moved.ms, 3),
            }
        )

    for name, carry_out in orders.items():
        face.post(f"/lmx/models/{name}", endpoint=name)(_route(context, name, carry_out))
    return face


def _route(context: Context, name: str, carry_out: _Order) -> Callable[[], Awaitable[Response]]:
    async def route() -> Response:
        order = typed(await read_json(request, context.config.server), _Named)
        model = await _known(context, order.model)
        await carry_out(model, await _commanded(context, model, name, {}))
        return json_of({"model": model.public()})

    return route


async def _known(context: Context, name: str) -> ServedModel:
    """One of the table, or of the store.

    Raises:
        ModelNotFound: there is none of that name.
    """
    serving = context.serving
    try:
        return serving.models.find(name)
    except ModelNotFound:
        taken = await serving.shelf.take(name) if serving.shelf is not None else None
        if taken is None:
            raise
        return taken


async def _commanded(context: Context, model: ServedModel, order: str, more: dict[str, Any]) -> int | None:
    data = ev.OperatorCommanded(command=f"models.{order}", arguments={"model": model.id, **more}, via="http")
    return await context.ledger.commit(ev.Event(data=data, stream=f"model:{model.id}", model=model.id))
