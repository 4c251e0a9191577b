"""`lmx bench engine`: throughput, gaps, starts and deaths of a real daemon, beside mlx-lm by itself and its server.

All of it with one model, one configuration, one thread of the BLAS, and the ledger on. What is compared is measured in
turns, and the median of the rounds is told.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words, write_bench_model
from lmx_ledger.bench.servers import Daemon, Peer, Raw, running

_SEEDED: Final = {"temperature": 0.8, "top_p": 0.95}
_SHORT: Final = 64
_WARM: Final = 8
_STILL_S: Final = 0.7
"""A worker whose CPU time does not change for so long has stopped: its accounting is in steps of 10 ms."""


class Sizes(NamedTuple):
    """How much is measured. `long` is in tokens, `every_s` lies between two kills."""

    rounds: int = 3
    widths: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 128
    long: int = 8_192
    decoding: int = 4_000
    kills: int = 5
    every_s: float = 5.0
    layers: int = 6


QUICK: Final = Sizes(rounds=1, widths=(1, 2), tokens=8, long=300, decoding=200, kills=1, every_s=1.0, layers=1)


def measure(folder: Path, sizes: Sizes, *, say: Callable[[str], None]) -> list[Figure]:
    """All figures; works in an empty folder; `say` gets progress.

    Raises:
        OSError: a process that is measured could not be started, or has ended.
    """
    model = write_bench_model(folder / "model", sizes.layers)
    figures: list[Figure] = []
    with ExitStack() as stack:
        raw = Raw(model)
        stack.enter_context(running(raw))
        say("starting mlx-lm's server, then ours, each to its first token")
        peer = Peer(folder, model)
        stack.enter_context(running(peer))
        peer_s = peer.first_token_s()
        ours = Daemon(folder / "home", model)
        stack.enter_context(running(ours))
        ours_s = ours.first_token_s()
        figures.append(
            Figure("start to first token / mlx_lm.server", ours_s / peer_s, "x", 1.25, "lower", f"its: {peer_s:.1f} s")
        )
        figures.append(
            Figure(
                "memory at rest / mlx_lm.server",
                ours.rss_bytes() / peer.rss_bytes(),
                "x",
                2,
                "lower",
                f"its: {peer.rss_bytes() / 1e6:,.0f} MB; ours is daemon and worker, without a standby",
            )
        )
        raw.run([words(random.Random(0), _SHORT)], _WARM)  # noqa: S311 - a load, not a secret
        for sampled in (False, True):
            for width in sizes.widths:
                say(f"{width} streams, {'seeded' if sampled else 'greedy'}")
                figures.extend(throughput(raw, peer, ours, width, sizes, sampled=sampled))
        say(f"16 streams, one of them with {sizes.long:,} tokens before it")
        figures.append(mixed(raw, ours, sizes))
        say(f"4 streams, while a prompt of {sizes.long:,} tokens is read")
        figures.extend(interference(raw, ours, sizes))
        say("clients that go away")
        figures.extend(leaving(ours, sizes))
        say(f"{sizes.kills} kills of the worker under 16 streams")
        figures.extend(deaths(ours, sizes))
    return figures


def throughput(raw: Raw, peer: Peer, ours: Daemon, width: int, sizes: Sizes, *, sampled: bool) -> Iterator[Figure]:
    """Tokens per second of so many streams together, as ratios."""
    rng = random.Random(width)  # noqa: S311 - a load, not a secret
    by_raw, by_peer, rates = [], [], []
    for _ in range(sizes.rounds):
        prompts = [words(rng, _SHORT) for _ in range(width)]
        base = width * sizes.tokens / raw.run(prompts, sizes.tokens, sampled=sampled)["took_s"]
        theirs = _rate(peer.port, prompts, sizes.tokens, sampled=sampled, peer=True)
        rate = _rate(ours.port, prompts, sizes.tokens, sampled=sampled)
        rates.append(rate)
        by_raw.append(rate / base)
        by_peer.append(rate / theirs)
    name = f"{width} streams, {'seeded' if sampled else 'greedy'}"
    told = f"ours: {quantile(rates, 0.5):,.0f} tokens/s over HTTP"
    yield Figure(f"{name}: tokens/s / BatchGenerator", quantile(by_raw, 0.5), "x", 0.85, baseline=told)
    yield Figure(f"{name}: tokens/s / mlx_lm.server", quantile(by_peer, 0.5), "x", 1.0)


def _rate(port: int, prompts: Sequence[Sequence[int]], tokens: int, *, sampled: bool, peer: bool = False) -> float:
    async def all_of_them() -> list[Heard]:
        # mlx-lm's server takes text; the ids are read as such, which is as long, for it splits at spaces.
        bodies = [
            completion(
                " ".join("ba" for _ in prompt) if peer else list(prompt),
                tokens,
                **({**_SEEDED, "seed": number} if sampled else {}),
            )
            for number, prompt in enumerate(prompts)
        ]
        return await asyncio.gather(*(ask(port, body) for body in bodies))

    began = time.perf_counter()
    heard = asyncio.run(all_of_them())
    took_s = time.perf_counter() - began
    if failed := [one.error for one in heard if one.error]:
        raise OSError(f"a stream failed: {failed[0]}")
    return sum(one.tokens or tokens for one in heard) / took_s


def mixed(raw: Raw, ours: Daemon, sizes: Sizes) -> Figure:
    """Sixteen streams of which one is long, all done: tokens per second against the same in one BatchGenerator."""
    rng = random.Random(16)  # noqa: S311 - a load, not a secret
    ratios = []
    for _ in range(sizes.rounds):
        prompts = [words(rng, sizes.long), *(words(rng, _SHORT) for _ in range(15))]
        alone = raw.run(prompts[:1], 1)["took_s"]
        theirs = raw.run(prompts, sizes.tokens)["took_s"] - alone
        lone = _took(ours.port, prompts[:1], 1)
        own = _took(ours.port, prompts, sizes.tokens) - lone
        ratios.append(theirs / max(own, 1e-3))
    told = "without the time that the long prompt takes alone; to the last token of the last stream"
    return Figure("16 mixed streams: tokens/s / BatchGenerator", quantile(ratios, 0.5), "x", 4, baseline=told)


def _took(port: int, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    async def all_of_them() -> None:
        await asyncio.gather(*(ask(port, completion(list(prompt), tokens)) for prompt in prompts))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    return time.perf_counter() - began


def interference(raw: Raw, ours: Daemon, sizes: Sizes) -> Iterator[Figure]:
    """The worst gap of four streams while a long prompt is read and gives twenty tokens, and what it pays for that."""
    rng = random.Random(4)  # noqa: S311 - a load, not a secret
    worst, longer = [], []
    for _ in range(sizes.rounds):
        prompt = words(rng, sizes.long)
        alone_s = raw.run([prompt], 1)["first_s"]
        gap, first_s = asyncio.run(_interfere(ours.port, [words(rng, _SHORT) for _ in range(4)], prompt, sizes))
        worst.append(gap)
        longer.append(first_s / alone_s)
    told = f"the long prompt's first token, beside mlx-lm's with nothing else: {quantile(longer, 0.5):.2f} x"
    yield Figure("worst gap of 4 streams / their median", quantile(worst, 0.5), "x", 13, "lower", told)
    yield Figure("long prompt among them / alone, raw", quantile(longer, 0.5), "x", 1.45, "lower")


async def _interfere(port: int, shorts: list[list[int]], long: list[int], sizes: Sizes) -> tuple[float, float]:
    tasks = [asyncio.create_task(ask(port, completion(prompt, sizes.decoding))) for prompt in shorts]
    await asyncio.sleep(3.0 if sizes.rounds > 1 else 0.2)
    came = await ask(port, completion(long, 20))
    until = came.arrived[-1] if came.arrived else time.perf_counter()
    heard = await asyncio.gather(*tasks)
    before = [b - a for one in heard for a, b in pairwise(one.arrived) if b < came.began]
    during = [b - a for one in heard for a, b in pairwise(one.arrived) if b >= came.began and a <= until]
    if not before or not during:
        raise OSError("the streams were too short to be disturbed")
    return max(during) / quantile(before, 0.5), came.first_s


def leaving(ours: Daemon, sizes: Sizes) -> Iterator[Figure]:
    """How long the worker goes on computing for a client that has gone, in decode and while its prompt is read."""
    rng = random.Random(5)  # noqa: S311 - a load, not a secret
    for what, prompt, wait_s in (("decoding", words(rng, _SHORT), 1.0), ("reading", words(rng, 2 * sizes.long), 1.5)):
        for stream in (True, False):
            body = {**completion(prompt, sizes.decoding), "stream": stream}
            if not stream:
                del body["stream_options"]
            took = [asyncio.run(_busy_after(ours, body, wait_s)) for _ in range(sizes.rounds)]
            told = "to the last change of its CPU time, seen every 10 ms; a piece of a prompt alone may last 500 ms"
            name = f"client gone while {what}, {'streamed' if stream else 'not streamed'}"
            yield Figure(name, quantile(took, 0.5), "ms", 600, "lower", told)


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


def deaths(ours: Daemon, sizes: Sizes) -> Iterator[Figure]:
    """Streams that are whole although their worker was killed again and again, and for how long they stood still."""
    bodies = [_asked(number, sizes) for number in range(16)]
    calm = asyncio.run(_all(ours.port, bodies))
    killed, disturbed = asyncio.run(_all_under_kills(ours, bodies, sizes))
    whole = sum(a.error is None and a.tokens == b.tokens for a, b in zip(disturbed, calm, strict=True))
    same = sum(a.text == b.text for a, b in zip(disturbed, calm, strict=True))
    gaps = sorted(float(event["data"]["gap_ms"]) for event in _resumed(ours))
    told = f"{killed} kills; {same} of them are the same text (numbers depend on the batch's width with OpenBLAS)"
    yield Figure("streams of 16 that are whole after kills", whole, "streams", 16, baseline=told)
    if gaps:
        told = f"{len(gaps)} interruptions, load and reading again included"
        yield Figure("pause at a kill, p95", quantile(gaps, 0.95), "ms", better="lower", baseline=told)


def _asked(number: int, sizes: Sizes) -> dict[str, Any]:
    rng = random.Random(number)  # noqa: S311 - a load, not a secret
    more: dict[str, Any] = {**_SEEDED, "seed": number} if number % 2 else {}
    more |= ({"stop": ["zzzz"]}, {"presence_penalty": 0.5}, {"logprobs": 2}, {})[number % 4]
    return completion(words(rng, _SHORT + 16 * number), sizes.decoding // 4, **more)


async def _all(port: int, bodies: Sequence[dict[str, Any]]) -> list[Heard]:
    return await asyncio.gather(*(ask(port, body) for body in bodies))


async def _all_under_kills(ours: Daemon, bodies: Sequence[dict[str, Any]], sizes: Sizes) -> tuple[int, list[Heard]]:
    streams = asyncio.create_task(_all(ours.port, bodies))
    killed = 0
    while killed < sizes.kills:
        await asyncio.sleep(sizes.every_s)
        if streams.done():
            break
        os.kill(await asyncio.to_thread(ours.worker_pid), signal.SIGKILL)
        killed += 1
    return killed, await streams


def _resumed(ours: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ours.get("/lmx/events", params={"type": "request.resumed", "limit": 1000})["events"]
    return found
