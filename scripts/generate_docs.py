"""Writes what docs/ and config.example.toml say of the code, from the code. `--check`: only say what is stale."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lmx_ledger.core.config import Config, ModelSection
from lmx_ledger.core.events import CATALOGUE
from lmx_ledger.core.examples import example_of

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Write or check; 1 when something is stale."""
    pages = {
        ROOT / "config.example.toml": config_example(),
        ROOT / "docs" / "events.md": event_catalogue(),
        ROOT / "docs" / "commands.md": command_reference(),
        ROOT / "docs" / "metrics.md": metrics_reference(),
    }
    stale = [file for file, text in pages.items() if not file.exists() or file.read_text() != text]
    if "--check" in sys.argv:
        for file in stale:
            print(f"{file.relative_to(ROOT)} is not what the code says; run: make docs", file=sys.stderr)
        return 1 if stale else 0
    for file in stale:
        file.write_text(pages[file])
    return 0


def config_example() -> str:
    """Every key with its default and its description."""
    lines = [
        "# Every key with its default: a file that says nothing of them is the same.",
        "# Sizes: 24GiB, 8GB or bytes. Durations: 500ms, 30s, 2m, 1h, 7d.",
    ]
    for name, section in _tables(Config):
        lines += _table(name, section)
    lines += ["", f"# {_doc(ModelSection)} Without any, the embedded demo model is served."]
    lines += ["# [[models]]"]
    lines += [f"# {_key(key, inner)}" for key, inner in ModelSection.model_fields.items()]
    return "\n".join(lines) + "\n"


def _tables(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield name, section


def _table(name: str, section: type[BaseModel]) -> list[str]:
    within = list(_tables(section))
    # A table of tables has no keys of its own: its description stands above the first of them.
    lines = ["", f"# {_doc(section)}"] + ([] if within else [f"[{name}]"])
    for inner_name, inner in within:
        lines += _table(f"{name}.{inner_name}", inner)
    tables = {inner_name for inner_name, _ in within}
    return lines + [_key(key, field) for key, field in section.model_fields.items() if key not in tables]


def _key(name: str, field: FieldInfo) -> str:
    value = "..." if field.default in (None, PydanticUndefined) else field.default
    # TOML has no word for "none": such a key is shown, and left out.
    mark = "# " if field.default is None else ""
    if isinstance(value, float) and any(isinstance(one, BeforeValidator) for one in field.metadata):
        # The only numbers that can be written otherwise than as such.
        value = f"{value:g}s"
    return f"{mark}{name} = {_toml(value)}  # {field.description}"


def _toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _doc(thing: type) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def event_catalogue() -> str:
    """Every type, with its severity, its durability and its fields."""
    lines = [
        "# Events",
        "",
        "Generated from `lmx_ledger/core/events.py` by `make docs`. *Durable* types are committed before what they",
        "announce is done; the others are handed to the writer without waiting.",
    ]
    room = ""
    for kind in CATALOGUE.values():
        if (prefix := kind.name.split(".")[0]) != room:
            room = prefix
            lines += [
                "",
                f"## {room}",
                "",
                "| type | severity | durable | what it says | data, by an example |",
                "|---|---|---|---|---|",
            ]
        doc = " ".join(kind.doc.split()).replace("|", "\\|")
        example = msgspec.json.encode(example_of(kind.name)).decode().replace("|", "\\|")
        durable = "yes" if kind.durable else ""
        lines.append(f"| `{kind.name}` | {kind.severity.label} | {durable} | {doc} | `{example}` |")
    return "\n".join(lines) + "\n"


def metrics_reference() -> str:
    """Every series of `/metrics`."""
    from lmx_ledger.server.metrics import COUNTERS, GAUGES, HISTOGRAMS

    lines = [
        "# Metrics",
        "",
        "Generated from `lmx_ledger/server/metrics.py` by `make docs`. `GET /metrics` is open to whoever may talk to",
        "this address, and never shed. A series whose figure the machine does not say is left out.",
        "",
        "| series | kind | labels | what it says |",
        "|---|---|---|---|",
    ]
    for kind, rows in (("histogram", HISTOGRAMS), ("counter", COUNTERS), ("gauge", GAUGES)):
        for one in rows:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            lines.append(f"| `{one.name}` | {kind} | {labels} | {one.doc} |")
    return "\n".join(lines) + "\n"


def command_reference() -> str:
    """The help of every command."""
    import typer
    from typer.main import get_command

    from lmx_ledger.cli.main import lmx

    lines = ["# Commands", "", "Generated from `lmx_ledger/cli` by `make docs`. `opta serve ...` is `lmx serve ...`."]

    def walk(command: Any, path: str) -> None:
        # typer carries a click of its own, so a group is known by what it has.
        if hasattr(command, "commands"):
            for name in sorted(command.commands):
                walk(command.commands[name], f"{path} {name}")
            return
        context = typer.Context(command, info_name=path)
        lines.extend(["", f"## {path}", "", (command.help or "").strip(), "", "| option | does |", "|---|---|"])
        for parameter in command.params:
            record = parameter.get_help_record(context)
            if record is not None:
                option, text = (part.replace("|", "\\|") for part in record)
                lines.append(f"| `{option}` | {' '.join(text.split())} |")

    walk(get_command(lmx), "lmx")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
