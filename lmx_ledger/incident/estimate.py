"""What other rules would have done to the requests of a time: an estimate, by a model that is held against the ledger.

The recorded requests are served again (`incident/simulation/`), once under the rules that were and once under the
others. The first says how good the model is; only the difference of the two is what the rules do.

Taken as it was: when requests come (but who asked behind an answer of its conversation asks as long behind it), and
what is found in the KV cache. Left out: that two workers share a machine, and what it costs that the guard replaces
one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.guard.recorded import observations
from lmx_ledger.incident.outcome import Estimate, Outcome, share_of
from lmx_ledger.incident.replay import signals_under
from lmx_ledger.incident.replayed import MOST, Asked
from lmx_ledger.incident.rules import Course, course
from lmx_ledger.incident.simulation import demand as asking
from lmx_ledger.incident.simulation import machine as serving
from lmx_ledger.incident.simulation.demand import ANSWERED, FAILED, LEFT, REFUSED, Demand, Job
from lmx_ledger.incident.simulation.machine import Machine, Paged
from lmx_ledger.incident.simulation.run import Result, Simulation
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.memory.plan import RESERVE_SHARE

LEAD_US: Final = 60_000_000
"""So long before the time that is asked about the model begins, so that lines and memory are as they were."""
MOST_EVENTS: Final = 100_000
"""Of requests: a model of so many takes some seconds."""
_NO_LIMIT: Final = 1 << 60
_LEAST_SHARE: Final = 0.01
_GPU: Final = ("guard.gpu_at", "guard.gpu_for")


class Scene(NamedTuple):
    """One run's part of a time, as the model has it; whatever rules are asked about, it is the same."""

    events: Sequence[Recorded]
    base_us: int
    since_us: int
    until_us: int
    demand: Demand
    machine: Machine
    result: Result

    @property
    def window_s(self) -> tuple[float, float]:
        """The time that is asked about, on the model's clock."""
        return (self.since_us - self.base_us) / 1e6, (self.until_us - self.base_us) / 1e6


class Estimator:
    """Of one time of the ledger, for any number of rules: what is the same for all is worked out once."""

    def __init__(self, events: Iterable[Recorded], since_us: int, until_us: int, *, cut_us: int | None = None) -> None:
        """`events` are those of `demand.TYPES` from `LEAD_US` before on, and those of `machine.TYPES` from the
        beginning of each run; what came in [`since_us`, `until_us`) is asked about, before `cut_us` where there is
        more than is read.
        """
        self._cut_us = cut_us
        until_us = until_us if cut_us is None else min(until_us, cut_us)
        runs: dict[str, list[Recorded]] = {}
        for event in events:
            runs.setdefault(event.boot, []).append(event)
        self._scenes = [_scene(run, since_us, until_us) for run in runs.values()]
        self._recorded = _outcome(
            [_of_job(job) for scene in self._scenes for job in scene.demand.jobs if job.counts],
            [one for scene in self._scenes for one in _inside(scene, serving.page_ins(scene.events, scene.base_us))],
        )
        self._modelled = _modelled([(scene, scene.result) for scene in self._scenes])
        self._off = [off for scene in self._scenes for off in _off(scene.result)]

    def estimate(self, given: Mapping[str, str]) -> Estimate:
        """Under those rules.

        Raises:
            BadRule: a key that cannot be set, or not so.
        """
        values = course((), given).given
        found = self._modelled
        if given:
            found = _modelled([(scene, _served(scene, course(scene.events, given))) for scene in self._scenes])
        return Estimate(values, self._recorded, self._modelled, found, self._off, self._cut_us)

    def in_force(self, key: str) -> Any:
        """The value that a key had when the time that is asked about began; None where nobody knows."""
        return self.at(key, max(self._scenes[0].since_us, self._scenes[0].base_us)) if self._scenes else None

    def at(self, key: str, at_us: int) -> Any:
        """The value that it had at a moment; None where nobody knows."""
        if not self._scenes:
            return None
        scene = next((one for one in reversed(self._scenes) if one.base_us <= at_us), self._scenes[0])
        section, _, name = key.partition(".")
        value = getattr(getattr(course(scene.events, {}).at(at_us).config, section), name)
        return scene.machine.limit if value == "auto" else value

    def sizes(self) -> list[int]:
        """Tokens of prompt and answer of each request, the smallest first."""
        return sorted(job.room for scene in self._scenes for job in scene.demand.jobs if job.counts)

    def limit_for_all(self) -> int | None:
        """The memory limit in bytes under which no weights would have to go; None where no model is known to memory.

        What is needed at once is then at `page_to`, so that no breach of the threshold puts anything out.
        """
        needed = 0
        for scene in self._scenes:
            roomy = course(scene.events, {"memory.limit": str(_NO_LIMIT)})
            least = min(rules.config.memory.page_to for _, rules in [(0, roomy.first), *roomy.changes])
            needed = max(needed, math.ceil(_served(scene, roomy).peak / max(least - 1 / RESERVE_SHARE, _LEAST_SHARE)))
        return needed or None


