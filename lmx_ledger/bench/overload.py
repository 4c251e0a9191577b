"""More new sessions at once than there are slots: with the guard, and without it, in the same run."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from lmx_ledger.bench.sizes import SHORT, GuardSizes

_OBJECTIVE: Final = 4.0
"""The objective of the first token, in times what a request takes when all slots are taken."""
_SHARE: Final = 0.25
"""Of the objective, what a new session may be expected to wait: the estimate is one, and then the prompt is read."""
_KNOWN: Final = 4


class Overloaded(NamedTuple):
    """What became of a flood: of new sessions, and of those that were known before."""

    new: list[Heard]
    known: list[Heard]
    refusals_s: list[float]

    @property
    def answered(self) -> list[Heard]:
        """New sessions that were let in."""
        return [one for one in self.new if one.error is None]

    @property
    def refused(self) -> list[Heard]:
        """Those that got 429."""
        return [one for one in self.new if one.error is not None and " 429 " in one.error]


def overload(folder: Path, sizes: GuardSizes) -> Iterator[Figure]:
    """So many new sessions at once over so many slots.

    Raises:
        OSError: the daemon could not be started.
    """
    model = write_bench_model(folder / "model-guarded", sizes.shape)
    service_s = _alone(folder, model, sizes)
    objective_s = _OBJECTIVE * service_s
    off = _flooded(folder / "home-unguarded", model, sizes, "[guard]\nenabled = false\n")
    guard = f'[guard]\nqueue_wait = "{objective_s * _SHARE:.3f}s"\n'
    on = _flooded(folder / "home-guarded", model, sizes, guard)
    if not on.answered or not off.answered:
        raise OSError("a flood of which nobody was answered")
    told = f"{sizes.sessions} new sessions over {sizes.slots} slots; one takes {service_s:.2f} s when all are taken"
    first_on = quantile([one.first_s for one in on.answered], 0.95)
    first_off = quantile([one.first_s for one in off.answered], 0.95)
    yield Figure("flood: first token p95 of those let in / objective", first_on / objective_s, "x", 1, "lower", told)
    told = f"the objective is {_OBJECTIVE:g} times that"
    yield Figure("flood: the same without the guard", first_off / objective_s, "x", baseline=told)
    whole = sum(one.tokens == sizes.tokens for one in on.answered)
    yield Figure("flood: streams let in that were whole", 100 * whole / max(len(on.answered), 1), "%", 100)
    told = f"{len(on.answered)} answered, {len(on.refused)} refused; without the guard {len(off.answered)} answered"
    broken = sizes.sessions - len(on.answered) - len(on.refused)
    yield Figure("flood: neither answered nor refused", broken, "", 0, "lower", told)
    admitted = sum(one.error is None for one in on.known)
    yield Figure("flood: known sessions that went on", 100 * admitted / len(on.known), "%", 100)
    slowest = max(on.refusals_s, default=0.0)
    told = f"{quantile(on.refusals_s, 0.5) * 1e3:.0f} ms is the median" if on.refusals_s else "nobody was refused"
    yield Figure("flood: slowest refusal / objective", slowest / objective_s, "x", 0.25, "lower", told)


def _alone(folder: Path, model: Path, sizes: GuardSizes) -> float:
    """Seconds that a request takes when all slots are taken and nobody waits."""
    ours = Daemon(folder / "home-alone", model, _slots(sizes))
    with running(ours):
        ours.first_token_s()
        bodies = [_body(random.Random(n), sizes, f"alone-{n}") for n in range(sizes.slots)]  # noqa: S311 - a load
        began = time.perf_counter()
        asyncio.run(_all(ours, bodies))
        return time.perf_counter() - began


def _flooded(home: Path, model: Path, sizes: GuardSizes, guard: str) -> Overloaded:
    ours = Daemon(home, model, _slots(sizes) + guard)
    with running(ours):
        ours.first_token_s()
        known = [_body(random.Random(1_000 + n), sizes, f"known-{n}") for n in range(_KNOWN)]  # noqa: S311 - a load
        # So that they are known, and how long a request takes is.
        for _ in range(2):
            asyncio.run(_all(ours, known))
        while len(ours.events("kv.saved")) < _KNOWN:
            time.sleep(0.05)
        return asyncio.run(_flood(ours, known, sizes))


async def _flood(ours: Daemon, known: list[dict[str, Any]], sizes: GuardSizes) -> Overloaded:
    bodies = [_body(random.Random(n), sizes, f"new-{n}") for n in range(sizes.sessions)]  # noqa: S311 - a load
    refusals: list[float] = []

    async def timed(body: dict[str, Any]) -> Heard:
        began = time.perf_counter()
        heard = await ask(ours.port, body)
        if heard.error is not None:
            refusals.append(time.perf_counter() - began)
        return heard

    flood = [asyncio.create_task(timed(body)) for body in bodies]
    # They come back while the flood is there.
    await asyncio.sleep(0.5)
    again = await asyncio.gather(*(ask(ours.port, body) for body in known))
    return Overloaded(list(await asyncio.gather(*flood)), list(again), refusals)


async def _all(ours: Daemon, bodies: list[dict[str, Any]]) -> list[Heard]:
    return await asyncio.gather(*(ask(ours.port, body) for body in bodies))


def _slots(sizes: GuardSizes) -> str:
    return (
        f"[queue]\nmax_running = {sizes.slots}\nmax_choices = {sizes.slots}\nmax_waiting = {2 * sizes.sessions}\n"
        "[engine]\nstandby = false\n"
    )


def _body(rng: random.Random, sizes: GuardSizes, session: str) -> dict[str, Any]:
    return completion(words(rng, 4 * SHORT), sizes.tokens, session_id=session)
