"""`lmx bench`: measures this machine, beside a baseline of the same run."""

import enum
import json
import os
import platform
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger import __version__
from lmx_ledger.bench.measure import Figure
from lmx_ledger.cli.connection import Connection, Failure, home_folder
from lmx_ledger.cli.display import note, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.core.clock import rfc3339, utc_us

EXAMPLE: Final = "Example: lmx bench ledger --events 1000000"

_ABOUT: Final = "Measure this machine, beside a baseline of the same run."

_Part = TypeVar("_Part", bound=enum.StrEnum)

group = typer.Typer(help=_ABOUT, epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich")


@group.callback()
def _bench() -> None:
    """Measure this machine, beside a baseline of the same run."""


@group.command("ledger", epilog=EXAMPLE)
def ledger(
    events: Annotated[
        int, typer.Option("--events", metavar="N", min=10_000, help="Events of the history that is asked.")
    ] = 200_000,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON as well.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """What an event costs, how soon it is durable, how fast it is found again.

    Works in a folder of its own under the home, on the same disk as the ledger, and removes it; the ledger itself is
    not touched.
    """
    from lmx_ledger.bench import ledger as ledger_bench  # noqa: PLC0415 - half a second that help does without

    folder = _folder(home, url, api_key)
    _must_be_writable(out)
    with _place(folder, f"the disk of {folder}") as place:
        figures = ledger_bench.measure(place, events=events, say=note)
    _tell(f"lmx bench ledger --events {events}", figures, out, as_json=as_json)


@group.command("engine", epilog="Example: lmx bench engine --rounds 3")
def engine(
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Median of so many.")] = 3,
    kills: Annotated[
        int, typer.Option("--kills", metavar="N", min=0, help="Kills of the worker, five seconds apart.")
    ] = 5,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="PARTS", help="Of throughput, gaps, frontier, reuse, agents, leaving, kills."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model and few tokens: whether it runs, not how fast.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON as well.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """How fast a daemon gives tokens, beside mlx-lm by itself and mlx-lm's server, and what a worker's death costs.

    Starts processes of its own on free ports of this machine, in a folder of its own under the home; yours are not
    touched.
    """
    from lmx_ledger.bench import engine as engine_bench  # noqa: PLC0415 - as above
    from lmx_ledger.bench.sizes import QUICK, Sizes  # noqa: PLC0415 - as above

    folder = _folder(home, url, api_key)
    _must_be_writable(out)
    sizes = QUICK if quick else Sizes(rounds=rounds, kills=kills)
    parts = _parts(engine_bench.Part, only)
    with _place(folder, "the engine") as place:
        figures = engine_bench.measure(place, sizes, say=note, only=parts)
    _tell(f"lmx bench engine --rounds {rounds} --kills {kills}{_only(only)}", figures, out, as_json=as_json)


@group.command("memory", epilog="Example: lmx bench memory --only scene,paging")
def memory(
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="N", min=0.05, help="How long models take turns.")
    ] = 10.0,
    only: Annotated[
        str | None, typer.Option("--only", metavar="PARTS", help="Of turns, scene, paging, flood, failure.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny models and few requests: whether it runs, not how well.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON as well.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Whether a memory limit holds: more models than fit, contexts that grow, floods, and a worker that gets no more.

    Starts processes of its own on free ports of this machine, in a folder of its own under the home; yours are not
    touched.
    """
    from lmx_ledger.bench import memory as memory_bench  # noqa: PLC0415 - as above
    from lmx_ledger.bench.sizes import QUICK_MEMORY, MemorySizes  # noqa: PLC0415 - as above

    folder = _folder(home, url, api_key)
    _must_be_writable(out)
    sizes = QUICK_MEMORY if quick else MemorySizes(minutes=minutes)
    parts = _parts(memory_bench.Part, only)
    with _place(folder, "memory") as place:
        figures = memory_bench.measure(place, sizes, say=note, only=parts)
    _tell(f"lmx bench memory --minutes {minutes:g}{_only(only)}", figures, out, as_json=as_json)


@group.command("guard", epilog="Example: lmx bench guard --only flood")
def guard(
    only: Annotated[str | None, typer.Option("--only", metavar="PARTS", help="Of flood, objectives.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny model and few sessions: whether it runs, not how well.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON as well.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """What the guard does in a flood, beside the same flood without it; what judging the objectives costs.

    Starts processes of its own on free ports of this machine, in a folder of its own under the home; yours are not
    touched.
    """
    from lmx_ledger.bench import guard as guard_bench  # noqa: PLC0415 - as above
    from lmx_ledger.bench.sizes import QUICK_GUARD, GuardSizes  # noqa: PLC0415 - as above

    folder = _folder(home, url, api_key)
    _must_be_writable(out)
    sizes = QUICK_GUARD if quick else GuardSizes()
    parts = _parts(guard_bench.Part, only)
    with _place(folder, "the guard") as place:
        figures = guard_bench.measure(place, sizes, say=note, only=parts)
    _tell(f"lmx bench guard{_only(only)}", figures, out, as_json=as_json)


@group.command("incidents", epilog="Example: lmx bench incidents --only incident")
def incidents(
    only: Annotated[str | None, typer.Option("--only", metavar="PARTS", help="Of parts, incident, what-if.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few requests and events: whether it runs, not how well.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the figures as JSON as well.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Whether the parts of a mixed load's requests add up, and what an incident's timeline and postmortem cost.

    Starts processes of its own on free ports of this machine, in a folder of its own under the home; yours are not
    touched.
    """
    from lmx_ledger.bench import explaining  # noqa: PLC0415 - as above

    folder = _folder(home, url, api_key)
    _must_be_writable(out)
    parts = _parts(explaining.Part, only)
    sizes = {"requests": 40, "events": 2_000} if quick else {}
    with _place(folder, "incidents") as place:
        figures = explaining.measure(place, say=note, only=parts, **sizes)
    _tell(f"lmx bench incidents{_only(only)}", figures, out, as_json=as_json)


@contextmanager
def _place(folder: Path, measured: str) -> Iterator[Path]:
    """A folder of its own under `folder`, gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as place:
            yield Path(place)
    except (OSError, sqlite3.Error) as error:
        raise Failure(f"{measured} could not be measured: {error}") from None


def _only(only: str | None) -> str:
    return f" --only {only}" if only else ""


def _tell(command: str, figures: list[Figure], out: Path | None, *, as_json: bool) -> None:
    """On stdout, and in the file that was asked for."""
    told = report(command, figures)
    if as_json:
        print_json(told)
    else:
        show(figures)
    if out is not None:
        out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _parts(known: type[_Part], only: str | None) -> list[_Part]:
    try:
        return [known(name.strip()) for name in only.split(",")] if only else list(known)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; it is some of {', '.join(known)}", param_hint="--only") from None


def _folder(home: Path | None, url: str | None, api_key: str | None) -> Path:
    Connection(url, api_key).must_be_local("what is measured is the machine")
    return home_folder(home)


def _must_be_writable(out: Path | None) -> None:
    """Before half an hour is spent on what then has nowhere to go."""
    if out is None:
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("a", encoding="utf-8").close()
    except OSError as error:
        raise Failure(f"{out} cannot be written: {error.strerror}") from None


def report(command: str, figures: list[Figure]) -> dict[str, object]:
    """What a program reads, and what `docs/benchmarks.md` is written from."""
    return {
        "command": command,
        "version": __version__,
        "time": rfc3339(utc_us()),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "figures": [{**figure._asdict(), "met": figure.met} for figure in figures],
    }


def show(figures: list[Figure]) -> None:
    """What a person reads: a table, and below it what the figures are to be read by."""
    drawn = Table(box=None, pad_edge=False, header_style="dim")
    drawn.add_column("measured", overflow="fold")
    drawn.add_column("", justify="right", no_wrap=True)
    drawn.add_column("asked", justify="right", no_wrap=True)
    for figure in figures:
        style = {True: "green", False: "red", None: ""}[figure.met]
        asked = ""
        if figure.bound is not None:
            asked = f"{'>=' if figure.better == 'higher' else '<='} {_shown(figure.bound)}"
        drawn.add_row(figure.name, Text(f"{_shown(figure.value)} {figure.unit}", style=style), asked)
    console = terminal()
    console.print(drawn)
    console.print()
    for figure in figures:
        if figure.baseline:
            console.print(Text(f"{figure.name}: {figure.baseline}", style="dim"))


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
