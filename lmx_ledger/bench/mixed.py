"""A mixed load against one daemon, and whether the parts of each of its requests add up to the time that it took."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.model import Shape, words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running

REQUESTS: Final = 1_000
_AT_ONCE: Final = 12
_LONG: Final = 3_000
_WEATHER_S: Final = 2.0
_OTHER: Final = "other"
_WITHIN: Final = 0.02
_WITHIN_MS: Final = 5.0
ENDS: Final = ("request.finished", "request.failed", "request.cancelled")
KINDS: Final = ("short", "long", "streamed", "choices", "grows", "cancelled", "given up", "tools")
_TOOLS: Final = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
]


class Told(NamedTuple):
    """Of one request: what the ledger has of its time, and what of that is in no part."""

    request: str
    kind: str
    wall_ms: float
    parts_ms: dict[str, float]

    @property
    def other_ms(self) -> float:
        """In no part, or in one that has no name."""
        known = sum(ms for part, ms in self.parts_ms.items() if part != _OTHER)
        return abs(self.wall_ms - known)

    @property
    def is_told(self) -> bool:
        """Whether at most 2 % or 5 ms of it are in no part."""
        return self.other_ms <= max(_WITHIN * self.wall_ms, _WITHIN_MS)


def settings(shape: Shape, models: int) -> str:
    """Under which such models take turns, with few slots and little room for KV.

    Refused requests have no time to be told of, so the guard refuses none.
    """
    limit = int(shape.weights_bytes * (models - 0.4) + shape.kv_bytes * 6 * _LONG)
    return (
        f"[memory]\nlimit = {limit}\n[guard]\nenabled = false\n[queue]\nmax_running = 4\nmax_choices = 4\n"
        '[kv]\nram = "600KB"\ndisk = 0\nblock_tokens = 16\n'
    )


async def load(
    ours: Daemon, models: list[str], requests: int, *, tools: str | None = None, seed: int = 1
) -> dict[str, str]:
    """So many requests of every kind, some at once, while workers are killed and weights are put out; kinds by id.

    `tools` is a model that calls them; without one nobody asks for any.
    """
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    kinds = [kind for kind in KINDS if kind != "tools" or tools is not None]
    wanted = [kinds[number % len(kinds)] for number in range(requests)]
    rng.shuffle(wanted)
    sent: dict[str, str] = {}
    gate = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ours.port}", timeout=300) as client:
        weather = asyncio.create_task(_weather(client, models, rng))

        async def one(kind: str) -> None:
            async with gate:
                model = tools if kind == "tools" and tools is not None else rng.choice(models)
                await _ask(client, kind, model, rng, sent)

        try:
            await asyncio.gather(*(one(kind) for kind in wanted))
        finally:
            weather.cancel()
            await asyncio.gather(weather, return_exceptions=True)
    return sent


async def _weather(client: httpx.AsyncClient, models: list[str], rng: random.Random) -> None:
    """Now a worker is killed, now a model is put out of memory."""
    while True:
        for act in ("kill", "page out"):
            await asyncio.sleep(_WEATHER_S)
            name = rng.choice(models)
            if act == "page out":
                await client.post("/lmx/models/page-out", json={"model": name})
                continue
            known = (await client.get("/lmx/models")).json()["models"]
            pid = next(model["worker_pid"] for model in known if model["id"] == name)
            if pid is not None:
                # It may have ended by itself.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def _ask(client: httpx.AsyncClient, kind: str, model: str, rng: random.Random, sent: dict[str, str]) -> None:
    body: dict[str, Any] = {"model": model, "prompt": words(rng, 40), "max_tokens": rng.randint(1, 48)}
    path = "/v1/completions"
    match kind:
        case "long":
            body["prompt"] = words(rng, rng.randint(_LONG // 3, _LONG))
        case "choices":
            body |= {"n": 3, "stream": rng.random() < 0.5}
        case "grows":
            body |= {"max_tokens": 700}
        case "tools":
            path = "/v1/chat/completions"
            body = {"model": model, "messages": [{"role": "user", "content": "Weather?"}], "tools": _TOOLS}
        case "streamed" | "cancelled" | "given up":
            body |= {"stream": True, "max_tokens": 300}
    headers = {"X-Session-ID": f"{model} {rng.randrange(6)}"}
    if kind == "given up":
        # Before anything has come: of this one the client knows no id.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.post(path, json=body, headers=headers), rng.random() / 10)
        return
    async with client.stream("POST", path, json=body, headers=headers) as response:
        sent[response.headers["X-Request-ID"]] = kind
        left = rng.randint(1, 20) if kind == "cancelled" else 10**9
        async for _ in response.aiter_lines():
            left -= 1
            if not left:
                return


def told(ours: Daemon, sent: dict[str, str]) -> list[Told]:
    """What the ledger says of every request that ended."""
    return [
        Told(event["request"], sent.get(event["request"], ""), event["data"]["wall_ms"], event["data"]["parts_ms"])
        for event in ours.events(*ENDS)
    ]


def measure_parts(folder: Path, requests: int = REQUESTS) -> list[Figure]:
    """How well the parts of so many requests add up.

    Raises:
        OSError: the daemon could not be started.
    """
    shape = Shape(2)
    names = ["a", "b", "c"]
    models = {name: write_bench_model(folder / name, shape, seed) for seed, name in enumerate(names)}
    ours = Daemon(folder / "home", models, settings(shape, len(names)))
    with running(ours):
        ours.first_token_s()
        sent = asyncio.run(load(ours, names, requests))
        found = told(ours, sent)
    return figures_of(found)


def figures_of(found: list[Told]) -> list[Figure]:
    """The worst of them, and what the time of all went to."""
    worst = max(found, key=lambda one: one.other_ms)
    totals: dict[str, float] = {}
    for one in found:
        for part, ms in one.parts_ms.items():
            totals[part] = totals.get(part, 0.0) + ms
    spread = ", ".join(f"{part} {ms / 1e3:.1f} s" for part, ms in sorted(totals.items(), key=lambda pair: -pair[1]))
    share = max(one.other_ms / one.wall_ms for one in found if one.wall_ms >= 1)
    untold = sum(not one.is_told for one in found)
    return [
        Figure(f"parts of {len(found)} requests: those that do not add up", untold, "", 0, "lower", spread),
        Figure("the most that is in no part", worst.other_ms, "ms", _WITHIN_MS, "lower", f"of {worst.wall_ms:.0f} ms"),
        Figure("the largest share that is in no part", 100 * share, "%", 100 * _WITHIN, "lower"),
    ]
