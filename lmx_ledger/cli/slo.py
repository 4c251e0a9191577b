"""`lmx slo`: what is promised, how much of it may still be missed, how fast that is used up, and what burns."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, NoDaemon, home_folder
from lmx_ledger.cli.display import harmless, note, on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, ConfigFile, Home, Url
from lmx_ledger.cli.source import opened
from lmx_ledger.core.clock import parse_rfc3339, utc_us
from lmx_ledger.core.units import parse_duration, show_duration

EXAMPLE: Final = "Example: lmx slo"

_WIDE: Final = 110
"""Columns of a terminal in which all seven windows have room; else the long one of each pair is shown."""
_LONG: Final = (2, 4, 5, 6)
_BAR: Final = {False: 6, True: 12}
_NAME: Final = 17
_AT_LEAST: Final = "tokens/s"
_ALERT_STYLE: Final = {"page": "bold red", "ticket": "yellow"}
_NO_DATA: Final = "no data yet: nothing was asked in these periods; ask something, and look again"


def slo(
    home: Home = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show the objectives: budget left, burn per window, when it is used up, alerts; without a daemon from the ledger.

    A burn of 1x uses up the budget in just the period. --config is read where no daemon answers.
    """
    connection = Connection(url, api_key)
    try:
        answer = connection.get("/lmx/slo")
    except NoDaemon:
        answer = _offline(connection, home, config)
    if as_json:
        print_json(answer)
    elif on_terminal():
        _show(answer["objectives"])
    else:
        for row in answer["objectives"]:
            typer.echo("\t".join(harmless(field) for field in _plain(row)))
    if not as_json and not any(row["total"] or row["shed"] for row in answer["objectives"]):
        note(_NO_DATA if answer["objectives"] else "no objective is enabled; see [slo.*] in the configuration")


def _offline(connection: Connection, home: Path | None, config: Path | None) -> dict[str, Any]:
    from lmx_ledger.core.config import load_config  # noqa: PLC0415 - HTTP does without pydantic and SQLAlchemy
    from lmx_ledger.ledger.history import History  # noqa: PLC0415
    from lmx_ledger.ledger.projection import FILE  # noqa: PLC0415
    from lmx_ledger.slo.objective import objectives_of  # noqa: PLC0415
    from lmx_ledger.slo.offline import offline  # noqa: PLC0415
    from lmx_ledger.slo.report import public  # noqa: PLC0415

    own = home_folder(home) / "config.toml"
    objectives = objectives_of(load_config(config or (own if own.is_file() else None)).slo)
    with opened(connection, home) as ground:
        history = History(ground.file, ground.reader)
        return public(offline(history, ground.file.with_name(FILE), objectives, utc_us()))


def _plain(row: dict[str, Any]) -> list[str]:
    """Of a pipe: name, model, target, good, total, shed, budget left, seconds until it is used up, alerts."""
    numbers = (row["objective"], row["good"], row["total"], row["shed"], row["budget_remaining"], row["exhausts_in_s"])
    alerts = ",".join(f"{alert['severity']}:{alert['long']}/{alert['short']}" for alert in row["alerts"])
    return [row["name"], row["model"] or "", *("" if value is None else f"{value:g}" for value in numbers), alerts]


# --- for people ------------------------------------------------------------------------------------------------------


def _show(rows: list[dict[str, Any]]) -> None:
    # Of one model alone, its rows say what those of all models say; of several, one that missed nothing says nothing.
    several = len({row["model"] for row in rows}) > 2
    shown = [row for row in rows if row["model"] is None or (several and (row["good"] < row["total"] or row["alerts"]))]
    console = terminal()
    for _, found in groupby(sorted(shown, key=lambda row: -_days(row["period"])), key=lambda row: row["period"]):
        console.print(_table(list(found), wide=console.width >= _WIDE))
        console.print()
    for row in shown:
        for alert in row["alerts"]:
            console.print(_alert(row, alert))
    for row in shown:
        if row["exhausts_in_s"] == 0:
            console.print(Text(f"{_whose(row)} has no budget left: {_missed(row)}.", style="yellow"))
    refused = max((row["shed"] for row in shown), default=0)
    if refused:
        console.print(Text(f"Refused on purpose: {refused:,}. Only admission tells of these.", style="dim"))


