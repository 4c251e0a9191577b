"""What goes to the terminal: JSON, notes on stderr, text of strangers made harmless, key=value lines."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from lmx_ledger.cli.connection import Failure

SEVERITY_STYLE: Final = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}
STATE_STYLE: Final = {
    **dict.fromkeys(("ok", "resident", "running"), "green"),
    **dict.fromkeys(("warn", "loading", "starting", "draining", "partly_paged", "paged"), "yellow"),
    **dict.fromkeys(("fail", "failed", "unavailable"), "red"),
}


def terminal(*, stderr: bool = False) -> Console:
    """Stdout (or stderr), for people; what is printed to it is never read as markup."""
    return Console(highlight=False, markup=False, emoji=False, stderr=stderr)


def on_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def print_json(value: object, *, line: bool = False) -> None:
    """One JSON document; indented where a person looks at it, on one line as an object of a stream."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2 if on_terminal() and not line else None))


def deliver(body: bytes, out: Path | None) -> None:
    """A document to that file, or to stdout.

    Raises:
        Failure: the file cannot be written.
    """
    if out is None:
        typer.echo(body.decode(), nl=False)
        return
    try:
        out.write_bytes(body)
    except OSError as error:
        raise Failure(f"{out} cannot be written: {error.strerror}") from None
    typer.echo(f"Written to {out}.")


def note(text: str) -> None:
    """A line for people beside the output, on stderr."""
    typer.echo(f"lmx: {text}", err=True)


def harmless(text: str, *, keep: str = "") -> str:
    """The text without control characters and changes of writing direction, which could fool a terminal."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def one_line(values: Mapping[str, Any]) -> str:
    """`key=value key=value`, without those that are None; what has spaces is quoted."""
    return " ".join(f"{key}={_shown(value)}" for key, value in values.items() if value is not None)


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLE.get(state, ""))


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not any(c.isspace() or c in "\"'=" for c in value):
        return harmless(value)
    return harmless(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
