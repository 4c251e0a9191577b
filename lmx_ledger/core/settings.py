"""The configuration in force: one place that everybody asks, so that what is read again is everybody's at once."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from lmx_ledger.core.config import KEYS, Config
from lmx_ledger.core.errors import StartupError

LIVE: Final = frozenset(
    {
        *(
            "server.api_keys",
            "server.operator_keys",
            "server.allowed_origins",
            "server.max_body",
            "server.body_timeout",
        ),
        *("server.max_messages", "server.max_nesting", "server.progress_every", "server.drain_timeout"),
        *("server.send_timeout", "memory.limit", "memory.kv_reserve", "context.max_tokens", "queue.max_waiting"),
    }
)
"""Keys that change while the daemon runs; any other one stays as it was until a restart."""


class Changes(NamedTuple):
    """What re-reading found: the configuration to use from now on, and what to tell of it.

    `changed` has the new values of live keys (of API keys only how many there are now), `needs_restart` the names of
    the others that differ.
    """

    config: Config
    changed: dict[str, Any]
    needs_restart: list[str]


def compare(now: Config, wanted: Config) -> Changes:
    """What becomes of `now` when `wanted` was read.

    Raises:
        StartupError: the keys that can change now do not go with those that cannot.
    """
    before, after = _flat(now), _flat(wanted)
    differ = [name for name in after if before[name] != after[name]]
    live = [name for name in differ if name in LIVE]
    raw = now.model_dump()
    for name in live:
        section, key = name.split(".")
        raw[section][key] = after[name]
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
        raise StartupError(f"{', '.join(live)} cannot change without a restart: {reasons}") from None
    changed = {name: len(after[name]) if name in KEYS else after[name] for name in live}
    return Changes(config, changed, [name for name in differ if name not in LIVE])


def _flat(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.model_dump().items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat


class Settings:
    """Holds the configuration. `rules_seq` is the ledger's event that put it in force."""

    def __init__(self, config: Config) -> None:
        self.now = config
        self.rules_seq = 0
        self._followers: list[Callable[[Config], None]] = []

    def follow(self, apply: Callable[[Config], None]) -> None:
        """For what has to be told a value: call it now, and with each configuration that comes into force."""
        self._followers.append(apply)
        apply(self.now)

    def put_in_force(self, config: Config, rules_seq: int | None) -> None:
        """From now on this one, by that event (None: it is not in the ledger yet; the last one is named on)."""
        self.now = config
        self.rules_seq = rules_seq or self.rules_seq
        for apply in self._followers:
            apply(config)
