"""How output looks: colour for a person, plain text for a pipe, JSON for a program, and nothing a terminal obeys."""

import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import typer
from rich.console import Console
from rich.text import Text

SEVERITY_STYLE: Final = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}
_STATE_STYLE: Final = {
    "ok": "green",
    "resident": "green",
    "running": "green",
    "warn": "yellow",
    "loading": "yellow",
    "draining": "yellow",
    "fail": "bold red",
    "failed": "bold red",
    "unavailable": "bold red",
}


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def terminal(*, stderr: bool = False) -> Console:
    """Stdout (or stderr), for a person."""
    return Console(highlight=False, stderr=stderr)


def print_json(value: object, *, line: bool = False) -> None:
    """One JSON document; on one line where it is one of many, or where no person reads it."""
    encoded = msgspec.json.encode(value)
    if not line and on_terminal():
        encoded = msgspec.json.format(encoded)
    typer.echo(encoded.decode())


def note(text: str) -> None:
    """A remark beside the output, on stderr."""
    typer.echo(f"lmx: {text}", err=True)


def harmless(text: str, keep: str = "") -> str:
    """Text from elsewhere with every control character (but those in `keep`) made visible."""
    return "".join(c if c in keep or unicodedata.category(c)[0] != "C" else "\N{REPLACEMENT CHARACTER}" for c in text)


def state_text(state: str) -> Text:
    """A state word in its colour."""
    return Text(harmless(state), style=_STATE_STYLE.get(state, ""))


def one_line(data: Mapping[str, Any]) -> str:
    """`key=value` for everything that says something, on one line."""
    said = ((name, value) for name, value in data.items() if value not in (None, "", [], {}))
    return harmless(" ".join(f"{name}={_value(value)}" for name, value in said))


def _value(value: object) -> str:
    if isinstance(value, str):
        text = value.replace("\n", "\\n").replace("\t", "\\t")
        return f'"{text}"' if " " in text else text
    return msgspec.json.encode(value).decode()
