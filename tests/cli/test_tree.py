"""What every command has in common."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from lmx_ledger.cli.connection import DEFAULT_URL, Connection, home_folder
from lmx_ledger.cli.main import lmx, opta
from lmx_ledger.core import config


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not hasattr(command, "commands"):
        yield path
        return
    for name, child in command.commands.items():
        yield from leaves(child, (*path, name))


LMX = list(leaves(get_command(lmx)))


def run(app: typer.Typer, *arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "TERM": "dumb"})


def test_what_exists_is_what_this_version_can_do() -> None:
    assert sorted(LMX) == [
        ("bench", "engine"),
        ("bench", "guard"),
        ("bench", "incidents"),
        ("bench", "ledger"),
        ("bench", "memory"),
        ("chat",),
        ("doctor",),
        ("drill",),
        ("events",),
        ("fit",),
        ("incidents", "ack"),
        ("incidents", "bundle"),
        ("incidents", "close"),
        ("incidents", "digest"),
        ("incidents", "list"),
        ("incidents", "report"),
        ("incidents", "show"),
        ("incidents", "timeline"),
        ("ledger", "archive"),
        ("ledger", "export"),
        ("ledger", "stats"),
        ("ledger", "verify"),
        ("models", "list"),
        ("models", "pull"),
        ("models", "rm"),
        ("replay",),
        ("serve", "load"),
        ("serve", "logs"),
        ("serve", "memory"),
        ("serve", "metrics"),
        ("serve", "page-out"),
        ("serve", "pin"),
        ("serve", "reload"),
        ("serve", "start"),
        ("serve", "status"),
        ("serve", "stop"),
        ("serve", "unload"),
        ("serve", "unpin"),
        ("sessions", "list"),
        ("sessions", "rm"),
        ("sessions", "show"),
        ("slo",),
        ("why",),
    ]
    assert set(leaves(get_command(opta))) == {path for path in LMX if path[0] == "serve"}


@pytest.mark.parametrize("path", LMX, ids=" ".join)
def test_every_command_explains_itself_with_an_example_and_takes_the_common_options(path: tuple[str, ...]) -> None:
    shown = run(lmx, *path, "--help")
    assert shown.exit_code == 0
    assert "Example: lmx " + " ".join(path) in shown.output
    for option in ("--json", "--url", "--api-key"):
        assert option in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("serve", "drain"),
        ("events", "--no-such-option"),
        ("events", "--severity", "loud"),
        ("events", "--since", "yesterday"),
        ("events", "--order", "sideways"),
        ("events", "--limit", "0"),
        ("events", "-f", "--order", "desc"),
        ("events", "--url", "no url at all"),
        ("events", "--url", "ftp://127.0.0.1"),
        ("events", "--url", "http://127.0.0.1:99999"),
        ("serve", "start", "--port", "70000"),
        ("serve", "start", "--profile", "lmx-blue"),
        ("serve", "start", "--port", "4000", "--url", "http://127.0.0.1:4001"),
        ("serve", "status", "--port", "4000", "--url", "http://127.0.0.1:4001"),
        ("serve", "stop", "--url", "http://192.0.2.1:4000"),
        ("why",),
        ("why", "--last", "--costs"),
        ("why", "--last", "--since", "1h"),
        ("why", "--slowest", "0"),
        ("why", "--slowest", "3", "--by", "size"),
        ("why", "--costs", "--since", "yesterday"),
        ("models", "list", "--api-key", "sch\u00fcssel"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    done = run(lmx, *arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""


def test_the_defaults_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMX_HOME", raising=False)
    assert config.DEFAULT_URL == DEFAULT_URL
    assert home_folder(None) == config.Config().home


@pytest.mark.parametrize(
    ("given", "url", "port", "local"),
    [
        ("127.0.0.1:4000", "http://127.0.0.1:4000", 4000, True),
        ("http://localhost:4000/", "http://localhost:4000", 4000, True),
        ("http://[::1]:4000", "http://[::1]:4000", 4000, True),
        ("https://box.example", "https://box.example", 443, False),
    ],
)
def test_a_url_is_read_as_people_write_it(given: str, url: str, port: int, local: bool) -> None:
    connection = Connection(given)
    assert (connection.url, connection.port, connection.is_local) == (url, port, local)
