"""A replay for people and for pipes: decisions that differ, the estimate with its error, the rows of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.display import harmless, note, terminal
from lmx_ledger.core.units import show_duration
from lmx_ledger.incident.rules import show_value

_SHOWN: Final = 50
_WIDE: Final = 110
"""Columns of a terminal in which stages and all figures have room."""
_BAR: Final = 8
_BLOCKS: Final = "▏▎▍▌▋▊▉█"
_SWEPT: Final = (
    ("page_ins", "page-ins"),
    ("refused", "refused"),
    ("ttft_p95_ms", "TTFT p95"),
    ("waited_ms", "waiting"),
)
_ROUGH: Final = "~"
_ESTIMATED: Final = "estimated"
MS: Final = "ms"


def show(found: Mapping[str, Any]) -> None:
    """For a person."""
    if found["sweep"] is not None:
        _show_sweep(found)
        return
    typer.echo(_summary(found))
    for line in _stages(found["stages_s"]):
        typer.echo(f"  {line}")
    rows = _differences(found)
    if rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("time", "event", "was decided", "would have been"):
            table.add_column(name, overflow="fold", no_wrap=name in {"time", "event"})
        for row in rows:
            table.add_row(*(Text(harmless(cell)) for cell in row))
        terminal().print(table)
    _show_estimate(found)
    _notes(found)


def show_plain(found: Mapping[str, Any]) -> None:
    """For a pipe: of a replay a line and the decisions that differ, of a sweep a head and its rows, between tabs."""
    if found["sweep"] is not None:
        _plain_sweep(found["sweep"])
        return
    typer.echo(_summary(found))
    for line in _stages(found["stages_s"]):
        typer.echo(f"  {line}")
    for row in _differences(found):
        typer.echo("\t".join(harmless(cell) for cell in row))
    for line in found["estimate"]["text"]:
        typer.echo(f"estimate\t{harmless(line)}")
    _notes(found)


def _summary(found: Mapping[str, Any]) -> str:
    rules = ", ".join(f"{key} = {value}" for key, value in found["set"].items())
    under = f"With {rules}" if rules else "With the rules that were in force"
    return f"{under}: {found['decisions']:,} decisions, {found['different']:,} of them different."


def _stages(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    before, after = stages["recorded"], stages["replayed"]
    return [
        f"{stage}: {_time(before.get(stage))} then, {_time(after.get(stage))} with these rules"
        for stage in dict.fromkeys((*before, *after))
    ]


def _differences(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (row["time"], str(row["seq"] or "-"), row["recorded"] or "nothing", row["replayed"] or "nothing")
        for row in found["differences"][:_SHOWN]
    ]


def _notes(found: Mapping[str, Any]) -> None:
    for key, parts in found["bears_on"].items():
        if parts == [_ESTIMATED]:
            note(f"no recorded decision hangs on {key}: it bears on the estimate only")
        elif _ESTIMATED not in parts:
            note(f"{key} bears on the decisions only: what would have followed is not estimated")
    if len(found["differences"]) > _SHOWN:
        note(f"these are the first {_SHOWN} of {len(found['differences']):,}; for all: --json")
    if not found["decisions"] and not found["estimate"]["recorded"]["requests"]:
        note("nothing was decided or asked in that time; for more: --since 1d")
    if found["estimate"]["cut"] is not None:
        note(f"there were more requests than a model is made of; those from {found['estimate']['cut']} on are left out")


def _show_estimate(found: Mapping[str, Any]) -> None:
    estimate = found["estimate"]
    requests = estimate["recorded"]["requests"]
    if not requests:
        return
    console, others = terminal(), bool(found["set"])
    console.print()
    what = "and estimated with these rules" if others else "to see how good the model is"
    console.print(Text(f"{requests:,} requests served again by a model, {what}:", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("recorded", "model", "off by", *(("with these", "") if others else ())):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for one in estimate["figures"]:
        if not any((one["recorded"], one["modelled"], one["estimated"])):
            continue
        cells = [_value(one[name], one["unit"]) for name in ("recorded", "modelled", "error")]
        if others:
            cells += [_value(one["estimated"], one["unit"]), _verdict(one)]
        table.add_row(one["name"], *(Text(cell) for cell in cells))
    console.print(table)


def _verdict(one: Mapping[str, Any]) -> str:
    if one["too_rough"]:
        return "too rough to tell"
    return "the same" if not one["change"] else ""


# --- sweeps ----------------------------------------------------------------------------------------------------------


def _show_sweep(found: Mapping[str, Any]) -> None:
    sweep, console = found["sweep"], terminal()
    rows, key = sweep["rows"], sweep["key"]
    others = ", ".join(f"{name} = {show_value(name, value)}" for name, value in found["set"].items())
    console.print(Text(f"{key}{f', with {others}' if others else ''}", style="bold"))
    wide = console.width >= _WIDE
    stages, swept, width = (_raised(rows), _SWEPT, _BAR) if wide else ([], _SWEPT[:-1], _BAR // 2)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("value", "differ", *stages):
        table.add_column(name, justify="right", no_wrap=True)
    for _, name in swept:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    most = {figure: max((_figure(row, figure)["estimated"] or 0.0 for row in rows), default=0.0) for figure, _ in swept}
    for row in rows:
        cells = [Text(_marked(key, row["value"], sweep["in_force"])), Text(f"{row['different']:,}")]
        cells += [Text(_time(row["stages_s"]["replayed"].get(stage))) for stage in stages]
        for figure, _ in swept:
            one = _figure(row, figure)
            cells += [
                Text(f"{_ROUGH if one['too_rough'] else ''}{_value(one['estimated'], one['unit'])}"),
                Text(_bar(one["estimated"], most[figure], width), style="cyan"),
            ]
        table.add_row(*cells)
    if rows:
        for name, what in (("recorded", "recorded"), ("off by", "error")):
            cells = [Text(name, style="dim"), Text(""), *([Text("")] * len(stages))]
            for figure, _ in swept:
                one = _figure(rows[0], figure)
                cells += [Text(_value(one[what], one["unit"]), style="dim"), Text("")]
            table.add_row(*cells)
    console.print(table)
    if any(_figure(row, figure)["too_rough"] for row in rows for figure, _ in swept):
        note(f"{_ROUGH}: the model is off by as much as that would change; too rough to tell")
    if sweep["in_force"] is not None:
        note("*: the value that was in force")
    _notes(found)


def _plain_sweep(sweep: Mapping[str, Any]) -> None:
    rows = sweep["rows"]
    stages = _raised(rows)
    heads = ["value", "decisions", "different", *(f"{stage}_s" for stage in stages)]
    heads += [name for figure, _ in _SWEPT for name in (figure, f"{figure}_error")]
    typer.echo("\t".join(heads))
    for row in rows:
        cells = [str(row["value"]), str(row["decisions"]), str(row["different"])]
        cells += [f"{row['stages_s']['replayed'].get(stage, 0.0):.3f}" for stage in stages]
        for figure, _ in _SWEPT:
            one = _figure(row, figure)
            cells += ["" if one["estimated"] is None else f"{one['estimated']:g}", f"{one['error']:g}"]
        typer.echo("\t".join(cells))


def _raised(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(stage for row in rows for stage in row["stages_s"]["replayed"]))


def _figure(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in row["estimate"]["figures"] if one["key"] == key)
    return found


def _marked(key: str, value: Any, in_force: Any) -> str:
    """The value, and that it is the one that was."""
    return f"{'* ' if value == in_force else ''}{show_value(key, value)}"


def _bar(value: float | None, most: float, width: int) -> str:
    if not value or most <= 0:
        return ""
    eighths = max(round(value / most * width * len(_BLOCKS)), 1)
    whole, part = divmod(eighths, len(_BLOCKS))
    return _BLOCKS[-1] * whole + (_BLOCKS[part - 1] if part else "")


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return show_duration(value / 1e3) if unit == MS else f"{value:,.0f}"


def _time(seconds: float | None) -> str:
    return "none" if not seconds else show_duration(seconds)
