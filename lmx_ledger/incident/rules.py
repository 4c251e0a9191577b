"""The rules by which a daemon decides, as configured: for the daemon itself, and for who asks what others would do."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import parse_bytes, parse_duration, show_bytes, show_duration
from lmx_ledger.guard import signals, stages
from lmx_ledger.guard.signals import Threshold

EXACT: Final = "exact"
ESTIMATED: Final = "estimated"
_BOTH: Final = (EXACT, ESTIMATED)
BEARS_ON: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("memory.limit", "memory.page_at", "memory.page_to"), _BOTH),
    **dict.fromkeys(("guard.queue_wait", "guard.memory_at", "guard.gpu_at", "guard.gpu_for"), _BOTH),
    **dict.fromkeys(("guard.dwell", "guard.exit_after", "guard.shed_after", "guard.safe_dwell"), _BOTH),
    # What a worker that is replaced costs those that it serves nobody has measured: the stage is all that is told.
    **dict.fromkeys(("guard.restart_after", "guard.restart_every"), (EXACT,)),
    **dict.fromkeys(("context.max_tokens", "context.safe_mode_tokens"), _BOTH),
    # No recorded decision hangs on them: the line and its slots are the model's alone.
    **dict.fromkeys(("queue.max_running", "queue.max_waiting"), (ESTIMATED,)),
}
"""What a replay may set, and which of its parts hang on it."""
KEYS: Final = tuple(BEARS_ON)
TYPES: Final = ("config.loaded", "config.changed")


class BadRule(ValueError):
    """A key that no replay can set, or a value that it cannot have; the message says what to do."""


class Rules(NamedTuple):
    """`given` are those that differ from what was in force."""

    config: Config
    given: Mapping[str, Any]

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Of the guard's signals."""
        return thresholds(self.config)

    @property
    def stages(self) -> stages.Policy:
        """By which the guard's stages go."""
        return stage_rules(self.config)

    def sets(self, *keys: str) -> bool:
        """Whether one of these differs."""
        return any(key in self.given for key in keys)


class Course:
    """The rules over one run's time: some change while it runs, each from its event on."""

    def __init__(self, changes: Sequence[tuple[int, Rules]]) -> None:
        """From which microsecond on each is in force, in order; the first one from the beginning."""
        self._from_us = [from_us for from_us, _ in changes]
        self._rules = [rules for _, rules in changes]

    @property
    def first(self) -> Rules:
        """With which the run began."""
        return self._rules[0]

    @property
    def given(self) -> Mapping[str, Any]:
        """What is set otherwise, all the time."""
        return self.first.given

    @property
    def changes(self) -> list[tuple[int, Rules]]:
        """Those that came later, and when."""
        return list(zip(self._from_us, self._rules, strict=True))[1:]

    def at(self, at_us: int) -> Rules:
        """In force at that moment."""
        return self._rules[max(bisect_right(self._from_us, at_us) - 1, 0)]

    def sets(self, *keys: str) -> bool:
        """See `Rules.sets`."""
        return self.first.sets(*keys)


def thresholds(config: Config) -> dict[str, Threshold]:
    """Of the guard's signals, as configured."""
    guard = config.guard
    return {
        signals.QUEUE_WAIT: Threshold(guard.queue_wait, guard.queue_wait / 3),
        signals.MEMORY_FULL: Threshold(guard.memory_at, guard.memory_at * 0.9, for_s=5.0),
        signals.SWAP: Threshold(1.0, 0.0),
        signals.THERMAL: Threshold(1.0, 0.0),
        signals.GPU: Threshold(guard.gpu_at, guard.gpu_at * 0.9, for_s=guard.gpu_for),
        signals.BURN: Threshold(1.0, 0.0),
    }


def stage_rules(config: Config) -> stages.Policy:
    """By which the guard's stages go, as configured."""
    guard, context = config.guard, config.context
    return stages.Policy(
        dwell_s=guard.dwell,
        exit_s=guard.exit_after,
        shed_after_s=guard.shed_after,
        restart_after_s=guard.restart_after,
        restart_every_s=guard.restart_every,
        safe_dwell_s=guard.safe_dwell,
        max_tokens=context.max_tokens,
        safe_tokens=context.safe_mode_tokens,
    )


def course(events: Iterable[Recorded], given: Mapping[str, str]) -> Course:
    """The rules of one run by its events (`TYPES`, others are passed over), with some set otherwise all the time.

    Raises:
        BadRule: there is no such key, or it cannot have that value.
    """
    return Course([(from_us, with_rules(config, given)) for from_us, config in _in_force(events)])


def _in_force(events: Iterable[Recorded]) -> Iterator[tuple[int, Config]]:
    """The configurations, but for who may come in and what is served, and from when on each."""
    raw: dict[str, Any] = {}
    told = False
    for event in events:
        if event.type == "config.loaded":
            raw = {name: values for name, values in event.data["changed"].items() if name not in {"server", "models"}}
        elif event.type == "config.changed":
            for name, value in event.data["changed"].items():
                section, _, key = name.partition(".")
                if section != "server":
                    raw[section] = {**raw.get(section, {}), key: value}
        else:
            continue
        yield event.time_us, Config.model_validate(raw)
        told = True
    if not told:
        yield 0, Config()


def with_rules(config: Config, given: Mapping[str, str]) -> Rules:
    """Those in force, with some set otherwise.

    Raises:
        BadRule: there is no such key, or it cannot have that value.
    """
    raw, values = config.model_dump(), dict[str, Any]()
    for name, text in given.items():
        value = value_of(name, text)
        section, key = name.split(".")
        values[name] = raw[section][key] = value
    # Fewer slots take the choices of one request down with them: nobody asks about those.
    raw["queue"]["max_choices"] = min(raw["queue"]["max_choices"], raw["queue"]["max_running"])
    try:
        return Rules(Config.model_validate(raw), values)
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise BadRule(f"{', '.join(given)}: {reasons}") from None


def value_of(name: str, text: str) -> Any:
    """What is meant by it: of the kind of value that the key has.

    Raises:
        BadRule: there is no such key, or that is no such value.
    """
    if name not in KEYS:
        raise BadRule(f"a replay cannot set {name!r}; it can set {', '.join(KEYS)}")
    try:
        if name == _LIMIT:
            return parse_bytes(text)
        if isinstance(_USUAL[name], int):
            return int(text)
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as error:
        raise BadRule(f"{name}: {error}") from None


def show_value(name: str, value: Any) -> str:
    """For people: `190 MB`, `15.0 s`, `0.85`."""
    if name == _LIMIT and isinstance(value, int):
        return show_bytes(value)
    return show_duration(value) if name in _DURATIONS else f"{value:,}" if isinstance(value, int) else str(value)


_LIMIT: Final = "memory.limit"
_SHARES: Final = frozenset({"memory.page_at", "memory.page_to", "guard.memory_at", "guard.gpu_at"})
_RAW: Final = Config().model_dump()
_USUAL: Final = {name: _RAW[name.partition(".")[0]][name.partition(".")[2]] for name in KEYS}
_DURATIONS: Final = frozenset(name for name in KEYS if isinstance(_USUAL[name], float) and name not in _SHARES)
