"""The documents of a report: what it is written from beside the ledger's events, and the postmortem itself.

What it is written from has microseconds since the epoch, UTC; whoever keeps incidents fills it in. The postmortem has
RFC 3339 UTC with microseconds (its figures: microseconds), and durations that carry their unit.
"""

from typing import Final

import msgspec

from lmx_ledger.report.chart import BarChart, LaneChart, TimeChart

FORM: Final = 1
"""Of the JSON; fields are only ever added under one number."""
VERIFY: Final = "lmx ledger verify"
VERIFY_BUNDLE: Final = "lmx ledger verify --bundle FILE"


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One incident as it stands. `started_us` is when the trouble began, `detected_us` when somebody noticed.

    `opened_by` are the seqs of the events that opened it, `reopened` how often it came back, `drill`: a rehearsal.
    """

    id: str
    title: str
    severity: str
    status: str
    started_us: int
    detected_us: int
    acknowledged_us: int | None = None
    mitigated_us: int | None = None
    resolved_us: int | None = None
    closed_us: int | None = None
    reopened: int = 0
    drill: bool = False
    models: tuple[str, ...] = ()
    opened_by: tuple[int, ...] = ()

    @property
    def over_us(self) -> int | None:
        """When it was resolved, or was closed without that; None while it goes on."""
        return self.closed_us if self.resolved_us is None else self.resolved_us


class TimelineLine(msgspec.Struct, frozen=True, kw_only=True):
    """`count` events of one kind, told as one line: the first at `at_us` with `seq`, the last with `last_seq`."""

    at_us: int
    seq: int
    last_seq: int
    kind: str
    severity: str
    text: str
    count: int = 1


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks for a hypothesis, and the events that say so."""

    text: str
    seqs: tuple[int, ...] = ()


class Hypothesis(msgspec.Struct, frozen=True, kw_only=True):
    """A likely cause; `score` is 0 to 1."""

    title: str
    score: float
    sentence: str
    evidence: tuple[Evidence, ...] = ()


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay under another setting would have decided, beside what was decided."""

    setting: str
    recorded: str
    replayed: str
    difference: str = ""


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """Which stretch of the ledger this was written from, and the newest event then: its seq and hash (hexadecimal).

    `signed_seq` is the last seq under a signed head. `verify` is the command that holds the ledger against itself, or,
    where this was written from a redacted `bundle` of it, the one with which the ledger's owner proves that.
    """

    first_seq: int
    last_seq: int
    head_seq: int
    head_hash: str
    signed_seq: int
    verify: str = VERIFY
    bundle: bool = False


class Promises(msgspec.Struct, frozen=True, kw_only=True):
    """The objectives in force, in milliseconds: what takes longer was slow. The defaults are the configuration's."""

    ttft_ms: float = 30_000.0
    itl_ms: float = 2_000.0


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the incident is. `*_s` are seconds from the start; None: that has not happened, or the clock went back.

    `until` is the end, or, while it is open, the last event that this was written from; `duration_s` goes to there.
    """

    incident: str
    title: str
    severity: str
    status: str
    open: bool
    drill: bool
    reopened: int
    models: list[str]
    opened_by: list[int]
    started: str
    detected: str
    acknowledged: str | None
    mitigated: str | None
    resolved: str | None
    until: str
    duration_s: float
    to_detect_s: float | None
    to_acknowledge_s: float | None
    to_mitigate_s: float | None
    to_resolve_s: float | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One of the ten questions that everybody asks, and its answer in a sentence or two."""

    key: str
    question: str
    text: str


class Impact(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the requests of one model, one session, or all (`name`).

    `slow` are among the answered: first token or gap between tokens over the objective. `refused` and `failed` are by
    code. `recomputed_tokens` had been computed before.
    """

    name: str
    requests: int
    answered: int
    slow: int
    refused: dict[str, int]
    failed: dict[str, int]
    cancelled: int
    resumed: int
    recomputed_tokens: int
    ttft_p95_ms: float | None
    wall_p95_ms: float | None


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """An objective's error budget over the incident, as shares of the period's; `burned` is their difference.

    `fastest` is the highest burn rate that was told, over `window`; 1 uses the budget up in just the period.
    """

    objective: str
    model: str | None
    before: float | None
    after: float | None
    burned: float | None
    fastest: float | None
    window: str | None
    alerts: int
    exhausted: bool


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One of the slowest requests. Queue, prefill and decode add up to its wall time, as far as events tell them."""

    id: str
    model: str | None
    session: str | None
    outcome: str
    wall_ms: float
    ttft_ms: float | None
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    reason: str
    because: list[int]


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What the guard did, from when to when (`ended` None: to the end), and its symptom's figure around that.

    `helped` is yes, no or unclear; a figure that fell proves no cause.
    """

    time: str
    ended: str | None
    seq: int
    what: str
    why: str
    figure: str
    before: float | None
    during: float | None
    after: float | None
    unit: str
    helped: str
    text: str


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Something to change, from the table of rules: what, why, the key of the configuration (None: none), evidence.

    `owner` is left blank for people.
    """

    rule: str
    what: str
    why: str
    config: str | None
    because: list[int]
    owner: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the timeline."""

    time: str
    seq: int
    last_seq: int
    kind: str
    severity: str
    text: str
    count: int


class Postmortem(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `sessions` are those hit hardest, if any was; `others` is the sum of the rest, of `sessions_in_all`.

    `notes` are what a reader has to know to trust the rest: a clock that went back, events that are missing.
    """

    form: int
    header: Header
    summary: str
    answers: list[Answer]
    notes: list[str]
    total: Impact
    by_model: list[Impact]
    sessions: list[Impact]
    others: Impact | None
    sessions_in_all: int
    sessions_affected: int
    budgets: list[Budget]
    worst: list[Request]
    timeline: list[Told]
    timeline_left_out: int
    figures: list[TimeChart | LaneChart | BarChart]
    hypotheses: list[Hypothesis]
    acts: list[Act]
    acts_left_out: int
    what_if: list[WhatIf]
    actions: list[Action]
    integrity: Integrity | None

    def answer(self, key: str) -> str:
        """The text of an answer; `KeyError` where there is none of that key."""
        for answer in self.answers:
            if answer.key == key:
                return answer.text
        raise KeyError(key)
