"""Hypotheses of what caused an incident, the likeliest first, each with its evidence; pure. None is called the cause.

A lagged correlation alone ranks effects above their causes. So four things are multiplied: that it began before the
trouble did, how far its rate jumped (in robust standard deviations), how well the trouble follows it at a lag that is
not negative, and whether the chain of causes leads to it. What a rehearsal tells of itself is never looked at.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident import series as s
from lmx_ledger.incident.dating import EVENT
from lmx_ledger.incident.series import SECOND_US, Seconds
from lmx_ledger.incident.state import Incident
from lmx_ledger.incident.suspect import Suspect
from lmx_ledger.incident.suspects import suspects

_SLACK_S: Final = 2.0
"""Seconds are counted whole, and what happens at once is told of one after the other."""
_LATE_S: Final = 6.0
"""What began so long behind the trouble is that much less likely (by a factor of e)."""
_DATED: Final = 0.2
"""... but no less than this, where the beginning is only dated by what changed first, and it was there when somebody
noticed: a machine that was busy for another reason just before makes that too early.
"""
_EARLY_S: Final = 60.0
_HALF_Z: Final = 4.0
_MOST_LAG: Final = 10
_LEAST: Final = 0.02
_MOST: Final = 6
_CHAIN: Final = 50
_DRILL: Final = "drill"


class Hypothesis(NamedTuple):
    """`score` goes from 0 to 1; `evidence` has the numbers behind it, `seqs` the first events of it."""

    kind: str
    name: str
    score: float
    text: str
    evidence: dict[str, Any]
    seqs: tuple[int, ...]

    def public(self) -> dict[str, Any]:
        """For a program."""
        return {**self._asdict(), "seqs": list(self.seqs)}


def rank(events: Iterable[Recorded], incident: Incident, since_us: int, until_us: int) -> list[Hypothesis]:
    """The hypotheses of an incident, from the events of [`since_us`, `until_us`], oldest first."""
    found = list(without_rehearsals(events))
    if not found:
        return []
    seconds = Seconds(found, since_us, until_us)
    by_seq = {event.seq: event for event in found}
    trouble = _trouble(seconds, incident)
    ranked = [_judged(one, seconds, trouble, incident, by_seq) for one in suspects(found, seconds, incident)]
    return sorted((one for one in ranked if one.score >= _LEAST), key=lambda one: -one.score)[:_MOST]


def without_rehearsals(events: Iterable[Recorded]) -> Iterable[Recorded]:
    """As if nobody had said that it is a rehearsal."""
    for event in events:
        if event.type.startswith("drill.") or (
            event.type == "operator.commanded" and event.data.get("command") == _DRILL
        ):
            continue
        if _DRILL in event.data:
            data = {name: value for name, value in event.data.items() if name != _DRILL}
            yield msgspec.structs.replace(event, data=data)
        else:
            yield event


def _judged(
    suspect: Suspect,
    seconds: Seconds,
    trouble: Sequence[float],
    incident: Incident,
    by_seq: Mapping[int, Recorded],
) -> Hypothesis:
    start = (incident.started_us - seconds.base_us) / SECOND_US
    at = (suspect.onset_us - seconds.base_us) / SECOND_US
    late_s = at - start
    if late_s > _SLACK_S:
        least = _DATED if incident.how != EVENT and suspect.onset_us <= incident.detected_us else 0.0
        precedes = max(math.exp(-(late_s - _SLACK_S) / _LATE_S), least)
    else:
        precedes = 1.0 if suspect.lasts else math.exp(-max(-late_s - _SLACK_S, 0.0) / _EARLY_S)
    jump = suspect.z / (suspect.z + _HALF_Z)
    follows, lag = _follows(suspect.values, trouble)
    reach = _reach(suspect, seconds, incident, by_seq)
    score = precedes * (0.3 + 0.7 * jump) * (0.4 + 0.6 * follows) * (0.5 + 0.5 * reach) * suspect.weight
    evidence = {
        "began_s": round(late_s, 1),
        "before": _rounded(suspect.before),
        "after": _rounded(suspect.after),
        "unit": suspect.unit,
        "z": _rounded(min(suspect.z, 999.0)),
        "correlation": round(follows, 2),
        "lag_s": lag,
        "in_chain": round(reach, 2),
        **suspect.told,
    }
    return Hypothesis(suspect.kind, suspect.name, round(score, 3), suspect.text, evidence, suspect.seqs)


def _trouble(seconds: Seconds, incident: Incident) -> list[float]:
    """How bad each second was: refused and failed requests, slow first tokens, and the incident's own time."""
    refused, failed = seconds.counts(s.REFUSED), seconds.counts(s.FAILED)
    bad = [min(a + b, 5.0) for a, b in zip(refused, failed, strict=True)]
    start = seconds.at(incident.started_us)
    ttft = seconds.series(s.TTFT)
    before = sorted(value for value in ttft[:start] if value is not None)
    usual = before[len(before) // 2] if before else None
    for at, value in enumerate(ttft):
        if value is not None and usual and value > 2 * usual:
            bad[at] += min(math.log2(value / usual), 5.0)
    end = seconds.at(incident.ended_us) if incident.ended_us is not None else seconds.count - 1
    for at in range(seconds.at(incident.detected_us), end + 1):
        bad[at] += 1.0
    return bad


def _follows(cause: Sequence[float], trouble: Sequence[float]) -> tuple[float, int]:
    """The best correlation of the trouble with what was up to some seconds before, and that lag."""
    best, lag = 0.0, 0
    for shift in range(min(_MOST_LAG, len(cause) - 2) + 1):
        found = _pearson(cause[: len(cause) - shift], trouble[shift:])
        if found > best + 0.02:
            best, lag = found, shift
    return best, lag


def _pearson(one: Sequence[float], other: Sequence[float]) -> float:
    count = len(one)
    mean_a, mean_b = math.fsum(one) / count, math.fsum(other) / count
    a = [value - mean_a for value in one]
    b = [value - mean_b for value in other]
    spread = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / spread if spread else 0.0


def _reach(suspect: Suspect, seconds: Seconds, incident: Incident, by_seq: Mapping[int, Recorded]) -> float:
    """The share of the symptoms, or of the requests that it went badly for, whose chain of causes leads there."""
    mine = set(suspect.all_seqs)
    if not mine:
        return 0.0
    symptoms = [_leads(seq, mine, by_seq) for seq in incident.events if seq in by_seq]
    bad = [_leads(seq, mine, by_seq) for seq in (*seconds.seqs[s.REFUSED], *seconds.seqs[s.FAILED])[:200]]
    return max((sum(found) / len(found) for found in (symptoms, bad) if found), default=0.0)


def _leads(seq: int, wanted: set[int], by_seq: Mapping[int, Recorded]) -> bool:
    at: int | None = seq
    for _ in range(_CHAIN):
        if at is None or at in wanted:
            break
        event = by_seq.get(at)
        at = event.cause if event is not None else None
    return at is not None and at in wanted


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
