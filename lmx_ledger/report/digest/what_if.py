"""What a change would have made of the hour in which the lack of it cost most: an estimate, in bounded memory."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from lmx_ledger.core.clock import rfc3339
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.week import Period
from lmx_ledger.incident.estimate import LEAD_US, Estimator
from lmx_ledger.incident.losses import HOUR_US
from lmx_ledger.incident.outcome import Estimate
from lmx_ledger.incident.rules import BadRule, show_value
from lmx_ledger.incident.savings import Change
from lmx_ledger.incident.simulation import demand, machine
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.history import Whole
from lmx_ledger.report.digest.model import Figure, WhatIf

MOST: Final = 60_000
"""Events that are put into the model: of more it would take minutes, and hundreds of megabytes."""
_OFTEN: Final = ("kv.saved", "sensor.sampled")
_STEADY: Final = tuple(name for name in machine.TYPES if name not in _OFTEN)
_LEARNED_US: Final = 6 * HOUR_US
"""What is written all the time is of use only where it is of about that hour."""
_LIMIT: Final = "memory.limit"
_WRONG: Final = 0.5
"""A model that answers so many more or fewer of the requests than were answered has nothing to say of them."""
_NOT: Final = "What that would have done is not estimated:"


class TooMuch(Exception):
    """More events than `MOST`."""


class WhatIfs:
    """Of one ledger; what two changes of one hour have in common is worked out once."""

    def __init__(self, ledger: Whole, period: Period) -> None:
        self._ledger, self._period = ledger, period
        self._hours: dict[int, Estimator] = {}

    def of(self, change: Change) -> tuple[WhatIf | None, str | None]:
        """The estimate, or why there is none; neither where no model can set what is to be changed.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        if not change.given:
            return None, None
        since_us = max(change.hour * HOUR_US, self._period.since_us)
        until_us = min((change.hour + 1) * HOUR_US, self._period.until_us)
        try:
            estimator = self._hours.get(change.hour)
            if estimator is None:
                estimator = self._hours[change.hour] = Estimator(self._events(since_us, until_us), since_us, until_us)
            found = estimator.estimate(_enough(estimator, change.given))
        except TooMuch:
            return None, f"{_NOT} the hour in which it cost most has more than {MOST:,} events."
        except BadRule as error:
            return None, f"{_NOT} {error}."
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # Of events that are not as the model expects them. The rest of the digest does not hang on it.
            return None, f"{_NOT} the model of the hour in which it cost most fails ({type(error).__name__})."
        answered = found.figure("answered")
        if answered.error > _WRONG * found.recorded.requests:
            return None, (
                f"{_NOT} the model of the hour in which it cost most is off by {answered.error:,.0f}"
                f" of {found.recorded.requests:,} requests."
            )
        return _told(found, since_us, until_us, change.hour_ms / change.cost_ms), None

    def _events(self, since_us: int, until_us: int) -> list[Recorded]:
        asked = self._some(EventFilter(types=demand.TYPES, since_us=since_us - LEAD_US, until_us=until_us), {})
        found = dict(asked)
        for boot in dict.fromkeys(event.boot for event in asked.values()):
            of_run = EventFilter(types=_STEADY, boot=boot, until_us=until_us)
            found = self._some(of_run, found)
            found = self._some(replace(of_run, types=_OFTEN, since_us=since_us - _LEARNED_US), found)
        return [found[seq] for seq in sorted(found)]

    def _some(self, wanted: EventFilter, known: Mapping[int, Recorded]) -> dict[int, Recorded]:
        found = self._ledger.events(replace(wanted, limit=MOST + 1))
        both = {**known, **{event.seq: event for event in found}}
        if len(both) > MOST:
            raise TooMuch
        return both


def _enough(estimator: Estimator, given: Mapping[str, str]) -> Mapping[str, str]:
    """Of memory as much as nothing would have to go under, where the model says how much that is and it is more."""
    if _LIMIT not in given:
        return given
    needed = estimator.limit_for_all()
    return given if needed is None or needed <= int(given[_LIMIT]) else {**given, _LIMIT: str(needed)}


def _told(found: Estimate, since_us: int, until_us: int, share: float) -> WhatIf:
    figures = [
        Figure(
            key=one.key,
            name=one.name,
            unit=one.unit,
            recorded=one.recorded,
            modelled=one.modelled,
            estimated=one.estimated,
            error=round(one.error, 3),
            too_rough=one.too_rough,
        )
        for one in found.figures()
        if one.told
    ]
    return WhatIf(
        setting=", ".join(f"{name} = {show_value(name, value)}" for name, value in found.given.items()),
        since=rfc3339(since_us),
        until=rfc3339(until_us),
        share=round(share, 6),
        figures=figures,
    )
