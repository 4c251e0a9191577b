"""Incidents for people: the list, one of them, its timeline; each fits a terminal of 80 columns."""

import shlex
import textwrap
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.display import SEVERITY_STYLE, harmless
from lmx_ledger.core.clock import parse_rfc3339, utc_us
from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_duration
from lmx_ledger.incident.timeline import said

STATUS_STYLE: Final = {"open": "bold red", "mitigated": "yellow", "resolved": "green", "closed": "dim", "merged": "dim"}

_ID: Final = 30
_KIND: Final = 9
_WIDE: Final = 110
_SHOWN: Final = 6
_STEPS: Final = (
    ("detected", "detect_s"),
    ("acknowledged", "acknowledge_s"),
    ("mitigated", "mitigate_s"),
    ("resolved", "resolve_s"),
    ("closed", "close_s"),
)


def show_list(console: Console, found: list[dict[str, Any]]) -> None:
    """One line each; in a narrow terminal the title has its own."""
    if not found:
        return
    if console.width >= _WIDE:
        console.print(_table(found))
        return
    for one in found:
        head = Text(f"{harmless(one['id']):<{_ID}}  ", style="cyan", end="")
        head.append(f"{one['status']:<9}  ", style=STATUS_STYLE.get(one["status"], ""))
        head.append(f"{one['severity']:<8}  ", style=SEVERITY_STYLE.get(one["severity"]) or "default")
        head.append(f"{_local(one['started_at']):%m-%d %H:%M}  {_lasted(one)}", style="default")
        console.print(_cut(head, console.width), soft_wrap=True)
        console.print(_cut(Text(f"  {harmless(one['title'])}"), console.width), soft_wrap=True)


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, width in (("incident", _ID), ("status", 9), ("severity", 8), ("began", 14), ("lasted", 7)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("what", overflow="ellipsis", no_wrap=True)
    for one in found:
        table.add_row(
            Text(harmless(one["id"]), style="cyan"),
            Text(one["status"], style=STATUS_STYLE.get(one["status"], "")),
            Text(one["severity"], style=SEVERITY_STYLE.get(one["severity"], "")),
            f"{_local(one['started_at']):%m-%d %H:%M:%S}",
            _lasted(one),
            Text(harmless(one["title"])),
        )
    return table


def show_one(console: Console, told: dict[str, Any], name: str) -> None:
    """Header, times, what opened it, whom it hit, hypotheses; `name` is what the commands know it by."""
    _warn(console, told)
    width = console.width
    head = Text(harmless(told["title"]), style="bold")
    console.print(head, soft_wrap=False)
    line = Text(told["status"], style=STATUS_STYLE.get(told["status"], ""))
    line.append(f"  {told['severity']}", style=SEVERITY_STYLE.get(told["severity"], "") or "not bold default")
    about = [told["id"], *(["a rehearsal"] if told["drill"] else []), *told["models"]]
    line.append("  " + harmless(", ".join(about)), style="not bold default")
    console.print(_cut(line, width), soft_wrap=True)
    if told["merged_into"]:
        console.print(f"It is part of {harmless(told['merged_into'])}; look at that one.")
    console.print()
    _times(console, told)
    _opened(console, told)
    _affected(console, told)
    _hypotheses(console, told)
    if told["report"]:
        console.print(Text(f"Postmortem: {harmless(told['report'])}", style="dim"), soft_wrap=True)
    again = f"One by one: lmx incidents timeline {shlex.quote(harmless(name))}"
    console.print(Text(again, style="dim"), soft_wrap=True)


def show_lines(console: Console, told: dict[str, Any]) -> None:
    """The timeline, in columns; times are from when it began."""
    _warn(console, told)
    incident = told["incident"]
    console.print(Text(harmless(incident["title"]), style="bold"))
    start = _local(incident["started_at"])
    console.print(Text(f"began {start:%Y-%m-%d %H:%M:%S} ({start:%Z}); * is a symptom of it", style="dim"))
    if not told["lines"]:
        console.print("Nothing that matters is in the ledger of that time.")
    for line in told["lines"]:
        _line(console, line, parse_rfc3339(incident["started_at"]))
    if told["window"]["cut"]:
        console.print(Text(f"Only the first {told['window']['events']:,} events were looked at.", style="yellow"))


def _line(console: Console, line: dict[str, Any], start_us: int) -> None:
    text = Text(f"{_offset(line['offset_s']):>9} ", style="dim", end="")
    text.append("*" if line["symptom"] else " ", style="bold red")
    style = SEVERITY_STYLE.get(line["severity"]) or "not dim cyan"
    text.append(f" {line['kind']:<{_KIND}} ", style=style)
    until = (parse_rfc3339(line["until"]) - start_us) / 1e6
    said = harmless(line["text"])
    if line["count"] > 1 and until - line["offset_s"] >= 1:
        said += f", until {_offset(until)}"
    seqs = f"{line['first_seq']}..{line['last_seq']}" if line["count"] > 1 else str(line["first_seq"])
    said += f" [{seqs}]"
    indent = text.cell_len
    for number, part in enumerate(textwrap.wrap(said, max(console.width - indent - 1, 20)) or [""]):
        row = text if number == 0 else Text(" " * indent, end="")
        row.append(part, style="not dim not bold default")
        console.print(row, soft_wrap=True)


def _times(console: Console, told: dict[str, Any]) -> None:
    start = _local(told["started_at"])
    how = "" if told["started_by"] == "event" else f" (where {_series(told['started_by'])} changed)"
    console.print(f"Began         {start:%Y-%m-%d %H:%M:%S}{how}", soft_wrap=True)
    steps = [(told["times"][key], name) for name, key in _STEPS if told["times"][key] is not None]
    for seconds, name in sorted(steps, key=lambda step: step[0]):
        console.print(f"{name.capitalize():<13} after {show_duration(seconds)}", soft_wrap=True)
    if told["status"] == "open":
        lasts = max((utc_us() - parse_rfc3339(told["started_at"])) / 1e6, 0)
        console.print(Text(f"It goes on, for {show_duration(lasts)} so far.", style="bold red"))
    if told["reopened"]:
        times = "once" if told["reopened"] == 1 else f"{told['reopened']} times"
        console.print(f"Reopened      {times}, last at {_local(told['reopened_at']):%H:%M:%S}")
    console.print()


def _opened(console: Console, told: dict[str, Any]) -> None:
    shown = told["opened_by"]
    console.print(Text("Symptoms", style="bold"))
    for event in shown[:_SHOWN]:
        at = _local(event["time"])
        text = Text(f"  {at:%H:%M:%S}  ", style="dim", end="")
        text.append(harmless(said(Recorded.of_public(event))), style="not dim default")
        _wrapped(console, text, f"  [{event['seq']}]", 12)
    missing = len(told["events"]) - len(shown)
    if missing > 0:
        console.print(f"  {missing} more are not in the ledger's reach any more.")
    if len(shown) > _SHOWN:
        console.print(Text(f"  and {len(shown) - _SHOWN} more", style="dim"))
    console.print()


def _affected(console: Console, told: dict[str, Any]) -> None:
    hit = told["affected"]
    console.print(Text("Affected", style="bold"))
    if not hit["requests"]:
        console.print("  Nobody asked anything meanwhile.\n")
        return
    parts = [f"{hit[name]:,} {name}" for name in ("refused", "failed", "slow") if hit[name]]
    text = f"  Of {hit['requests']:,} requests {', '.join(parts) or 'none was refused, failed or slow'}"
    if parts:
        text += f", of {hit['sessions']:,} session{'s' if hit['sessions'] != 1 else ''}"
    if hit["usual_ttft_ms"]:
        text += f"; before it, the first token took {show_duration(hit['usual_ttft_ms'] / 1e3)}"
    _wrapped(console, Text(text), "", 2)
    if told["worst"] is not None:
        console.print(Text(f"  Hit hardest: lmx why {harmless(told['worst'])}", style="dim"), soft_wrap=True)
    console.print()


def _hypotheses(console: Console, told: dict[str, Any]) -> None:
    console.print(Text("Hypotheses", style="bold").append(" (by evidence; none is proved)", style="not bold dim"))
    if not told["hypotheses"]:
        console.print("  None: nothing that is known as a cause began before it.\n")
        return
    for number, one in enumerate(told["hypotheses"], 1):
        text = Text(f"  {number}. ", end="")
        text.append(f"{harmless(one['name'])}", style="bold")
        text.append(f"  {one['score']:.2f}", style="not bold dim")
        console.print(text)
        _wrapped(console, Text("     " + harmless(one["text"]), end=""), "", 5)
        _wrapped(console, Text("     " + _evidence(one), style="dim"), "", 5)
    console.print()


def _evidence(one: dict[str, Any]) -> str:
    found = one["evidence"]
    began = found["began_s"]
    when = "as it began" if abs(began) < 0.5 else f"{abs(began):.1f} s {'before' if began < 0 else 'behind'} it"
    seqs = ", ".join(map(str, one["seqs"][:3])) + ("..." if len(one["seqs"]) > 3 else "")
    parts = [when, f"{found['before']:g} -> {found['after']:g} {found['unit']}"]
    if found["correlation"] >= 0.1:
        parts.append(f"correlation {found['correlation']:.2f}" + (f" at {found['lag_s']} s" if found["lag_s"] else ""))
    if found["in_chain"]:
        parts.append(f"causes lead there ({found['in_chain']:.0%})")
    return "; ".join(parts) + f"  [{seqs}]"


def _wrapped(console: Console, text: Text, tail: str, indent: int) -> None:
    """Within the width, what does not fit further in."""
    lines = textwrap.wrap(text.plain, console.width - len(tail), subsequent_indent=" " * indent, drop_whitespace=False)
    for number, line in enumerate(lines or [""]):
        part = Text(line.rstrip(), style=text.style)
        console.print(part.append(tail if number == len(lines) - 1 else "", style="dim"), soft_wrap=True)


def _warn(console: Console, told: dict[str, Any]) -> None:
    if told["ledger_distrusted"]:
        text = f"The ledger cannot be relied on: {harmless(told['ledger_distrusted'])}. See: lmx ledger verify"
        console.print(Text(text, style="bold red"))


def _cut(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _series(name: str) -> str:
    return {
        "ttft_ms": "the time to the first token",
        "refused": "the number of refusals",
        "failed": "the number of failures",
        "new_sessions": "the number of new sessions",
        "paging": "paging",
        "lost_prefix_tokens": "what is computed again",
        "disk_ms_per_mb": "the speed of the disk",
    }.get(name, name)


def _offset(seconds: float) -> str:
    sign = "-" if seconds < 0 else "+"
    seconds = abs(seconds)
    if seconds < 99.95:
        return f"{sign}{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{sign}{whole // 60}m{whole % 60:02d}s"
    return f"{sign}{whole // 3600}h{whole % 3600 // 60:02d}m"


def _lasted(one: dict[str, Any]) -> str:
    end_us = parse_rfc3339(one["mitigated_at"]) if one["mitigated_at"] and one["status"] != "open" else utc_us()
    return show_duration(max((end_us - parse_rfc3339(one["started_at"])) / 1e6, 0.001))


def _local(time: str) -> datetime:
    return datetime.fromtimestamp(parse_rfc3339(time) / 1e6).astimezone()
