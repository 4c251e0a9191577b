"""What it costs to write a postmortem with its what-if rows, of an incident with very many events."""

import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from lmx_ledger.bench.measure import Figure
from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded, Severity
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.incident.state import OPEN, Incident
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.file import LedgerFile
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.store import migrate
from lmx_ledger.ledger.ticket import Place
from lmx_ledger.memory.plan import Account, Line, Need, Policy
from lmx_ledger.memory.recorded import Asked, steps_of
from lmx_ledger.report.from_ledger import as_form, postmortem

EVENTS: Final = 100_000
BOUND_MS: Final = 5_000.0
_MODELS: Final = ("m0", "m1", "m2")
_LAYERS: Final = (3_000_000,) * 9
_LIMIT: Final = 70_000_000
_BEGIN_US: Final = 1_773_480_000_000_000
_EVERY_US: Final = 40_000
_PAGE: Final = 5_000
_FIRST: Final = 300
"""Requests before the storm."""


def measure_postmortem(folder: Path, events: int = EVENTS) -> list[Figure]:
    """A paging storm of so many events: its report in all forms, and which share of that the what-if rows are.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / "ledger.db"
    migrate(path)
    file = LedgerFile(path, "NORMAL", new_ulid(_BEGIN_US))
    told = list(islice(_storm(), events))
    for at in range(0, len(told), _PAGE):
        file.append([draft(Place(), event, at_us) for at_us, event in told[at : at + _PAGE]])
    file.close()
    reader = Reader.open(path)
    incident = _incident(reader.events(EventFilter(types=("paging.in_finished",), limit=1))[0])
    try:
        began = time.monotonic()
        document = postmortem(path, reader, incident, told[-1][0] + 1)
        sizes = [len(as_form(document, form)) for form in ("md", "html", "json")]
        took_ms = (time.monotonic() - began) * 1e3
    finally:
        reader.close()
    said = f"{len(told):,} events, {len(document.what_if)} settings tried, {sum(sizes):,} bytes"
    return [Figure("a postmortem with its what-if rows", took_ms, "ms", BOUND_MS, "lower", said)]


def _incident(first: Recorded) -> Incident:
    return Incident(
        id=f"inc_{new_ulid(first.time_us)}",
        title="Objective ttft burns its budget",
        severity=Severity.WARNING,
        status=OPEN,
        models=_MODELS,
        events=(first.seq,),
        symptoms=("alert",),
        started_us=first.time_us,
        detected_us=first.time_us + 5_000_000,
        at_us=first.time_us,
        changed_us=first.time_us,
        opened_seq=first.seq,
    )


def _storm() -> Iterator[tuple[int, ev.Event]]:
    """Without end: requests of one model, and then of three in turn, each of which has its weights brought back."""
    rng = random.Random(3)  # noqa: S311 - a load, not a secret
    loaded = {"memory": {"limit": _LIMIT}, "models": [{"id": name, "path": name} for name in _MODELS]}
    yield _BEGIN_US, ev.Event(data=ev.ConfigLoaded(source=None, changed=loaded), stream="daemon")
    for name in _MODELS:
        data = ev.ModelLoaded(weights_bytes=sum(_LAYERS), context=32_768, vocab=4_096, architecture="llama", ms=250.0)
        yield _BEGIN_US, _of(name, data)
    number = 0
    while True:
        at_us = _BEGIN_US + 1_000_000 + number * _EVERY_US
        storm = number >= _FIRST
        name = _MODELS[number % 3] if storm else _MODELS[0]
        if storm:
            yield from _paged(at_us, name, _MODELS[(number + 1) % 3])
        yield from _served(at_us, name, f"s{number % 40}", rng)
        number += 1


def _of(model: str, data: ev.EventData) -> ev.Event:
    return ev.Event(data=data, stream=f"model:{model}", model=model)


def _paged(at_us: int, wanted: str, victim: str) -> Iterator[tuple[int, ev.Event]]:
    lines = tuple(
        Line(name, () if name == wanted else _LAYERS, working=2_000_000, came_s=-1.0, used_s=float(name == victim))
        for name in _MODELS
    )
    need = Need(wanted, weights=sum(_LAYERS), kv=2_000_000)
    asked = Asked(Account(_LIMIT, _LIMIT // 50, lines, configured=_LIMIT), need, Policy(), at_us / 1e6)
    found = asked.plan()
    victims = list(dict.fromkeys(step.model for step in found.steps))
    planned = ev.PagingPlanned(
        need_bytes=need.total, victims=victims, reason="page_in", steps=steps_of(found), account=asked.told()
    )
    yield at_us, _of(wanted, planned)
    yield at_us + 1_000, _of(victim, ev.PagingOutStarted(resident_bytes=sum(_LAYERS)))
    out = ev.PagingOutFinished(bytes=sum(_LAYERS), ms=4.0, layers=len(_LAYERS), resident_bytes=0)
    yield at_us + 6_000, _of(victim, out)
    yield at_us + 7_000, _of(wanted, ev.PagingInStarted(bytes=sum(_LAYERS)))
    yield at_us + 22_000, _of(wanted, ev.PagingInFinished(bytes=sum(_LAYERS), ms=14.0, layers=len(_LAYERS)))


def _served(at_us: int, model: str, session: str, rng: random.Random) -> Iterator[tuple[int, ev.Event]]:
    request = f"req_{new_ulid(at_us)}"
    read_ms, drawn_ms, waited_ms = rng.uniform(5, 15), rng.uniform(10, 20), 22.0
    prompt, answer = rng.randrange(100, 400), 12

    def event(data: ev.EventData) -> ev.Event:
        return ev.Event(data=data, stream=f"request:{request}", request=request, session=session, model=model)

    received = ev.RequestReceived(
        route="/v1/chat/completions", stream=True, messages=2, tools=0, chars=4 * prompt, prompt_sha256="0" * 64,
        client=None, client_request_id=None, sampling={"n": 1, "max_tokens": answer},
    )  # fmt: skip
    first_us, end_us = int((waited_ms + read_ms) * 1e3), int((waited_ms + read_ms + drawn_ms) * 1e3)
    yield at_us, event(received)
    admitted = ev.RequestAdmitted(
        prompt_tokens=prompt, max_tokens=answer, choices=1, queue_ms=waited_ms, sampling={"temperature": 0.0}
    )
    yield at_us + int(waited_ms * 1e3), event(admitted)
    yield at_us + first_us, event(ev.RequestFirstToken(ttft_ms=waited_ms + read_ms, prefill_ms=read_ms))
    finished = ev.RequestFinished(
        status=200, finish_reason="length", prompt_tokens=prompt, cached_tokens=0, completion_tokens=answer,
        queue_ms=waited_ms, ttft_ms=waited_ms + read_ms, itl_p95_ms=drawn_ms / answer, wall_ms=end_us / 1e3,
        parts_ms={"page_in": waited_ms, "prefill": read_ms, "decode": drawn_ms},
    )  # fmt: skip
    yield at_us + end_us, event(finished)
