"""The rules by which a daemon decides, as configured: for the daemon itself, and for who asks what others would do."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import parse_bytes, parse_duration
from lmx_ledger.guard import signals, stages
from lmx_ledger.guard.signals import Threshold

KEYS: Final = (
    *("memory.limit", "memory.page_at", "memory.page_to"),
    *("guard.queue_wait", "guard.memory_at", "guard.gpu_at", "guard.gpu_for", "guard.dwell", "guard.exit_after"),
    *("guard.shed_after", "guard.restart_after", "guard.restart_every", "guard.safe_dwell"),
    *("context.max_tokens", "context.safe_mode_tokens"),
)
"""What a replay may set."""
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


def recorded(events: Iterable[Recorded]) -> Config:
    """The configuration in force behind these events (`TYPES`), but for who may come in and what is served."""
    raw: dict[str, Any] = {}
    for event in events:
        if event.type == "config.loaded":
            raw = {name: values for name, values in event.data["changed"].items() if name not in {"server", "models"}}
        else:
            for name, value in event.data["changed"].items():
                section, _, key = name.partition(".")
                if section != "server":
                    raw[section] = {**raw.get(section, {}), key: value}
    return Config.model_validate(raw)


def with_rules(config: Config, given: Mapping[str, str]) -> Rules:
    """Those in force, with some set otherwise.

    Raises:
        BadRule: there is no such key, or it cannot have that value.
    """
    raw, values = config.model_dump(), dict[str, Any]()
    for name, text in given.items():
        if name not in KEYS:
            raise BadRule(f"a replay cannot set {name!r}; it can set {', '.join(KEYS)}")
        section, key = name.split(".")
        try:
            values[name] = raw[section][key] = _value(name, text, raw[section][key])
        except ValueError as error:
            raise BadRule(f"{name}: {error}") from None
    try:
        return Rules(Config.model_validate(raw), values)
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise BadRule(f"{', '.join(given)}: {reasons}") from None


def _value(name: str, text: str, before: Any) -> Any:
    """As the kind of value that the key has."""
    if name == "memory.limit":
        return parse_bytes(text)
    if isinstance(before, int):
        return int(text)
    return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