def estimate(events: Iterable[Recorded], since_us: int, until_us: int, given: Mapping[str, str]) -> Estimate:
    """Of these events, see `Estimator`.

    Raises:
        BadRule: a key that cannot be set, or not so.
    """
    return Estimator(events, since_us, until_us).estimate(given)


def estimator_in(ledger: Asked, since_us: int, until_us: int, most: int = MOST_EVENTS) -> Estimator:
    """Of that time of the ledger, whole; of its requests at most so many events.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    since = since_us - LEAD_US
    asked = ledger.events(EventFilter(types=asking.TYPES, since_us=since, until_us=until_us, limit=most))
    cut_us = max(event.time_us for event in asked) if len(asked) == most else None
    events = {event.seq: event for event in asked}
    for boot in dict.fromkeys(event.boot for event in asked):
        of_run = EventFilter(types=serving.TYPES, boot=boot, until_us=cut_us or until_us, limit=MOST)
        events |= {event.seq: event for event in ledger.events(of_run)}
    return Estimator([events[seq] for seq in sorted(events)], since_us, until_us, cut_us=cut_us)


def estimate_in(ledger: Asked, since_us: int, until_us: int, given: Mapping[str, str]) -> Estimate:
    """What other rules would have done to the requests that came between these moments.

    Raises:
        BadRule: a key that cannot be set, or not so.
        LedgerError: the ledger cannot be read.
    """
    return estimator_in(ledger, since_us, until_us).estimate(given)


def _scene(run: Sequence[Recorded], since_us: int, until_us: int) -> Scene:
    base_us = max(since_us - LEAD_US, min(event.time_us for event in run))
    outages = serving.outages(run, base_us)
    demand = asking.demand(run, base_us, since_us, until_us, outages)
    machine = serving.machine(run, base_us, [(one.at_us, one) for one in observations(run)])
    rules = course(run, {})
    result = Simulation(demand, machine, rules, base_us).run()
    return Scene(run, base_us, since_us, until_us, demand, machine, result)


def _served(scene: Scene, rules: Course) -> Result:
    machine = scene.machine
    if rules.sets(*_GPU):
        signals = [(one.at_us, one) for one in signals_under(scene.events, rules)]
        machine = serving.machine(scene.events, scene.base_us, signals)
    return Simulation(scene.demand, machine, rules, scene.base_us).run()


class _Told(NamedTuple):
    """Of one request what an outcome is made of; `what` is its fate, or a code."""

    what: str
    ttft_ms: float | None
    waited_ms: float


def _of_job(job: Job) -> _Told:
    return _Told(job.code if job.fate == REFUSED else job.fate, job.ttft_ms, job.waited_ms)


def _modelled(served: Sequence[tuple[Scene, Result]]) -> Outcome:
    told: list[_Told] = []
    for _, result in served:
        for run in result.runs:
            if run.job.counts:
                told.append(_Told(run.ended or FAILED, run.ttft_ms, run.waited_ms))
    return _outcome(told, [one for scene, result in served for one in _inside(scene, result.page_ins)])


def _inside(scene: Scene, moved: Iterable[Paged]) -> list[Paged]:
    since_s, until_s = scene.window_s
    return [one for one in moved if since_s <= one.at_s < until_s]


def _off(result: Result) -> Iterable[float]:
    """By how many milliseconds the first token of each request is off that was answered both times."""
    for run in result.runs:
        job = run.job
        if job.counts and job.fate == run.ended == ANSWERED and job.ttft_ms is not None and run.ttft_ms is not None:
            yield abs(run.ttft_ms - job.ttft_ms)


def _outcome(told: Sequence[_Told], moved: Sequence[Paged]) -> Outcome:
    refused: dict[str, int] = {}
    for one in told:
        if one.what not in {ANSWERED, FAILED, LEFT}:
            refused[one.what] = refused.get(one.what, 0) + 1
    first = sorted(one.ttft_ms for one in told if one.what == ANSWERED and one.ttft_ms is not None)
    return Outcome(
        requests=len(told),
        answered=sum(one.what == ANSWERED for one in told),
        refused=dict(sorted(refused.items())),
        failed=sum(one.what in {FAILED, LEFT} for one in told),
        ttft_p50_ms=round(share_of(first, 0.5), 3) if first else None,
        ttft_p95_ms=round(share_of(first, 0.95), 3) if first else None,
        waited_ms=round(math.fsum(one.waited_ms for one in told), 3),
        page_ins=len(moved),
        page_in_ms=round(math.fsum(one.ms for one in moved), 3),
    )
