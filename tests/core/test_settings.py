"""Reading the configuration again: what changes at once, what waits for a restart, and what is refused."""

from typing import Any

import pytest

from lmx_ledger.core.config import Config
from lmx_ledger.core.errors import StartupError
from lmx_ledger.core.settings import LIVE, Settings, compare


def config(**sections: Any) -> Config:
    return Config.model_validate(sections)


def test_what_can_change_changes_and_the_rest_stays_until_a_restart() -> None:
    now = config(server={"port": 4000, "max_body": 10})
    wanted = config(server={"port": 4001, "max_body": 20}, queue={"max_waiting": 3}, models=[{"id": "m", "path": "p"}])
    found = compare(now, wanted)
    assert found.config == config(server={"port": 4000, "max_body": 20}, queue={"max_waiting": 3})
    assert found.changed == {"server.max_body": 20, "queue.max_waiting": 3}
    assert found.needs_restart == ["server.port", "models"]


def test_nothing_new_is_nothing_changed() -> None:
    assert compare(config(), config()) == (config(), {}, [])


def test_of_keys_only_their_number_is_told() -> None:
    wanted = config(server={"api_keys": ["sk-secret-1", "sk-secret-2"], "operator_keys": ["op-secret-1"]})
    found = compare(config(), wanted)
    assert found.config == wanted
    assert found.changed == {"server.api_keys": 2, "server.operator_keys": 1}


def test_a_host_beyond_loopback_keeps_its_keys_though_the_new_file_is_for_loopback() -> None:
    now = config(server={"host": "0.0.0.0", "api_keys": ["sk-secret-1"]})
    with pytest.raises(StartupError, match=r"server.api_keys cannot change without a restart: .*no api_keys are set"):
        compare(now, config())


def test_every_live_key_is_a_key() -> None:
    known = {f"{name}.{key}" for name, value in config().model_dump().items() if name != "models" for key in value}
    assert known >= LIVE


def test_who_follows_is_told_at_once_and_with_every_change() -> None:
    settings = Settings(config())
    heard: list[int] = []
    settings.follow(lambda config: heard.append(config.server.max_body))
    settings.put_in_force(config(server={"max_body": 7}), 12)
    assert heard == [Config().server.max_body, 7]
    assert (settings.now.server.max_body, settings.rules_seq) == (7, 12)
    settings.put_in_force(config(), None)
    assert settings.rules_seq == 12
