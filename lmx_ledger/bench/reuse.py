"""How soon the next turn of a conversation begins: in the same run, and behind a restart of the daemon."""

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmx_ledger.bench.clients import Heard, ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import KV_BYTES_OF_LAYER, words
from lmx_ledger.bench.servers import Daemon, Raw, running
from lmx_ledger.bench.sizes import Sizes

_NEW: Final = 32
"""Tokens of the next turn."""
_OWN: Final = 64
"""Tokens of a conversation that has only its beginning in common with others."""
_WAIT_S: Final = 60.0


class _Behind(NamedTuple):
    """The first token behind a restart, and the bytes that came from disk for it, read by themselves."""

    first_s: float
    read_s: float
    size: int


def reuse(raw: Raw, folder: Path, model: Path, sizes: Sizes) -> Iterator[Figure]:
    """Time to the first token with 32 new tokens behind each length of history, beside what mlx-lm takes in process.

    Raises:
        OSError: the daemon did not keep what it had computed.
    """
    rng = random.Random(7)  # noqa: S311 - a load, not a secret
    home = folder / "home-reuse"
    histories = [words(rng, length) for length in sizes.histories]
    cold_s, warm_s, ours_s = [], [], []
    daemon = Daemon(home, model)
    with running(daemon):
        daemon.first_token_s()
        for history in histories:
            cold_s.append(raw.run([[*history, *words(rng, _NEW)]], 1)["first_s"])
            warm_s.append(raw.next_turn_s(history, _NEW, sizes.turns))
            _ask(daemon, history)
            _await_saved(daemon, len(history))
            turns = [_ask(daemon, [*history, *words(rng, _NEW)]).first_s for _ in range(sizes.turns)]
            ours_s.append(quantile(turns, 0.5))
    for history, cold, warm, own in zip(histories, cold_s, warm_s, ours_s, strict=True):
        name = f"{len(history):,} tokens of history, {_NEW} new"
        told = f"{own * 1e3:,.1f} ms; in process {warm * 1e3:,.1f} ms"
        yield Figure(f"{name}: first token / warm in process", own / warm, "x", 1.5, "lower", told)
        yield Figure(f"{name}: cold in process / first token", cold / own, "x", baseline=f"cold: {cold:,.2f} s")
    behind: list[list[_Behind]] = [[] for _ in histories]
    for _ in range(sizes.rounds):
        again = Daemon(home, model)
        with running(again):
            again.first_token_s()
            for history, found in zip(histories, behind, strict=True):
                first_s = _ask(again, [*history, *words(rng, _NEW)]).first_s
                size = _events(again, "kv.restored")[-1]["data"]["read_bytes"]
                found.append(_Behind(first_s, _read_s(home, size), size))
    for history, warm, found in zip(histories, warm_s, behind, strict=True):
        own, read_s, size = sorted(found)[len(found) // 2]
        told = f"{own * 1e3:,.1f} ms; {size / 1e6:,.1f} MB of KV, read by itself in {read_s * 1e3:,.1f} ms"
        name = f"{len(history):,} tokens of history behind a restart"
        bound = 1.5 + 3 * read_s / warm
        yield Figure(f"{name}: first token / warm in process", own / warm, "x", bound, "lower", told)


def sharing(folder: Path, model: Path, sizes: Sizes) -> Figure:
    """What conversations that begin alike take on disk, beside what they would with that beginning stored once.

    Raises:
        OSError: the daemon did not keep what it had computed.
    """
    rng = random.Random(8)  # noqa: S311 - a load, not a secret
    shared = words(rng, sizes.shared)
    daemon = Daemon(folder / "home-sharing", model)
    with running(daemon):
        daemon.first_token_s()
        before = daemon.kv_bytes()
        for _ in range(sizes.sharing):
            _ask(daemon, [*shared, *words(rng, _OWN)])
        _await_saved(daemon, sizes.shared + _OWN, sizes.sharing)
        taken = daemon.kv_bytes() - before
    tokens = sizes.shared + sizes.sharing * (_OWN + 1)
    alone = sizes.sharing * (sizes.shared + _OWN + 1)
    told = f"{taken / 1e6:,.1f} MB; {tokens:,} tokens where each for itself would be {alone:,}"
    name = f"{sizes.sharing} conversations with {sizes.shared:,} tokens in common: disk / stored once"
    return Figure(name, taken / (tokens * KV_BYTES_OF_LAYER * sizes.layers), "x", 1.05, "lower", told)


def _ask(daemon: Daemon, prompt: list[int]) -> Heard:
    heard = asyncio.run(ask(daemon.port, completion(prompt, 1)))
    if heard.error:
        raise OSError(f"a stream failed: {heard.error}")
    return heard


def _await_saved(daemon: Daemon, tokens: int, times: int = 1) -> None:
    began = time.perf_counter()
    while sum(event["data"]["tokens"] >= tokens for event in _events(daemon, "kv.saved")) < times:
        if time.perf_counter() - began > _WAIT_S:
            raise OSError(f"the KV of {tokens} tokens was not saved within {_WAIT_S:.0f} s")
        time.sleep(0.05)


def _events(daemon: Daemon, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.get("/lmx/events", params={"type": kind, "limit": 1000})["events"]
    return found


def _read_s(home: Path, size: int) -> float:
    """So many bytes of the daemon's own files, read into fresh memory and nothing else done with them."""
    began, left = time.perf_counter(), size
    for path in sorted((home / "kv").rglob("*.kv")):
        with path.open("rb", buffering=0) as file:
            while left > 0 and (piece := file.read(min(left, 2**20))):
                left -= len(piece)
    return time.perf_counter() - began
