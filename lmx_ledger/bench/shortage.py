"""Too much asked at once: a flood of long prompts, and a worker that is given no more memory while it works."""

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.model import CONTEXT, words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from lmx_ledger.bench.sharing import EXACT
from lmx_ledger.bench.sizes import SHORT, MemorySizes
from lmx_ledger.bench.weighing import weighing

_REFUSALS: Final = ("context_length_exceeded", "backpressure", "queue_full", "insufficient_memory")
_AT_ONCE: Final = 4
_BESIDE: Final = 1.1
"""Times what weights and KV of those that are to fit take: what passes over them take beside."""
_TOO_LONG: Final = 2
_ANSWER: Final = 32
_STEP: Final = 256
_ROOM: Final = 1 << 30
_LEFT: Final = 4 << 20
"""Of address space beyond what is mapped: enough to go on with, and not for a long prompt."""


def flood(folder: Path, sizes: MemorySizes) -> Iterator[Figure]:
    """Everybody at once, with prompts of any length, against a limit that fits four of the longest.

    Raises:
        OSError: the daemon could not be started.
    """
    rng = random.Random(3)  # noqa: S311 - a load, not a secret
    model = write_bench_model(folder / "model-flooded", sizes.flooded)
    one = sizes.flooded.kv_bytes * (sizes.longest + _STEP)
    limit = int((sizes.flooded.weights_bytes + _AT_ONCE * one) * _BESIDE)
    lengths = [rng.randint(1, sizes.longest) for _ in range(sizes.requests)]
    lengths += [CONTEXT + rng.randint(1, sizes.longest) for _ in range(_TOO_LONG)]
    rng.shuffle(lengths)
    ours = Daemon(folder / "home-flooded", model, f"[memory]\nlimit = {limit}\n")
    with running(ours):
        ours.first_token_s()
        with weighing(ours) as scales:
            began = time.perf_counter()
            heard = asyncio.run(_all(ours, [completion(words(rng, length), _ANSWER) for length in lengths]))
            took_s = time.perf_counter() - began
        foretold = ours.get("/lmx/memory")["foretold"]["bench"]
        died = [event["data"] for event in ours.events("engine.exited") if not event["data"]["expected"]]
    ends = Counter(_end(one) for one in heard)
    told = f"{', '.join(f'{end}: {count}' for end, count in ends.most_common())}; limit {limit / 1e6:,.0f} MB"
    broken = [str(one.error) for one in heard if _end(one) == "broken"]
    yield Figure(f"flood of {len(lengths)} prompts", took_s, "s", better="lower", baseline=told)
    yield Figure("flood: neither answered nor refused", len(broken), "", 0, "lower", broken[0] if broken else "")
    yield Figure("flood: workers that died", len(died), "", 0, "lower", died[0]["stderr_tail"][-300:] if died else "")
    told = "resident memory without pages of files, less what the standby takes; 50 times a second"
    yield Figure("flood: most in processes / limit", scales.processes / limit, "x", 1, "lower", told)
    yield from _foretelling(foretold)


def _foretelling(foretold: dict[str, int]) -> Iterator[Figure]:
    steps = foretold["steps"]
    told = f"{foretold['under']} of {steps:,} rounds, by {foretold['worst_under_bytes'] / 1e6:.1f} MB at most"
    yield Figure("flood: peaks that were not foretold", 100 * foretold["under"] / steps, "%", 1, "lower", told)
    ratio = foretold["predicted_peak_bytes"] / foretold["measured_peak_bytes"]
    told = f"{foretold['measured_peak_bytes'] / 1e6:.1f} MB"
    yield Figure("flood: highest peak foretold / measured", ratio, "x", 1, "higher", told)
    yield Figure("flood: the same, from above", ratio, "x", 1.1, "lower")
    yield Figure("flood: rounds foretold within a tenth", 100 * foretold["within_a_tenth"] / steps, "%")


def _end(one: Heard) -> str:
    if one.error is None:
        return "answered"
    return next((code for code in _REFUSALS if code in one.error), "broken")


async def _all(ours: Daemon, bodies: list[dict[str, Any]]) -> list[Heard]:
    return await asyncio.gather(*(ask(ours.port, body) for body in bodies))


def failing(folder: Path, sizes: MemorySizes) -> Iterator[Figure]:
    """A worker that can map no more memory, under streams, when a long prompt comes: Linux only.

    Raises:
        OSError: the daemon could not be started, or without that a stream failed.
    """
    if sys.platform != "linux":
        return
    rng = random.Random(4)  # noqa: S311 - a load, not a secret
    model = write_bench_model(folder / "model-failing", sizes.failing)
    bodies = [completion(words(rng, SHORT), sizes.decoding) for _ in range(sizes.streams)]
    long = completion(words(rng, sizes.long), 4)
    ours = Daemon(folder / "home-failing", model, f"{EXACT}[kv]\nram = 0\n[memory]\nlimit = {_ROOM}\n")
    with running(ours):
        ours.first_token_s()
        calm = asyncio.run(_all(ours, [*bodies, long]))
        if failed := [one.error for one in calm if one.error]:
            raise OSError(f"with memory enough: {failed[0]}")
        disturbed = asyncio.run(_starved(ours, bodies, long))
        exits = {event["seq"]: event["data"] for event in ours.events("engine.exited")}
        again = [event for event in ours.events("engine.restarted") if event["cause"] in exits]
    whole = sum(one.error is None and one.tokens == other.tokens for one, other in zip(disturbed, calm, strict=True))
    same = sum(one.text == other.text for one, other in zip(disturbed, calm, strict=True))
    unexpected = [died for died in exits.values() if not died["expected"]]
    told = "; ".join(
        f"status {died['code']}, {died['signal']}, last words: {died['stderr_tail'].strip()[-100:]!r}"
        for died in unexpected
    )
    broken = next((one.error for one in disturbed if one.error), "")
    yield Figure("no more memory: workers that were replaced", len(again), "", 1, baseline=told)
    yield Figure("no more memory: streams that are whole", 100 * whole / len(calm), "%", 100, baseline=broken)
    yield Figure("no more memory: the same text", 100 * same / len(calm), "%", 100)
    scale = max((event["data"]["working_scale"] for event in again), default=1.0)
    told = "so much more is reserved for a pass by then; it is told with three digits"
    yield Figure("no more memory: reserved for a pass / before", scale, "x", 1.001, baseline=told)


async def _starved(ours: Daemon, bodies: list[dict[str, Any]], long: dict[str, Any]) -> list[Heard]:
    arrived: list[list[float]] = [[] for _ in bodies]
    streams = [
        asyncio.create_task(ask(ours.port, body, arrived=came)) for body, came in zip(bodies, arrived, strict=True)
    ]
    while not all(arrived) and not any(stream.done() for stream in streams):  # noqa: ASYNC110 - nothing says it sooner
        await asyncio.sleep(0.01)
    worker = psutil.Process(await asyncio.to_thread(ours.worker_pid))
    most = worker.memory_info().vms + _LEFT
    worker.rlimit(psutil.RLIMIT_AS, (most, most))
    return [*await asyncio.gather(*streams, ask(ours.port, long))]
