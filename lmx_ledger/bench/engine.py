"""`lmx bench engine`: throughput, gaps, starts and deaths of a real daemon, beside mlx-lm by itself and its server.

All of it with one model, one configuration, one thread of the BLAS, and the ledger on. What is compared is measured in
turns, and the median of the rounds is told.
"""

import enum
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from lmx_ledger.bench.failures import deaths, leaving
from lmx_ledger.bench.measure import Figure
from lmx_ledger.bench.model import Shape, words, write_bench_model
from lmx_ledger.bench.reuse import reuse, sharing
from lmx_ledger.bench.servers import Daemon, Peer, Raw, running
from lmx_ledger.bench.sizes import SHORT, Sizes
from lmx_ledger.bench.streams import frontier, interference, mixed, throughput
from lmx_ledger.bench.traffic import agents

_WARM: Final = 8


class Part(enum.StrEnum):
    """Of what is measured behind the start, in this order."""

    THROUGHPUT = "throughput"
    GAPS = "gaps"
    FRONTIER = "frontier"
    REUSE = "reuse"
    AGENTS = "agents"
    LEAVING = "leaving"
    KILLS = "kills"


def measure(
    folder: Path, sizes: Sizes, *, say: Callable[[str], None], only: Collection[Part] = tuple(Part)
) -> list[Figure]:
    """All figures, or those of some parts; works in an empty folder; `say` gets progress.

    Raises:
        OSError: a process that is measured could not be started, or has ended.
    """
    model = write_bench_model(folder / "model", Shape(sizes.layers))
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
        figures.extend(_start(peer, ours, peer_s, ours.first_token_s()))
        raw.run([words(random.Random(0), SHORT)], _WARM)  # noqa: S311 - a load, not a secret
        if Part.THROUGHPUT in only:
            for sampled in (False, True):
                for width in sizes.widths:
                    say(f"{width} streams, {'seeded' if sampled else 'greedy'}")
                    figures.extend(throughput(raw, peer, ours, width, sizes, sampled=sampled))
        if Part.GAPS in only:
            say(f"16 streams, one of them with {sizes.long:,} tokens before it")
            figures.append(mixed(raw, ours, sizes))
            say(f"4 streams, while a prompt of {sizes.long:,} tokens is read")
            figures.extend(interference(raw, ours, sizes))
        if Part.FRONTIER in only:
            say("the same with shorter and longer pieces")
            figures.extend(frontier(raw, folder, model, sizes))
        if Part.REUSE in only:
            say("conversations that go on")
            figures.extend(reuse(raw, folder, model, sizes))
            say(f"{sizes.sharing} conversations that begin alike")
            figures.append(sharing(folder, model, sizes))
        if Part.AGENTS in only:
            say(f"agents at work for {sizes.minutes} minutes")
            figures.extend(agents(folder, sizes))
        if Part.LEAVING in only:
            say("clients that go away")
            figures.extend(leaving(ours, sizes))
        if Part.KILLS in only:
            say(f"{sizes.kills} kills of the worker under 16 streams")
            figures.extend(deaths(raw, ours, sizes))
    return figures


def _start(peer: Peer, ours: Daemon, peer_s: float, ours_s: float) -> Iterator[Figure]:
    told = f"its: {peer_s:.1f} s"
    yield Figure("start to first token / mlx_lm.server", ours_s / peer_s, "x", 1.25, "lower", told)
    told = f"its: {peer.rss_bytes() / 1e6:,.0f} MB; ours is daemon and worker, without a standby"
    memory = ours.rss_bytes() / peer.rss_bytes()
    yield Figure("memory at rest / mlx_lm.server", memory, "x", 2, "lower", told)
