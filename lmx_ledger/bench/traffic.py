"""A working day of agents, compressed: what is reused of it within bounds, beside a cache that knows the future."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from lmx_ledger.bench.clients import ask, completion
from lmx_ledger.bench.measure import Figure, quantile
from lmx_ledger.bench.model import KV_BYTES_OF_LAYER, Shape, words, write_bench_model
from lmx_ledger.bench.servers import Daemon, running
from lmx_ledger.bench.sizes import Sizes
from lmx_ledger.engine.kv.chain import common

_AT_WORK: Final = 4
_SYSTEM: Final = 600
_LONGEST: Final = 8_000
_BLOCK: Final = 256
_RAM_SHARE: Final = 4
_OVER: Final = 1.05
"""What a median of memory may grow by and still be called flat."""


class Turn(NamedTuple):
    """What one agent asks: all of its conversation so far."""

    agent: int
    prompt: list[int]


class _Agent:
    def __init__(self, number: int, history: list[int], turns: int, at: int) -> None:
        self.number, self.history, self.turns, self.at = number, history, turns, at
        self.marks: list[int] = []


def working_day(minutes: int, seed: int = 0) -> list[list[Turn]]:
    """The turns of each minute: about four agents at work, each of them with one of three system prompts.

    A turn adds some 200 tokens. Of a hundred turns five go back to an earlier place, three send another agent off from
    where they are, and five are followed by a pause of half an hour to two hours. An agent is done after at most
    sixty turns, and what it said is never needed again.
    """
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    systems = [words(rng, _SYSTEM) for _ in range(3)]
    agents: list[_Agent] = []
    begun, day = 0, []
    for minute in range(minutes):
        while sum(agent.at <= minute + 5 for agent in agents) < _AT_WORK:
            begun += 1
            task = [*rng.choice(systems), *words(rng, rng.randint(40, 300))]
            agents.append(_Agent(begun, task, rng.randint(5, 60), minute))
        turns = []
        for agent in [agent for agent in agents if agent.at <= minute]:
            turns.append(Turn(agent.number, agent.history))
            agent.marks.append(len(agent.history))
            chance = rng.random()
            before = agent.history
            if chance < 0.05:
                before = before[: rng.choice(agent.marks)]
            elif chance < 0.08:
                begun += 1
                sent = [*before, *words(rng, rng.randint(20, 200))]
                agents.append(_Agent(begun, sent, rng.randint(3, 12), minute + 1))
            agent.history = [*before, *words(rng, rng.randint(20, 400))]
            agent.turns -= 1
            wait = rng.random()
            agent.at = minute + (1 if wait < 0.7 else rng.randint(2, 5) if wait < 0.95 else rng.randint(30, 120))
            if not agent.turns or len(agent.history) > _LONGEST:
                agents.remove(agent)
        day.append(turns)
    return day


class _Piece(NamedTuple):
    """Some tokens of a prompt, behind others; `depth` is where they end."""

    parent: "int | None"
    tokens: tuple[int, ...]
    depth: int


class _Tree:
    """All pieces there ever were, by number, and what is behind each."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.pieces: list[_Piece] = []
        self._numbers: dict[tuple[int | None, tuple[int, ...]], int] = {}
        self._behind: dict[int | None, list[int]] = defaultdict(list)

    def add(self, prompt: Sequence[int]) -> list[int]:
        """The numbers of a prompt's pieces."""
        numbers: list[int] = []
        parent: int | None = None
        for start in range(0, len(prompt), self.block):
            tokens = tuple(prompt[start : start + self.block])
            number = self._numbers.setdefault((parent, tokens), len(self.pieces))
            if number == len(self.pieces):
                self.pieces.append(_Piece(parent, tokens, start + len(tokens)))
                self._behind[parent].append(number)
            numbers.append(number)
            parent = number
        return numbers

    def match(self, prompt: Sequence[int], there: "set[int] | None" = None) -> tuple[list[int], int]:
        """The pieces (of those that are there, or of all) that a prompt begins with, and how many tokens that is."""
        used: list[int] = []
        at, parent = 0, None
        while True:
            rest = tuple(prompt[at : at + self.block])
            number = self._numbers.get((parent, rest))
            if number is None or len(rest) < self.block or (there is not None and number not in there):
                break
            used.append(number)
            at, parent = at + self.block, number
        able = [number for number in self._behind[parent] if there is None or number in there]
        shared = {number: common(rest, self.pieces[number].tokens) for number in able}
        best = max(shared, key=lambda number: (shared[number], number), default=None)
        if best is None or not shared[best]:
            return used, at
        return [*used, best], at + shared[best]


