"""More models than fit: they take turns under a limit, and one makes room for the context of another."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from lmx_ledger.bench.sizes import MemorySizes
from lmx_ledger.bench.weighing import weighing
from lmx_ledger.core.units import show_bytes

EXACT: Final = '[engine]\nblas = "builtin"\n'
"""Numbers that do not depend on what else is in the batch."""
_MODELS: Final = ("a", "b", "c")
_OVER: Final = 2.5
_CLIENTS: Final = 8
_PARTS: Final = 32
_SMALL, _BIG, _KV = 5, 20, 8
_PAGE_AT: Final = 0.85
_TOLD: Final = 4
_STEP: Final = 256
"""Tokens by which a cache grows."""


class Asked(NamedTuple):
    """One of the questions: which model is asked, and what."""

    model: str
    prompt: list[int]
    tokens: int

    @property
    def body(self) -> dict[str, Any]:
        """Of the request."""
        return completion(self.prompt, self.tokens, model=self.model)


def turns(folder: Path, sizes: MemorySizes) -> Iterator[Figure]:
    """Three models whose weights are two and a half times the limit, asked in random order for minutes.

    Raises:
        OSError: a daemon could not be started, or with room for all a question was not answered.
    """
    rng = random.Random(0)  # noqa: S311 - a load, not a secret
    models = {name: write_bench_model(folder / name, sizes.turning, seed) for seed, name in enumerate(_MODELS)}
    limit = int(len(models) * sizes.turning.weights_bytes / _OVER)
    asked = [
        Asked(name, words(rng, rng.randint(4, sizes.prompt)), rng.randint(4, sizes.answer))
        for name in models
        for _ in range(sizes.questions)
    ]
    roomy = Daemon(folder / "home-room", models, EXACT)
    with running(roomy):
        roomy.first_token_s()
        known = asyncio.run(_all_of(roomy, asked))
    if failed := [one.error for one in known if one.error]:
        raise OSError(f"with room for all of them: {failed[0]}")
    ours = Daemon(folder / "home-turns", models, f"{EXACT}[memory]\nlimit = {limit}\n")
    with running(ours):
        ours.first_token_s()
        with weighing(ours) as scales:
            began = time.perf_counter()
            heard = asyncio.run(_at_random(ours, asked, 60 * sizes.minutes))
            took_s = time.perf_counter() - began
        out, back = ours.events("paging.out_finished"), ours.events("paging.in_finished")
    broken = [one.error for _, one in heard if one.error and "HTTP/1.1" not in one.error]
    refused = [one.error for _, one in heard if one.error and "HTTP/1.1" in one.error]
    name = f"{len(models)} models, {_OVER} x the limit"
    told = f"{_CLIENTS} clients for {took_s:.0f} s; limit {limit / 1e6:,.0f} MB"
    yield Figure(f"{name}: answered", len(heard) - len(broken) - len(refused), "requests", baseline=told)
    yield Figure(f"{name}: errors", len(broken), "", 0, "lower", broken[0] if broken else "")
    yield Figure(f"{name}: refused although they fit", len(refused), "", 0, "lower", refused[0] if refused else "")
    told = "all workers' arrays, by their own word, five times a second"
    yield Figure(f"{name}: most in allocators / limit", scales.allocators / limit, "x", 1, "lower", told)
    told = (
        "resident memory of all workers without pages of files, each less what the standby takes, which has imported "
        f"everything and has no model ({scales.empty_bytes / 1e6:.1f} MB); 50 times a second"
    )
    yield Figure(f"{name}: most in processes / limit", scales.processes / limit, "x", 1, "lower", told)
    same = sum(one.text == known[number].text for number, one in heard)
    told = f"{same} of {len(heard)}; of a daemon without a limit, the built-in BLAS in both"
    yield Figure(f"{name}: the same answers as with room", 100 * same / len(heard), "%", 100, baseline=told)
    yield Figure(
        f"{name}: page-ins", 60 * len(back) / took_s, "a minute", baseline=f"{len(back)}, {len(out)} page-outs"
    )
    paging_ms = sum(event["data"]["ms"] for event in (*out, *back))
    yield Figure(f"{name}: time spent paging", paging_ms / took_s / 10, "%", better="lower")
    waits = [one.first_s for _, one in heard]
    told = f"median {quantile(waits, 0.5):.2f} s, longest {max(waits):.2f} s"
    yield Figure(f"{name}: to the first text, p95", quantile(waits, 0.95), "s", better="lower", baseline=told)


async def _all_of(ours: Daemon, asked: list[Asked]) -> list[Heard]:
    places = asyncio.Semaphore(_CLIENTS)

    async def one(question: Asked) -> Heard:
        async with places:
            return await ask(ours.port, question.body)

    return await asyncio.gather(*(one(question) for question in asked))


async def _at_random(ours: Daemon, asked: list[Asked], for_s: float) -> list[tuple[int, Heard]]:
    """By which question, what was heard."""
    until = time.perf_counter() + for_s

    async def client(number: int) -> list[tuple[int, Heard]]:
        rng = random.Random(number)  # noqa: S311 - a load, not a secret
        heard = []
        while time.perf_counter() < until:
            which = rng.randrange(len(asked))
            heard.append((which, await ask(ours.port, asked[which].body)))
        return heard

    return [one for ones in await asyncio.gather(*(client(number) for number in range(_CLIENTS))) for one in ones]


def scene(folder: Path, sizes: MemorySizes) -> Iterator[Figure]:
    """The reference guide's: a small model and a large one, and then a context for which the small one has to go.

    Raises:
        OSError: a daemon could not be started, or a question was not answered.
    """
    rng = random.Random(1)  # noqa: S311 - a load, not a secret
    small, big = sizes.small, sizes.big
    part = (small.weights_bytes + big.weights_bytes) // (_SMALL + _BIG)
    models = {"small": write_bench_model(folder / "small", small), "big": write_bench_model(folder / "big", big)}
    ours = Daemon(folder / "home-scene", models, f"[memory]\nlimit = {_PARTS * part}\nkv_reserve = {_KV * part}\n")
    question = Asked("small", words(rng, 32), 16)
    with running(ours):
        ours.first_token_s()
        before = _heard(ours, question.body)
        context = words(rng, _KV * part // big.kv_bytes // _STEP * _STEP - _TOLD)
        _heard(ours, completion(context, _TOLD, model="big"))
        after = _heard(ours, question.body)
        lines = _log(ours)
        reserved, chain = _reserved(ours, "big")
    for what, line in (
        ("breached", f"[LMX-Core] VRAM threshold ({_PAGE_AT:.0%}) breached."),
        ("paging", "[LMX-Core] Paging small weights to NVMe ("),
        ("reserving", f"[LMX-Core] Reserving {show_bytes(reserved).replace(' ', '')} for context KV cache."),
    ):
        found = next((one for one in lines if one.startswith(line)), "")
        yield Figure(f"scene: the log says {what}", float(bool(found)), "", 1, baseline=found)
    told = f"{' -> '.join(chain)}; weights of {small.weights_bytes / 1e6:.0f} and {big.weights_bytes / 1e6:.0f} MB"
    wanted = ["guard.threshold_breached", "paging.planned", "paging.out_started", "paging.out_finished", "kv.reserved"]
    yield Figure("scene: each event is because of the one before", float(chain == wanted), "", 1, baseline=told)
    yield Figure("scene: the model that went answers as before", float(before.text == after.text), "", 1)


def _heard(ours: Daemon, body: dict[str, Any]) -> Heard:
    heard = asyncio.run(ask(ours.port, body))
    if heard.error:
        raise OSError(f"a question was not answered: {heard.error}")
    return heard


def _log(ours: Daemon) -> list[str]:
    url = f"http://127.0.0.1:{ours.port}"
    command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "logs", "--url", url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def _reserved(ours: Daemon, model: str) -> tuple[int, list[str]]:
    """Bytes of the first reservation of its KV for which anything went, and the types of events that led to it."""
    events = {event["seq"]: event for event in ours.events()}
    made = (event for event in events.values() if event["type"] == "kv.reserved" and event["severity"] != "debug")
    event = first = next((event for event in made if event["model"] == model), None)
    chain: list[str] = []
    while event is not None:
        chain.insert(0, event["type"])
        event = events.get(event["cause"])
    return first["data"]["bytes"] if first is not None else 0, chain
