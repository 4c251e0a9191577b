"""What happened in each second, as numbers: one walk over the events, for onsets, timelines and ranks; pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard import swap
from lmx_ledger.guard.recorded_memory import asked
from lmx_ledger.guard.thermal import Policy as HeatPolicy

SECOND_US: Final = 1_000_000
AHEAD_S: Final = 5

NEW: Final = "new_sessions"
REFUSED: Final = "refused"
FAILED: Final = "failed"
TTFT: Final = "ttft_ms"
PAGING: Final = "paging"
LOST_PREFIX: Final = "lost_prefix_tokens"
DISK: Final = "disk_ms_per_mb"
EXITS: Final = "worker_exits"
HANGS: Final = "worker_hangs"
HEAT: Final = "heat"
SWAP: Final = "swap"
OTHERS: Final = "memory_taken_by_others"
CONFIG: Final = "configuration"

REFUSALS: Final = frozenset({429, 503, 507})
HEAT_LASTS_US: Final = int(HeatPolicy().slow_s * 1e6)
"""Throttling is told of when it has lasted for so long."""

_LEAST_BYTES: Final = 50_000
"""Of so little on or off the disk in a second nothing can be said of its speed."""
_OTHERS: Final = frozenset({"other_programs", "cgroup", "pressure"})
_PER_MB: Final = 1e6


class Seconds:
    """Series of `count` seconds from `base_us` on. Where nothing could be measured a value is None.

    `seqs` has the events behind a series, oldest first. `tokens` are prompt tokens that were computed, by whom
    (session, else client) and second; `of_client` are the same by client alone, with how many prompts that were, and
    `clients` says whose a request was.
    """

    def __init__(self, events: Iterable[Recorded], since_us: int, until_us: int) -> None:
        self.base_us = since_us
        self.count = max((until_us - since_us) // SECOND_US + 1, 1)
        self.seqs: defaultdict[str, list[int]] = defaultdict(list)
        self.tokens: dict[str, dict[int, float]] = {}
        self.of_client: dict[str, dict[int, tuple[int, float]]] = {}
        self.clients: dict[str, str] = {}
        self._counts: dict[str, list[float]] = {}
        self._ttft: dict[int, float] = {}
        self._disk: dict[int, tuple[float, float]] = {}
        self._waiting: dict[str, tuple[int, str]] = {}
        self._seen: set[str] = set()
        self._rules: dict[str, Any] | None = None
        self._on: dict[str, int] = {}
        for event in events:
            act = _ACTS.get(event.type)
            if act is not None:
                act(self, event)
        for name in list(self._on):
            self._fill(name, until_us)
        for at_us, _ in self._waiting.values():
            self._note_ttft(at_us, (until_us - at_us) / 1e3)

    def counts(self, name: str) -> list[float]:
        """How often, or how much of it, by second."""
        return self._counts.get(name) or [0.0] * self.count

    def ahead(self, name: str) -> list[float]:
        """Of what is counted: how much came within `AHEAD_S`, from each second on, so that what comes seldom shows."""
        values, total, sums = self.counts(name), 0.0, list[float]()
        for at in range(self.count - 1, -1, -1):
            total += values[at] - (values[at + AHEAD_S] if at + AHEAD_S < self.count else 0.0)
            sums.append(max(total, 0.0))
        return sums[::-1]

    def first(self, name: str, at: int) -> int:
        """Of a change that `ahead` shows at that second: the second in which more came than ever before it."""
        values = self.counts(name)
        most = max(values[:at], default=0.0)
        return next((n for n in range(at, min(at + AHEAD_S, self.count)) if values[n] > most), at)

    def series(self, name: str) -> Sequence[float | None]:
        """The series of that name, to look for changes in; of what is counted, see `ahead`."""
        if name == TTFT:
            return [self._ttft.get(at) for at in range(self.count)]
        if name == DISK:
            return [
                ms / size * _PER_MB if (ms := found[0]) and (size := found[1]) >= _LEAST_BYTES else None
                for found in (self._disk.get(at, (0.0, 0.0)) for at in range(self.count))
            ]
        return self.ahead(name)

    def tenant(self, name: str) -> list[float]:
        """Tokens of one of `tokens`, by second."""
        found = self.tokens.get(name, {})
        return [found.get(at, 0.0) for at in range(self.count)]

    def client(self, name: str) -> list[float]:
        """Tokens of one of `of_client`, by second."""
        found = self.of_client.get(name, {})
        return [found.get(at, (0, 0.0))[1] for at in range(self.count)]

    def at(self, time_us: int) -> int:
        """The index of that moment, within the bounds."""
        return min(max((time_us - self.base_us) // SECOND_US, 0), self.count - 1)

    def time_us(self, at: int) -> int:
        """When that second began."""
        return self.base_us + at * SECOND_US

    # --- what each event adds ----------------------------------------------------------------------------------------

    def _add(self, name: str, event: Recorded, amount: float = 1.0) -> None:
        values = self._counts.get(name)
        if values is None:
            values = self._counts[name] = [0.0] * self.count
        values[self.at(event.time_us)] += amount
        self.seqs[name].append(event.seq)

    def _received(self, event: Recorded) -> None:
        who = event.session or event.data.get("client") or "?"
        if event.session is None or event.session not in self._seen:
            self._seen.add(event.session or "")
            self._add(NEW, event)
        if event.request:
            self._waiting[event.request] = (event.time_us, who)
            self.clients[event.request] = event.data.get("client") or "?"

    def _rejected(self, event: Recorded) -> None:
        self._waiting.pop(event.request or "", None)
        if event.data["status"] in REFUSALS:
            self._add(REFUSED, event)
        elif event.data["status"] >= 500:
            self._add(FAILED, event)

    def _failed(self, event: Recorded) -> None:
        self._waiting.pop(event.request or "", None)
        self._add(FAILED, event)

    def _first_token(self, event: Recorded) -> None:
        ttft_ms = event.data["ttft_ms"]
        at_us, _ = self._waiting.pop(event.request or "", (event.time_us - int(ttft_ms * 1e3), ""))
        self.seqs[TTFT].append(event.seq)
        self._note_ttft(at_us, ttft_ms)

    def _gone(self, event: Recorded) -> None:
        self._waiting.pop(event.request or "", None)

    def _note_ttft(self, at_us: int, ttft_ms: float) -> None:
        """By the second in which it was asked: who came before the fault was answered as usual."""
        at = self.at(at_us)
        self._ttft[at] = max(self._ttft.get(at, 0.0), ttft_ms)

    def _computed(self, event: Recorded) -> None:
        data = event.data
        tokens = data["recomputed_tokens"] if event.type == "kv.missed" else data["computed_tokens"]
        who = event.session or self._waiting.get(event.request or "", (0, "?"))[1]
        mine = self.tokens.setdefault(who, {})
        at = self.at(event.time_us)
        mine[at] = mine.get(at, 0.0) + tokens
        theirs = self.of_client.setdefault(self.clients.get(event.request or "", "?"), {})
        prompts, known = theirs.get(at, (0, 0.0))
        theirs[at] = prompts + 1, known + tokens
        if event.type == "kv.missed" and data["breaker"] and data["lost_tokens"]:
            self._add(LOST_PREFIX, event, data["lost_tokens"])

    def _paged(self, event: Recorded) -> None:
        self._add(PAGING, event)
        if event.type == "paging.in_finished":
            self._note_disk(event, event.data["bytes"])

    def _restored(self, event: Recorded) -> None:
        if event.data["read_bytes"]:
            self._note_disk(event, event.data["read_bytes"])

    def _saved(self, event: Recorded) -> None:
        if event.data["on_disk"]:
            self._note_disk(event, event.data["bytes"])

    def _note_disk(self, event: Recorded, size: int) -> None:
        # By the second in which it began: what is slow ends long after the disk became so.
        at = self.at(event.time_us - int(event.data["ms"] * 1e3))
        ms, known = self._disk.get(at, (0.0, 0.0))
        self._disk[at] = (ms + event.data["ms"], known + size)
        self.seqs[DISK].append(event.seq)

    def _exited(self, event: Recorded) -> None:
        if not event.data["expected"]:
            self._add(HANGS if event.data.get("hung") else EXITS, event)

    def _begin(self, name: str, event: Recorded, since_us: int) -> None:
        self._on.setdefault(name, since_us)
        self.seqs[name].append(event.seq)

    def _fill(self, name: str, until_us: int) -> None:
        """It was so from then until now."""
        since_us = self._on.pop(name, None)
        if since_us is None:
            return
        values = self._counts.setdefault(name, [0.0] * self.count)
        for at in range(self.at(since_us), self.at(until_us) + 1):
            values[at] = 1.0

    def _sensed(self, event: Recorded) -> None:
        match event.type:
            case "sensor.thermal_throttled":
                self._begin(HEAT, event, event.time_us - HEAT_LASTS_US)
            case "sensor.thermal_recovered":
                self._fill(HEAT, event.time_us)
            case "sensor.swap_thrash":
                self._begin(SWAP, event, event.time_us - swapped_for_us(event))
            case "sensor.swap_recovered":
                self._fill(SWAP, event.time_us)

    def _limit(self, event: Recorded) -> None:
        if event.data["name"] != "memory_limit":
            return
        if event.type == "guard.threshold_cleared":
            self._fill(OTHERS, event.time_us)
        elif event.data["reason"] in _OTHERS and event.severity > 20:
            self._begin(OTHERS, event, event.time_us)

    def _configured(self, event: Recorded) -> None:
        if event.type == "config.loaded":
            # A start is no change; one with other rules than the run before had is.
            known, self._rules = self._rules, event.data["changed"]
            if known is None or known == self._rules:
                return
        elif event.type == "config.changed" and not (event.data["changed"] or event.data["error"]):
            return
        self._add(CONFIG, event)


_ACTS: Final[dict[str, Any]] = {
    "request.received": Seconds._received,
    "request.rejected": Seconds._rejected,
    "request.failed": Seconds._failed,
    "request.first_token": Seconds._first_token,
    "request.finished": Seconds._gone,
    "request.cancelled": Seconds._gone,
    "kv.hit": Seconds._computed,
    "kv.missed": Seconds._computed,
    "kv.restored": Seconds._restored,
    "kv.saved": Seconds._saved,
    "paging.in_finished": Seconds._paged,
    "paging.out_finished": Seconds._paged,
    "engine.exited": Seconds._exited,
    "sensor.thermal_throttled": Seconds._sensed,
    "sensor.thermal_recovered": Seconds._sensed,
    "sensor.swap_thrash": Seconds._sensed,
    "sensor.swap_recovered": Seconds._sensed,
    "guard.threshold_breached": Seconds._limit,
    "guard.threshold_cleared": Seconds._limit,
    "config.changed": Seconds._configured,
    "config.loaded": Seconds._configured,
    "model.load_failed": Seconds._configured,
}


def swapped_for_us(event: Recorded) -> int:
    """How long before a `sensor.swap_thrash` it began, by the readings that were judged: where what was written since
    then stands out most above half of the rate there is now (CUSUM, backwards).

    Without the readings (of an older ledger): the whole window that was judged.
    """
    question = asked(event)
    if question is None or question.observed.reading is None:
        return int(event.data["window_s"] * 1e6)
    policy, now_us = question.policy.swap, question.observed.at_us
    window = swap.noted(question.state.window, now_us, question.observed.reading, policy)
    rate = swap.rate(window, policy)
    if rate is None:
        return int(event.data["window_s"] * 1e6)
    last = window[-1]

    def stands_out(one: swap.Sample) -> float:
        return last.written_bytes - one.written_bytes - rate.second / 2 * (last.at_us - one.at_us) / 1e6

    return now_us - max(window, key=stands_out).at_us
