"""What goes wrong on purpose: clients that go away, and workers that are killed under their streams."""

import asyncio
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

import psutil

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words
from lmx_ledger.bench.servers import Daemon, Raw
from lmx_ledger.bench.sizes import SEEDED, SHORT, Sizes

_STILL_S: Final = 0.7
"""A worker whose CPU time does not change for so long has stopped: its accounting is in steps of 10 ms."""
_STEP_MS: Final = 600.0
_CLIENTS: Final = 16


def leaving(ours: Daemon, sizes: Sizes) -> Iterator[Figure]:
    """How long the worker goes on computing for a client that has gone, in decode and while its prompt is read."""
    rng = random.Random(5)  # noqa: S311 - a load, not a secret
    for what, tokens, wait_s in (("decoding", SHORT, 1.0), ("reading", 2 * sizes.long, 1.5)):
        for stream in (True, False):
            before = ours.used_bytes()
            took = []
            for _ in range(sizes.rounds):
                # Another prompt each time: KV is kept.
                body = {**completion(words(rng, tokens), sizes.decoding), "stream": stream}
                if not stream:
                    del body["stream_options"]
                took.append(asyncio.run(_busy_after(ours, body, wait_s)))
            told = "to the last change of its CPU time, seen every 10 ms; a piece of a prompt alone lasts some 300 ms"
            name = f"client gone while {what}, {'streamed' if stream else 'not streamed'}"
            yield Figure(name, quantile(took, 0.5), "ms", _STEP_MS, "lower", told)
            left = abs(ours.used_bytes() - before) / 1e6
            yield Figure(f"{name}: memory that is left", left, "MB", 1, "lower")


async def _busy_after(ours: Daemon, body: dict[str, Any], wait_s: float) -> float:
    worker = psutil.Process(await asyncio.to_thread(ours.worker_pid))
    task = asyncio.create_task(ask(ours.port, body))
    await asyncio.sleep(wait_s)
    task.cancel()
    gone = last = time.perf_counter()
    spent = worker.cpu_times().user
    while time.perf_counter() - last < _STILL_S:
        await asyncio.sleep(0.01)
        if (now := worker.cpu_times().user) != spent:
            spent, last = now, time.perf_counter()
    return (last - gone) * 1e3


class _Pause(NamedTuple):
    """What one death cost the stream that waited longest: all of it, and the new worker's load."""

    gap_ms: float
    load_ms: float
    reread: list[int]


def deaths(raw: Raw, ours: Daemon, sizes: Sizes) -> Iterator[Figure]:
    """Streams that are whole although their worker is killed again and again, and for how long they stand still."""
    bodies = [_asked(number, sizes) for number in range(_CLIENTS)]
    calm = asyncio.run(_all(ours, bodies))
    killed, disturbed = asyncio.run(_under_kills(ours, bodies, sizes))
    heard = [(one, calm[number]) for number, ones in enumerate(disturbed) for one in ones]
    whole = sum(one.error is None and one.tokens == other.tokens for one, other in heard)
    same = sum(one.text == other.text for one, other in heard)
    told = (
        f"{whole} of {len(heard)} streams under {killed} kills; {same} have the text that they had without "
        "(numbers depend on the batch's width with OpenBLAS)"
    )
    yield Figure("streams that are whole after kills", 100 * whole / len(heard), "%", 100, baseline=told)
    pauses = sorted(_pauses(ours), key=lambda pause: pause.gap_ms)
    if not pauses:
        return
    gaps = [pause.gap_ms for pause in pauses]
    yield Figure("pause at a kill, p95", quantile(gaps, 0.95), "ms", better="lower", baseline=f"{len(gaps)} pauses")
    yield Figure("of that, load of the new worker, p95", quantile([p.load_ms for p in pauses], 0.95), "ms")
    rng = random.Random(6)  # noqa: S311 - a load, not a secret
    worst = pauses[min(int(0.95 * len(pauses)), len(pauses) - 1)]
    reread_ms = raw.run([words(rng, tokens) for tokens in worst.reread], 1)["took_s"] * 1e3
    told = f"BatchGenerator, the {len(worst.reread)} streams of that kill with {sum(worst.reread):,} tokens"
    yield Figure("of that, reading again", reread_ms, "ms", baseline=told)
    rest = worst.gap_ms - worst.load_ms - reread_ms
    yield Figure("pause at a kill beyond load and reading again", max(rest, 0.0), "ms", 1_500, "lower")


def _asked(number: int, sizes: Sizes) -> dict[str, Any]:
    rng = random.Random(number)  # noqa: S311 - a load, not a secret
    more: dict[str, Any] = {**SEEDED, "seed": number} if number % 2 else {}
    more |= ({"stop": ["zzzz"]}, {"presence_penalty": 0.5}, {"logprobs": 2}, {})[number % 4]
    return completion(words(rng, SHORT + 8 * number), sizes.answer, **more)


async def _all(ours: Daemon, bodies: list[dict[str, Any]]) -> list[Heard]:
    return await asyncio.gather(*(ask(ours.port, body) for body in bodies))


async def _under_kills(ours: Daemon, bodies: list[dict[str, Any]], sizes: Sizes) -> tuple[int, list[list[Heard]]]:
    """Each client asks again and again until the last kill."""
    over = asyncio.Event()

    async def client(body: dict[str, Any]) -> list[Heard]:
        heard = []
        while not over.is_set():
            heard.append(await ask(ours.port, body))
        return heard

    clients = [asyncio.create_task(client(body)) for body in bodies]
    for _ in range(sizes.kills):
        await asyncio.sleep(sizes.every_s)
        os.kill(await asyncio.to_thread(ours.worker_pid), signal.SIGKILL)
    over.set()
    return sizes.kills, await asyncio.gather(*clients)


def _pauses(ours: Daemon) -> Iterator[_Pause]:
    """Of every stream at every kill, as the ledger has it."""
    loads_ms = {}
    exits = {event["seq"]: event for event in ours.events("engine.exited")}
    for event in ours.events("engine.restarted"):
        if died := exits.get(event["cause"]):
            began, ended = (datetime.fromisoformat(one["time"]) for one in (died, event))
            loads_ms[died["seq"]] = (ended - began).total_seconds() * 1e3
    resumed = defaultdict(list)
    for event in ours.events("request.resumed"):
        resumed[event["cause"]].append(event["data"])
    for cause, ones in resumed.items():
        reread = [one["reread_tokens"] for one in ones]
        for one in ones:
            yield _Pause(float(one["gap_ms"]), loads_ms.get(cause, 0.0), reread)
