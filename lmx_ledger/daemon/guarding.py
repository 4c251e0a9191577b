"""The guard at work: figures become signals, signals stages; each is written down before anybody acts on it."""

import asyncio
import contextlib
import math
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from lmx_ledger.core import events as ev
from lmx_ledger.core.clock import mono_ns, rfc3339, utc_us
from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import Backpressure, Conflict
from lmx_ledger.core.settings import Settings
from lmx_ledger.daemon.terminal import warn
from lmx_ledger.guard import signals, stages
from lmx_ledger.guard.recorded import safe_reason
from lmx_ledger.guard.signals import SIGNALS, Threshold
from lmx_ledger.guard.stages import CeilingChanged, Observed, Off, On, Stage, StageChanged, Tick
from lmx_ledger.incident.rules import stage_rules, thresholds
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import PAGED, ModelState, ModelTable, ServedModel
from lmx_ledger.serving.service import SafeMode

EVERY_S: Final = 1.0
_SAMPLE_S: Final = 10.0
_GUARD: Final = "guard"
_MOST_RETRY_S: Final = 60


class Figure(NamedTuple):
    """What a signal is made of, now; None where nobody knows. `cause` is the event behind it, where there is one."""

    value: float | None
    cause: ev.Cause = None


class Acts(Protocol):
    """What the guard has done."""

    async def shed(self, model: ServedModel, cause: ev.Cause) -> None:
        """Put a model out of memory that has nothing to do.

        Raises:
            Conflict: it has, by now.
        """

    async def recycle(self, model: ServedModel, cause: ev.Cause) -> None:
        """Replace its worker; its sessions are kept, its streams go on with the next one."""


class GuardClock:
    """Microseconds since the epoch at the start, and from then on as the monotonic clock goes.

    So nobody can set it, and it stands still while the machine sleeps: no timer of the guard runs out in sleep.
    """

    def __init__(self) -> None:
        self._began_us, self._began_ns = utc_us(), mono_ns()

    def __call__(self) -> int:
        """Now."""
        return self._began_us + (mono_ns() - self._began_ns) // 1_000


