"""`[slo.*]`: the objectives, each the share of good ones among all, that is to be reached within a period.

The defaults are for any machine: two slow cores keep them. Whoever has a fast one tightens them.
"""

from typing import Final, Literal

from pydantic import Field

from lmx_ledger.core.section import Seconds, Section

Period = Literal["1d", "7d", "30d"]

_PERIOD: Final = "Over which the budget of what may be missed goes: 1d, 7d or 30d."
_MIN_EVENTS: Final = "With fewer in a window there is no alert."
_TARGET: Final = "Share that has to be good."


class ObjectiveSection(Section):
    """What every objective has."""

    enabled: bool = Field(True, description="Whether it is watched.")
    target: float = Field(0.95, gt=0, lt=1, description=_TARGET)
    period: Period = Field("30d", description=_PERIOD)
    min_events: int = Field(30, ge=1, description=_MIN_EVENTS)


class TtftSection(ObjectiveSection):
    """Objective: answers whose first token came in time, from the arrival of the request on."""

    threshold: Seconds = Field(30.0, description="Time to the first token.")


class ItlSection(ObjectiveSection):
    """Objective: answers whose tokens came one soon after the other (95 of 100 gaps were no longer)."""

    threshold: Seconds = Field(2.0, description="Time between two tokens.")


class DecodeSection(ObjectiveSection):
    """Objective: answers that came fast enough behind their first token."""

    threshold: float = Field(1.0, gt=0, description="Tokens per second, at least.")


class PrefillSection(ObjectiveSection):
    """Objective: prompts that were read fast enough, where at least 64 tokens had to be computed."""

    threshold: float = Field(5.0, gt=0, description="Tokens per second, at least.")


class AvailabilitySection(ObjectiveSection):
    """Objective: requests that were answered, among those and the ones that failed for our fault (500, 503)."""

    target: float = Field(0.99, gt=0, lt=1, description=_TARGET)


class AdmissionSection(ObjectiveSection):
    """Objective: requests that were not refused on purpose (429)."""


class ColdStartSection(ObjectiveSection):
    """Objective: loads of a model that were done in time."""

    threshold: Seconds = Field(120.0, description="Time of a load.")
    min_events: int = Field(10, ge=1, description=_MIN_EVENTS)


class CacheHitSection(ObjectiveSection):
    """Objective: turns of known conversations that found what was computed (but `new_session`, `too_short`)."""

    target: float = Field(0.85, gt=0, lt=1, description=_TARGET)
    period: Period = Field("1d", description=_PERIOD)
    min_events: int = Field(50, ge=1, description=_MIN_EVENTS)


class QueueWaitSection(ObjectiveSection):
    """Objective: requests that did not wait for a place too long."""

    threshold: Seconds = Field(30.0, description="Time in line.")


class SloSection(Section):
    """Objectives, and how much of each may be missed."""

    ttft: TtftSection = TtftSection()
    itl: ItlSection = ItlSection()
    decode_tps: DecodeSection = DecodeSection()
    prefill_tps: PrefillSection = PrefillSection()
    availability: AvailabilitySection = AvailabilitySection()
    admission: AdmissionSection = AdmissionSection()
    cold_start: ColdStartSection = ColdStartSection()
    cache_hit: CacheHitSection = CacheHitSection()
    queue_wait: QueueWaitSection = QueueWaitSection()
