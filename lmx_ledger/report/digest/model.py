"""The document of a digest. Times are RFC 3339 UTC (figures: microseconds), durations and sizes carry their unit."""

from typing import Final

import msgspec

from lmx_ledger.report.chart import BarChart, LaneChart, TimeChart

FORM: Final = 1
"""Of the JSON; fields are only ever added under one number."""
KIND: Final = "digest"
"""By which a folder's index tells it from a postmortem."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Of which time it is: `since` is in it, `until` is not; `week` is the ISO week's name, where it is just one.

    It is made of `events` events of the ledger, from seq `first_seq` to `last_seq` (whose id is `last_id`). `whole`:
    the ledger goes on behind the time; else what came later is not in it.
    """

    name: str
    week: str | None
    since: str
    until: str
    events: int
    first_seq: int
    last_seq: int
    last_id: str
    whole: bool
    requests: int
    incidents: int


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of this time and of the time before. `better` is yes, no, or empty (as good as the same, or neither)."""

    name: str
    unit: str
    now: float | None
    before: float | None
    better: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the requests: as it was recorded, and as it would have been; see `incident.outcome`.

    `unit` is ms or empty (a count). The model, under the rules that were, comes to `modelled`: it is off by `error`.
    `too_rough`: that is no less than what the setting changes, so that nobody can tell.
    """

    key: str
    name: str
    unit: str
    recorded: float | None
    modelled: float | None
    estimated: float | None
    error: float
    too_rough: bool


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What a setting would have made of the requests that came in the hour in which the lack of it cost most.

    `share` of all that it cost was in that hour, which is from `since` to `until`.
    """

    setting: str
    since: str
    until: str
    share: float
    figures: list[Figure]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something to change. `cost_ms` is what the lack of it cost, the most that it can save; `because` are events.

    `config` names keys of the configuration (None: it is no matter of configuration). `what_if` is None where no
    model can set it, or where `no_what_if` says why there is none.
    """

    rule: str
    what: str
    why: str
    cost_ms: float
    times: int
    config: str | None
    because: list[int]
    what_if: WhatIf | None
    no_what_if: str | None


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """An objective's error budget in that time, of one model (None: of all).

    Of `total` requests `good` were good, `shed` were refused on purpose and are in neither. `burned` is the share of
    what might have been bad in that time: 1 is just all of it. `left` is what was left of the period's budget at the
    end (below 0: more than all was used), `left_before` at the beginning. `fastest` is the highest burn rate that was
    told, over `window`.
    """

    objective: str
    model: str | None
    target: float
    period: str
    good: int
    total: int
    shed: int
    burned: float | None
    burned_before: float | None
    left: float | None
    left_before: float | None
    fastest: float | None
    window: str | None
    alerts: int
    exhausted: bool


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """One that went on in that time, as it stood at the end of it. `*_s` are seconds from its start; None: not yet.

    `lasted_s` is up to its end, or to the end of the time. `cause` is the likeliest hypothesis, with its score (0 to
    1). Whom it hit is None where that was not counted. `report` is the name of its postmortem's files beside this one,
    where they are there.
    """

    id: str
    title: str
    severity: str
    status: str
    drill: bool
    models: list[str]
    started: str
    open: bool
    lasted_s: float
    detect_s: float | None
    acknowledge_s: float | None
    mitigate_s: float | None
    resolve_s: float | None
    refused: int | None
    failed: int | None
    slow: int | None
    cause: str | None
    score: float | None
    report: str | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the requests' time; `lost`: another day would not cost it."""

    name: str
    means: str
    requests: int
    ms: float
    before_ms: float | None
    lost: bool


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """KV that was missed for one reason; `breaker` is what changed in the prompts."""

    reason: str
    breaker: str | None
    times: int
    lost_tokens: int
    ms: float


class PageIn(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of a model that came back, by why they were out: `by` is the model that wanted their room."""

    model: str
    by: str | None
    reason: str | None
    why: str
    times: int
    bytes: int
    ms: float


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Streams that started over."""

    reason: str
    times: int
    reread_tokens: int
    ms: float


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were refused with one code; `told_ms` is how long they were told to stay away."""

    code: str
    status: int
    times: int
    told_ms: float


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked, and lost: a session, or a client (by its User-Agent)."""

    name: str
    lost_tokens: int
    ms: float


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What waiting, reading again, page-ins and starting over cost; without what was rehearsed.

    Requests side by side have each their own time. `lost_ms` is the sum of the lost parts, `reread_ms` of the misses.
    """

    requests: int
    wall_ms: float
    lost_ms: float
    reread_ms: float
    parts: list[Part]
    misses: list[Miss]
    page_ins: list[PageIn]
    resumes: list[Resume]
    refusals: list[Refusal]
    sessions: list[Asker]
    clients: list[Asker]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that ended: of a day, of a model, or all. Refused and failed are by code."""

    name: str
    requests: int
    answered: int
    refused: dict[str, int]
    failed: dict[str, int]
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    ttft_p95_ms: float | None
    itl_p95_ms: float | None


class ModelDays(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of a model that ended, by day, in the order of the days."""

    model: str
    requests: list[int]


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `notes` are what a reader has to know to trust the rest. `compared` is empty without a time before."""

    form: int
    kind: str
    header: Header
    summary: str
    notes: list[str]
    changes: list[Change]
    compared: list[Compared]
    before: str
    budgets: list[Budget]
    incidents: list[Incident]
    incidents_left_out: int
    costs: Costs
    total: Traffic
    days: list[Traffic]
    models: list[Traffic]
    model_days: list[ModelDays]
    figures: list[TimeChart | LaneChart | BarChart]