class Guard:
    """One per daemon. `figures` reads what the signals are made of; see `guard.signals.SIGNALS`."""

    def __init__(
        self,
        table: ModelTable,
        ledger: Ledger,
        settings: Settings,
        figures: Callable[[], Mapping[str, Figure]],
        acts: Acts,
        *,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._table, self._ledger, self._figures, self._acts = table, ledger, figures, acts
        self._clock = clock or GuardClock()
        self._lock = asyncio.Lock()
        self._signals, self._stages = signals.State(), stages.State()
        self._rules: stages.Policy = stages.Policy()
        self._thresholds: dict[str, Threshold] = {}
        # The event of each signal's last change, of the stage's, and of the ceiling's.
        self._of_signal: dict[str, int | None] = {}
        self._of_stage: int | None = None
        self._now: Mapping[str, Figure] = {}
        self._refused = self._sampled_us = 0
        self._looked, self._wake = asyncio.Event(), asyncio.Event()
        self._working: set[asyncio.Task[None]] = set()
        self.stage = Stage.NORMAL
        """In force: its event is in the ledger."""
        self.safe_mode: SafeMode | None = None
        self.since_us = utc_us()
        settings.follow(self._apply)

    def _apply(self, config: Config) -> None:
        self._thresholds = thresholds(config) if config.guard.enabled else {}
        self._rules = stage_rules(config)

    @property
    def calm(self) -> bool:
        """Whether nothing is raised: no signal, no stage, no safe mode."""
        return self.stage is Stage.NORMAL and self.safe_mode is None and not self._signals.on

    async def until_calm(self) -> None:
        """Wait until it is."""
        while not self.calm:
            self._looked.clear()
            await self._looked.wait()

    def public(self) -> dict[str, Any]:
        """`/lmx/guard`."""
        return {
            "enabled": bool(self._thresholds),
            "stage": self.stage.label,
            "safe_mode": self.safe_mode is not None,
            "max_context_tokens": self.safe_mode.tokens if self.safe_mode is not None else self._rules.max_tokens,
            "reasons": sorted(self._signals.on),
            "since": rfc3339(self.since_us),
            "event": self._of_stage,
            "refused": self._refused,
            "shed": [model.id for model in self._table.all() if model.shed],
            "thresholds": [
                {
                    "name": name,
                    "value": self._now[name].value if name in self._now else None,
                    "at": threshold.at,
                    "clears_at": threshold.clears_at,
                    "for_s": threshold.for_s,
                    "on": name in self._signals.on,
                }
                for name, threshold in self._thresholds.items()
            ],
        }

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), EVERY_S)
            self._wake.clear()

    def wake(self) -> None:
        """Something has changed that should not wait for the next look."""
        self._wake.set()

    async def stop(self) -> None:
        """Nothing is shed or restarted any more."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def admit(self, model: ServedModel, *, known: bool) -> None:
        """See `serving.service.Gate`."""
        threshold = self._thresholds.get(signals.QUEUE_WAIT)
        if self.stage is Stage.NORMAL and threshold is not None and model.queue.wait_s() >= threshold.at:
            # A flood comes faster than any tick.
            await self.look()
        if stages.admits(self.stage, known=known) and not model.shed:
            return
        self._refused += 1
        retry = max(1, min(_MOST_RETRY_S, math.ceil(max(model.queue.wait_s(), self._rules.exit_s))))
        why = ", ".join(sorted(self._signals.on)) or "until that is proved to be over"
        what = f"{model.id} is out of memory for now" if model.shed else "no new sessions are taken"
        raise Backpressure(
            f"{what} ({self.stage.label}: {why}); sessions that are known go on; retry in {retry} s",
            lmx={"stage": self.stage.label, "reasons": sorted(self._signals.on)},
            cause_seq=self._of_stage,
            retry_after_s=retry,
        )

    async def look(self) -> None:
        """Once: read the figures, decide, write down, act. Where the guard is not enabled, nothing."""
        if not self._thresholds:
            return
        async with self._lock:
            self._now = self._figures()
            observed = signals.Observed(self._clock(), {name: figure.value for name, figure in self._now.items()})
            self._sample(observed)
            found = signals.decide(self._signals, observed, self._thresholds)
            self._signals = signals.evolve(self._signals, observed, self._thresholds)
            # Values as the ledger has them: a replay must come to the same.
            for decision in [one._replace(value=round(one.value, 4)) for one in found]:
                self._of_signal[decision.name] = await self._ledger.commit(self._of(decision))
                self._signals = signals.evolve(self._signals, decision, self._thresholds)
                if isinstance(decision, signals.Breached):
                    await self._observe(On(decision.at_us, decision.name, decision.value), decision.name)
                else:
                    await self._observe(Off(decision.at_us, decision.name), decision.name)
            await self._observe(Tick(observed.at_us), None)
        self._looked.set()

    def _sample(self, observed: signals.Observed) -> None:
        """Between two changes of signals the figures are not in the ledger: for who asks what other thresholds did."""
        figures = {name: round(value, 4) for name, value in observed.values.items() if value}
        if figures and observed.at_us - self._sampled_us >= _SAMPLE_S * 1e6:
            self._sampled_us = observed.at_us
            self._ledger.emit(_event(ev.SensorSampled(sensor=_GUARD, figures=figures, at_us=observed.at_us), None))

    async def _observe(self, observed: Observed, signal: str | None) -> None:
        self._stages, decided = stages.advance(self._stages, observed, self._rules)
        for decision in decided:
            if isinstance(decision, StageChanged):
                await self._change_stage(decision, signal)
            else:
                await self._change_ceiling(decision)

    async def _change_stage(self, decision: StageChanged, signal: str | None) -> None:
        reasons = dict(decision.reasons)
        changed = ev.GuardStageChanged(
            from_=decision.before.label,
            to=decision.after.label,
            reasons=list(reasons),
            readings=reasons,
            at_us=decision.at_us,
        )
        up = decision.after > decision.before
        # Up because of the last signal that came on, down because of the last one that went off.
        latest = max((seq for name in (reasons if up else SIGNALS) if (seq := self._of_signal.get(name))), default=None)
        cause = self._of_signal.get(signal) if signal is not None else None
        severity = None if up else ev.Severity.INFO
        seq = await self._ledger.commit(_event(changed, cause or latest, severity))
        self._of_stage, self.since_us = seq, utc_us()
        match decision.before, decision.after:
            case Stage.NORMAL, Stage.BACKPRESSURE:
                self._refused = 0
                await self._ledger.commit(_event(ev.GuardBackpressureOn(reasons=list(reasons)), seq))
            case Stage.BACKPRESSURE, Stage.NORMAL:
                await self._ledger.commit(_event(ev.GuardBackpressureOff(refused=self._refused), seq))
            case Stage.BACKPRESSURE, Stage.SHEDDING:
                self._begin(self._shed(seq))
            case Stage.SHEDDING, Stage.BACKPRESSURE:
                for model in self._table.all():
                    model.shed = False
            case Stage.SHEDDING, Stage.RESTART:
                self._begin(self._restart(seq))
        self.stage = decision.after

    async def _change_ceiling(self, decision: CeilingChanged) -> None:
        reason = safe_reason(decision.reason)
        changed = ev.GuardContextCeilingChanged(
            from_=decision.before, to=decision.after, reason=reason, at_us=decision.at_us
        )
        began = {safe_reason(name): name for name in SIGNALS}
        signal = decision.reason or (began[self.safe_mode.reason] if self.safe_mode is not None else None)
        cause = self._of_signal.get(signal) if signal is not None else None
        severity = ev.Severity.INFO if decision.reason is None else None
        seq = await self._ledger.commit(_event(changed, cause, severity))
        self.safe_mode = SafeMode(decision.after, reason, seq) if decision.reason is not None else None

    async def _shed(self, cause: ev.Cause) -> None:
        models = self._table.all()
        primary = primary_of(models)
        for model in to_shed(models):
            if self.stage < Stage.SHEDDING:
                return
            # It may have been asked something while the ones before it went.
            if model not in to_shed(models):
                continue
            # Before anything is awaited: whoever came in between would wait for a model that goes.
            model.shed, done = True, False
            try:
                shed = ev.GuardModelShed(priority=model.priority, bytes=model.resident_bytes, primary=primary.id)
                seq = await self._ledger.commit(_event(shed, cause, model=model))
                # An operator may have pinned it, or begun to load it anew.
                with contextlib.suppress(Conflict):
                    await self._acts.shed(model, seq or cause)
                    done = True
            finally:
                model.shed = done and self.stage >= Stage.SHEDDING

    async def _restart(self, cause: ev.Cause) -> None:
        for model in self._table.all():
            if model.worker is not None:
                wanted = ev.GuardRestartRequested(reason="stage")
                seq = await self._ledger.commit(_event(wanted, cause, model=model))
                await self._acts.recycle(model, seq or cause)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside the guard's own round: to put a model out may take a while."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            warn("".join(traceback.format_exception(error)))

    def _of(self, decision: signals.Decision) -> ev.Event:
        threshold = decision.threshold
        data: ev.EventData
        kind = ev.GuardThresholdBreached if isinstance(decision, signals.Breached) else ev.GuardThresholdCleared
        data = kind(
            name=decision.name,
            reason="reached" if isinstance(decision, signals.Breached) else "cleared",
            value=round(decision.value, 4),
            threshold=threshold.at,
            clears_at=threshold.clears_at,
            at_us=decision.at_us,
        )
        # Of these an event has told already: this one is for the chain, and for a replay.
        told = decision.name in {signals.SWAP, signals.THERMAL, signals.BURN}
        severity = ev.Severity.DEBUG if told else None
        return _event(data, self._now[decision.name].cause, severity)


def primary_of(models: Sequence[ServedModel]) -> ServedModel:
    """The model that is kept: of the highest priority, and of several the one that is configured first."""
    return max(models, key=lambda model: model.priority)


def to_shed(models: Sequence[ServedModel]) -> list[ServedModel]:
    """Who goes, in that order: all that are in memory, have nothing to do, are not pinned, and not the primary one."""
    primary = primary_of(models)
    return sorted(
        (
            model
            for model in models
            if model is not primary
            and not model.pinned
            and model.state in {ModelState.RESIDENT, *PAGED}
            and not model.in_flight
            and not model.queue.waiting
        ),
        key=lambda model: (model.priority, model.last_used_us or 0),
    )


def _event(
    data: ev.EventData, cause: ev.Cause, severity: ev.Severity | None = None, model: ServedModel | None = None
) -> ev.Event:
    stream = _GUARD if model is None else f"model:{model.id}"
    return ev.Event(data=data, stream=stream, cause=cause, severity=severity, model=model.id if model else None)
