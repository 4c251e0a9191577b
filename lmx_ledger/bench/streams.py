"""How fast streams are, together and while a long prompt comes between them."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words
from lmx_ledger.bench.servers import Daemon, Peer, Raw, running
from lmx_ledger.bench.sizes import SEEDED, SHORT, Sizes

_LENGTHS_OF_PIECES: Final = (3, 5, 12, 20)
"""Settings of `prefill_gap` beside the default one, for the frontier."""


def throughput(raw: Raw, peer: Peer, ours: Daemon, width: int, sizes: Sizes, *, sampled: bool) -> Iterator[Figure]:
    """Tokens per second of so many streams together, as ratios."""
    # No prompt is asked twice: KV is kept.
    rng = random.Random(100 * width + sampled)  # noqa: S311 - a load, not a secret
    by_raw, by_peer, rates = [], [], []
    for _ in range(sizes.rounds):
        prompts = [words(rng, SHORT) for _ in range(width)]
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
                **({**SEEDED, "seed": number} if sampled else {}),
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
        prompts = [words(rng, sizes.long), *(words(rng, SHORT) for _ in range(15))]
        alone = raw.run(prompts[:1], 1)["took_s"]
        theirs = raw.run(prompts, sizes.tokens)["took_s"] - alone
        lone = _took(ours.port, [words(rng, sizes.long)], 1)
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
    rounds = [_interfered(raw, ours, sizes, seed) for seed in range(sizes.rounds)]
    worst, longer = (quantile([found[n] for found in rounds], 0.5) for n in (0, 1))
    told = f"the long prompt's first token, beside mlx-lm's with nothing else: {longer:.2f} x"
    yield Figure("worst gap of 4 streams / their median", worst, "x", 13, "lower", told)
    yield Figure("long prompt among them / alone, raw", longer, "x", 1.45, "lower")


def frontier(raw: Raw, folder: Path, model: Path, sizes: Sizes) -> Iterator[Figure]:
    """The same with shorter and longer pieces of the prompt: a daemon of its own for each."""
    for gap in _LENGTHS_OF_PIECES[: sizes.frontier]:
        daemon = Daemon(folder / f"home-{gap}", model, f"[engine]\nprefill_gap = {gap}")
        with running(daemon):
            daemon.first_token_s()
            worst, longer = _interfered(raw, daemon, sizes, 0)
        told = f"the long prompt takes {longer:.2f} x"
        yield Figure(f"worst gap / median, prefill_gap = {gap}", worst, "x", better="lower", baseline=told)


def _interfered(raw: Raw, ours: Daemon, sizes: Sizes, seed: int) -> tuple[float, float]:
    rng = random.Random(400 + seed)  # noqa: S311 - a load, not a secret
    prompt = words(rng, sizes.long)
    alone_s = raw.run([prompt], 1)["first_s"]
    worst, first_s = asyncio.run(_interfere(ours.port, [words(rng, SHORT) for _ in range(4)], prompt, sizes))
    return worst, first_s / alone_s


async def _interfere(port: int, shorts: list[list[int]], long: list[int], sizes: Sizes) -> tuple[float, float]:
    arrived: list[list[float]] = [[] for _ in shorts]
    tasks = [
        asyncio.create_task(ask(port, completion(prompt, sizes.decoding), arrived=came))
        for prompt, came in zip(shorts, arrived, strict=True)
    ]
    while not all(arrived) and not any(task.done() for task in tasks):  # noqa: ASYNC110 - an event would be measured too
        await asyncio.sleep(0.01)
    await asyncio.sleep(sizes.settle_s)
    came = await ask(port, completion(long, 20))
    until = came.arrived[-1] if came.arrived else time.perf_counter()
    early = any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    before = [b - a for times in arrived for a, b in pairwise(times) if b < came.began]
    during = [b - a for times in arrived for a, b in pairwise(times) if b >= came.began and a <= until]
    if early or not before or not during:
        raise OSError("the streams were too short to be disturbed")
    return max(during) / quantile(before, 0.5), came.first_s