def best_reuse(prompts: Sequence[Sequence[int]], room: int, block: int = _BLOCK) -> int:
    """Tokens that a cache of `room` tokens reuses that knows the future: what is needed last goes first.

    Source: L. A. Belady, A study of replacement algorithms for a virtual-storage computer, 1966. A piece is needed
    whenever one behind it is, so what goes is never in the middle of a chain.
    """
    tree = _Tree(block)
    needed: dict[int, list[int]] = defaultdict(list)
    chains = []
    for turn, prompt in enumerate(prompts):
        for number in tree.match(prompt)[0]:
            needed[number].append(turn)
        chains.append(tree.add(prompt))
    never = len(prompts)
    there: set[int] = set()
    held = reused = 0
    queue: list[tuple[int, int, int]] = []
    for turn, (prompt, chain) in enumerate(zip(prompts, chains, strict=True)):
        used, tokens = tree.match(prompt, there)
        reused += tokens
        for number in {*used, *chain}:
            times = needed[number]
            while times and times[0] <= turn:
                times.pop(0)
            if number in chain and number not in there:
                there.add(number)
                held += len(tree.pieces[number].tokens)
            heappush(queue, (-(times[0] if times else never), -tree.pieces[number].depth, number))
        while held > room:
            due, _, number = heappop(queue)
            times = needed[number]
            if number in there and -due == (times[0] if times else never):
                there.discard(number)
                held -= len(tree.pieces[number].tokens)
    return reused


def agents(folder: Path, sizes: Sizes) -> Iterator[Figure]:
    """A day's traffic through a daemon whose KV has room for little of it.

    Raises:
        OSError: a stream failed.
    """
    model = write_bench_model(folder / "model-agents", Shape(1))
    day = working_day(sizes.minutes)
    room = sizes.room * KV_BYTES_OF_LAYER
    daemon = Daemon(folder / "home-agents", model, f"[kv]\nram = {room // _RAM_SHARE}\ndisk = {room}")
    prompts, reused, most, memory = [], 0, 0, []
    with running(daemon):
        daemon.first_token_s()
        for turns in day:
            reused += sum(asyncio.run(_ask_all(daemon.port, turns)))
            prompts += [turn.prompt for turn in turns]
            most = max(most, daemon.kv_bytes())
            memory.append(psutil.Process(daemon.worker_pid()).memory_info().rss)
    asked = sum(map(len, prompts))
    best = best_reuse(prompts, sizes.room)
    told = f"{len(prompts):,} turns, {asked:,} tokens; ours reused {reused / asked:.1%}, it {best / asked:.1%}"
    yield Figure("a day of agents: reused / by a cache that knows the future", reused / best, "x", 0.95, "higher", told)
    told = f"{room / 1e6:,.0f} MB; all of it would take {unbounded(prompts) * KV_BYTES_OF_LAYER / 1e6:,.0f} MB"
    yield Figure("a day of agents: most KV on disk / bound", most / room, "x", 1, "lower", told)
    early, late = (
        quantile(part, 0.5) for part in (memory[len(memory) // 8 : len(memory) // 2], memory[-len(memory) // 4 :])
    )
    told = (
        f"{late / 1e6:,.0f} MB, {max(memory) / 1e6:,.0f} MB at most, {room // _RAM_SHARE / 1e6:,.0f} MB of it KV in RAM"
    )
    yield Figure(
        "a day of agents: worker's memory, last quarter / first hours", late / early, "x", _OVER, "lower", told
    )


def unbounded(prompts: Sequence[Sequence[int]], block: int = _BLOCK) -> int:
    """Tokens that are stored where nothing ever goes."""
    tree = _Tree(block)
    for prompt in prompts:
        tree.add(prompt)
    return sum(len(piece.tokens) for piece in tree.pieces)


async def _ask_all(port: int, turns: Sequence[Turn]) -> list[int]:
    heard = await asyncio.gather(
        *(ask(port, completion(turn.prompt, 1, session_id=f"agent-{turn.agent}")) for turn in turns)
    )
    for one in heard:
        if one.error:
            raise OSError(f"a stream failed: {one.error}")
    return [one.cached for one in heard]
