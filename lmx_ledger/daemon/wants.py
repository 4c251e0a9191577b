"""Who waits for memory, and for what: read off the models, their lines and their streams."""

import asyncio
from typing import NamedTuple

from lmx_ledger.core import events as ev
from lmx_ledger.daemon.accounts import Accounts
from lmx_ledger.daemon.paging import Pager
from lmx_ledger.engine.protocol import first_room
from lmx_ledger.memory.holding import Holding
from lmx_ledger.memory.plan import Need
from lmx_ledger.serving.models import PAGED, ModelState, ModelTable, ServedModel
from lmx_ledger.serving.queue import Place


class Want(NamedTuple):
    """What somebody waits for: a load, weights to come back, or KV. `place` waits first; `since_s` says how long."""

    model: ServedModel
    reason: str
    need: Need
    since_s: float
    cause: ev.Cause
    place: Place | None = None


class Streams(NamedTuple):
    """Of a worker that died: what its successor goes on with, as in a `Holding`."""

    kv: dict[object, int]
    longest: dict[object, int]


class Load(NamedTuple):
    """Somebody waits to load a model of so many bytes. `patient`: only where that takes nothing from others."""

    weights: int
    streams: Streams
    patient: bool
    since_s: float
    cause: ev.Cause
    granted: "asyncio.Future[int | None]"


def read_wants(
    table: ModelTable, accounts: Accounts, pager: Pager, loads: dict[str, Load], growing: dict[Place, int]
) -> list[Want]:
    """What is waited for as things are: loads, then of each model what its line and its streams want."""
    wants = []
    for name, load in loads.items():
        model = next(model for model in table.all() if model.id == name)
        if not load.granted.done() and not (load.patient and _comes_behind(model, table, accounts, loads)):
            working, kv = Holding.working_of_load(load.weights), sum(load.streams.kv.values())
            need = Need(name, load.weights, kv, working, model.priority, patient=load.patient)
            wants.append(Want(model, "load", need, load.since_s, load.cause))
    for model in table.all():
        holding, head = accounts.holdings.get(model.id), model.queue.head
        if holding is None or pager.is_coming(model) or model.id in loads:
            continue
        since_s = max(head.since_s, model.queue.held_s or 0.0) if head is not None else 0.0
        if head is not None and model.state in PAGED:
            kv, longest = extent(holding, head)
            extra = max(holding.needs(kv, longest) + holding.out_bytes - holding.granted, 0)
            weights = min(holding.out_bytes, extra)
            wants.append(
                Want(
                    model,
                    "page_in",
                    Need(model.id, weights, extra - weights, 0, model.priority),
                    since_s,
                    head.cause,
                    head,
                )
            )
        elif head is not None and model.state is ModelState.RESIDENT and model.queue.has_slots(head):
            kv, longest = extent(holding, head)
            extra = max(holding.needs(kv, longest) - holding.granted, 0)
            if extra or model.queue.held_s is not None:
                need = Need(model.id, 0, extra, 0, model.priority, patient=model.in_flight > 0)
                wants.append(Want(model, "kv", need, since_s, head.cause, head))
        for place, more in growing.items():
            if place in holding.kv:
                extra = max(holding.needs(more) - holding.granted, 0)
                need = Need(model.id, 0, extra, 0, model.priority, patient=True)
                wants.append(Want(model, "kv", need, place.since_s, place.cause, place))
    return wants


def _comes_behind(model: ServedModel, table: ModelTable, accounts: Accounts, loads: dict[str, Load]) -> bool:
    """Whether models that the configuration names before it are not so far yet: memory is theirs first."""
    for other in table.all():
        if other is model:
            return False
        if not other.settled.is_set() and other.id not in accounts.holdings and other.id not in loads:
            return True
        if (load := loads.get(other.id)) is not None and not load.granted.done():
            return True
    return False


def extent(holding: Holding, place: Place) -> tuple[int, int]:
    """Bytes of KV that a request begins with, and the tokens of its longest stream then."""
    rooms = [first_room(extent.tokens, extent.left) for extent in place.extents]
    return sum(holding.kv_bytes(room) for room in rooms), max(rooms, default=0)