def _table(rows: Sequence[dict[str, Any]], *, wide: bool) -> Table:
    windows = list(rows[0]["burn"])
    if not wide:
        windows = [windows[place] for place in _LONG]
    days = _days(rows[0]["period"])
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(
        f"over {days:g} days" if days > 1 else "over a day", overflow="ellipsis", no_wrap=True, min_width=_NAME
    )
    for name, width in (("good", 6), ("goal", 5)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("budget left", no_wrap=True, min_width=_BAR[wide] + 5)
    for name in windows:
        table.add_column(name, justify="right", no_wrap=True, min_width=4)
    table.add_column("lasts", justify="right", no_wrap=True, min_width=6)
    for row in rows:
        hot = {window for alert in row["alerts"] for window in (alert["long"], alert["short"])}
        table.add_row(
            _name(row),
            _percent(row["good"], row["total"]),
            f"{row['objective'] * 100:.4g}%" if row["model"] is None else "",
            _budget(row["budget_remaining"], _BAR[wide]),
            *(_burn(row["burn"][window], hot=window in hot) for window in windows),
            _gone(row["exhausts_in_s"]),
        )
    return table


def _name(row: dict[str, Any]) -> Text:
    if row["model"] is not None:
        return Text(f"  {harmless(row['model'].rpartition('/')[2])}", style="dim")
    text = Text(row["name"], style="bold")
    if row["threshold"] is not None:
        sign = "≥" if row["unit"] == _AT_LEAST else "≤"
        value = f"{row['threshold']:g}/s" if row["unit"] == _AT_LEAST else _short(row["threshold"])
        text.append(f" {sign} {value}", style="not bold")
    return text


def _percent(good: int, total: int) -> str:
    """Never rounded up: 100% is all of them."""
    if not total:
        return "-"
    share = good * 10_000 // total / 100
    return "100%" if good == total else f"{share:.4g}%"


def _budget(left: float | None, width: int) -> Text:
    if left is None:
        return Text("-", style="dim")
    full = max(0, min(width, round(left * width)))
    style = "green" if left > 0.5 else "yellow" if left > 0 else "red"
    bar = Text("█" * full, style=style).append("░" * (width - full), style="dim")
    return bar.append(f" {max(left, 0):4.0%}", style="" if left > 0 else "red")


def _burn(rate: float | None, *, hot: bool) -> Text:
    if rate is None:
        return Text("-", style="dim")
    text = "0x" if rate == 0 else f"{rate:.1f}x" if rate < 9.95 else f"{rate:.0f}x"
    return Text(text, style="bold red" if hot else "yellow" if rate > 1 else "")


def _gone(seconds: float | None) -> Text:
    if seconds is None:
        return Text("-", style="dim")
    return Text("gone", style="red") if seconds == 0 else Text(show_duration(seconds), style="yellow")


def _alert(row: dict[str, Any], alert: dict[str, Any]) -> Text:
    rates = " and ".join(f"{_rate(row, alert[window])} over {alert[window]}" for window in ("long", "short"))
    since = show_duration(max((utc_us() - parse_rfc3339(alert["since"])) // 1_000_000, 1))
    event = f" (event {alert['event']})" if alert["event"] is not None else ""
    text = Text(alert["severity"], style=_ALERT_STYLE[alert["severity"]])
    return text.append(
        f": {_whose(row)} burns {rates}, for {since}{event}",
        style="not bold default",
    )


def _whose(row: dict[str, Any]) -> str:
    return row["name"] if row["model"] is None else f"{row['name']} of {harmless(row['model'])}"


def _missed(row: dict[str, Any]) -> str:
    bad = row["total"] - row["good"]
    allowed = row["total"] * (1 - row["objective"])
    may_be = f"{allowed:,.0f}" if allowed >= 10 else f"{allowed:.2g}"
    return f"{bad:,} of {row['total']:,} were not good, {may_be} may be"


def _rate(row: dict[str, Any], window: str) -> str:
    return _burn(row["burn"].get(window), hot=False).plain


def _days(period: str) -> float:
    return parse_duration(period) / 86_400


def _short(seconds: float) -> str:
    """As in the configuration: `500ms`, `30s`, `2m`."""
    if seconds < 1:
        return f"{seconds * 1e3:g}ms"
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
