"""Draws a reading of `lmx serve metrics` for a terminal of any size: lines that are cut, never wrapped."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from lmx_ledger.cli.display import SEVERITY_STYLE, STATE_STYLE, harmless, state_text
from lmx_ledger.cli.reading import EVENTS, Memory, Model, Reading, Signal
from lmx_ledger.cli.rows import History, memory_parts, memory_text, queue_text, show_ms, spark, stage_text
from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.units import show_bytes, show_duration

_LABEL: Final = 10
_SIGNAL: Final = 34
_BAR: Final = 6
_FIGURE: Final = 12
_TOP: Final = 26
_LEAST_EVENTS: Final = 5
_LOUD: Final = "bold reverse"
_STAGE_STYLE: Final = {"normal": "green", "backpressure": "yellow", "shedding": "red", "restart": "bold red"}
_PART_STYLE: Final = ("blue", "green", "cyan", "magenta", "yellow")


_Figure: TypeAlias = Callable[[Reading], float | None]


class Glyphs(NamedTuple):
    """What bars are made of. `parts` are those of `memory_parts`: told apart without colours, too."""

    parts: str
    free: str
    mark: str
    full: str
    empty: str
    spark: str
    cut: str


_FIGURES: Final[tuple[tuple[str, _Figure, Callable[[float | None], str]], ...]] = (
    ("TTFT p95", lambda one: one.ttft_p95_ms, show_ms),
    ("ITL p95", lambda one: one.itl_p95_ms, show_ms),
    ("decode", lambda one: one.decode_tps, lambda tps: "-" if tps is None else f"{tps:,.1f}/s"),
)
_BLOCKS: Final = Glyphs("█▓▒░▚", "·", "│", "█", "·", "▁▂▃▄▅▆▇█", "…")
_ASCII: Final = Glyphs("W#=+o", ".", "|", "#", ".", "_.-=+*#", "~")


class Away(NamedTuple):
    """The daemon gives no answer, for so long, because of that."""

    for_s: float
    why: str


class Page:
    """One reading. `whole`: as many lines as it takes; else as many as the terminal has."""

    def __init__(self, reading: Reading, history: History, every_s: float, *, away: Away | None, whole: bool) -> None:
        self._reading, self._history, self._every_s = reading, history, every_s
        self._away, self._whole = away, whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Drawn for the size that the terminal has now."""
        glyphs = _ASCII if options.ascii_only else _BLOCKS
        # The last column stays free: a terminal that wraps there would scroll.
        width = max(options.max_width - 1, 1)
        height = None if self._whole else max(options.height or console.height, 1)
        for line in self.lines(width, height, glyphs):
            _cut(line, width, glyphs)
            if self._whole:
                line.rstrip()
            yield line

    def lines(self, width: int, height: int | None, glyphs: Glyphs) -> list[Text]:
        """In so many columns and rows."""
        reading = self._reading
        head = self._title(width)
        of_title = len(head)
        if reading.drill is not None:
            head.append(Text(f" DRILL  {harmless(reading.drill.text)} ", style=f"{_LOUD} magenta"))
        sections = [
            _guard(reading),
            _signals(reading.signals, width, glyphs),
            _memory(reading.memory, width, glyphs),
            [*self._rates(width, glyphs), _labelled("queue", Text(queue_text(reading)))],
        ]
        if reading.ledger_error is not None:
            head.append(_labelled("ledger", Text(harmless(reading.ledger_error), style="bold red")))
        fixed = len(head) + sum(map(len, sections)) + 1
        models, events = _shares(len(reading.models), min(len(reading.events), EVENTS), height, fixed)
        sections += [_models(reading.models, models, width, glyphs), self._events(events)]
        airy = height is None or len(head) + sum(len(one) + 1 for one in sections) <= height
        found = head
        for section in sections:
            found += [Text(), *section] if airy and section else section
        if self._away is not None:
            for line in found[of_title:]:
                line.stylize("dim")
        return found[:height]

    def _title(self, width: int) -> list[Text]:
        reading, away = self._reading, self._away
        at = _clock(reading.time)
        if away is not None:
            line = Text.assemble((f" NO ANSWER for {show_duration(away.for_s)} ", f"{_LOUD} red"))
            line.append(f"  still asking; below is how it was at {at}")
            return [line, Text(harmless(away.why), style="red")]
        state = state_text(reading.state)
        title = Text.assemble(("LMX ", "bold"), (harmless(reading.version), "bold"), f"  {reading.url}  ", state)
        title.append(f", up {show_duration(reading.uptime_s)}")
        room = width - title.cell_len - len(at)
        return [title.append(" " * room + at, style="dim") if room > 1 else title]

    def _rates(self, width: int, glyphs: Glyphs) -> list[Text]:
        room = max(width - _LABEL - _FIGURE - _TOP, 0) if self._every_s else 0
        lines = []
        for name, figure, show in _FIGURES:
            line = _labelled(name, Text(f"{show(figure(self._reading)):<{_FIGURE}}"))
            past = self._history.last(figure, room)
            if len(past) > 1 and (known := [value for value in past if value is not None]):
                top = f"top {show(max(known))} in {show_duration((len(past) - 1) * self._every_s)}"
                line.append(f"{top:<{_TOP}}", style="dim").append(spark(past, glyphs.spark), style="cyan")
            lines.append(line)
        return lines

    def _events(self, count: int) -> list[Text]:
        if not self._reading.events:
            return [Text("nothing in the ledger yet", style="dim")]
        lines = []
        for one in self._reading.events[len(self._reading.events) - count :]:
            line = Text(f"{_clock(one.time)} ", style="dim")
            if one.drill is not None:
                line.append("drill ", style="not dim magenta")
            lines.append(line.append(harmless(one.line), style=f"not dim {SEVERITY_STYLE[one.severity]}"))
        return lines


def _shares(models: int, events: int, height: int | None, fixed: int) -> tuple[int, int]:
    """How many lines of models and of events there is room for."""
    if height is None:
        return models, events
    room = max(height - fixed, 0)
    shown = min(models, max(room - min(events, _LEAST_EVENTS), 1))
    return shown, min(events, max(room - shown, 0))


def _labelled(label: str, value: Text) -> Text:
    return Text.assemble((f"{label:<{_LABEL}}", "dim"), value)


def _guard(reading: Reading) -> list[Text]:
    style = _STAGE_STYLE.get(reading.stage, "bold red") if reading.guarded else "dim"
    value = Text.assemble((stage_text(reading), style))
    if reading.safe_mode:
        value.append("  ").append(" SAFE MODE ", style=f"{_LOUD} yellow")
    value.append(f"  context up to {reading.max_context_tokens:,} tokens", style="yellow" if reading.safe_mode else "")
    lines = [_labelled("guard", value)]
    if reading.reasons:
        why = ", ".join(reading.reasons)
        lines.append(_labelled("", Text(f"on: {harmless(why)}", style="yellow")))
    elif reading.stage != "normal":
        lines.append(_labelled("", Text("what it was for is over; it goes down when that has lasted", style="dim")))
    return lines


def _signals(signals: Sequence[Signal], width: int, glyphs: Glyphs) -> list[Text]:
    if not signals:
        return []
    columns = max(min((width - _LABEL) // _SIGNAL, len(signals), 3), 1)
    each = (width - _LABEL) // columns
    rows = -(-len(signals) // columns)
    lines = []
    for row in range(rows):
        line = Text()
        for signal in signals[row::rows]:
            cell = _signal(signal, glyphs)
            cell.truncate(each - 1, overflow="ellipsis", pad=True)
            line.append_text(cell).append(" ")
        lines.append(_labelled("signals" if row == 0 else "", line))
    return lines


def _signal(signal: Signal, glyphs: Glyphs) -> Text:
    style = "bold red" if signal.on else "yellow" if signal.share >= 0.75 else "green"
    # A little is not nothing, and only what is reached is full.
    full = round(signal.share * _BAR) or int(signal.share > 0)
    full = min(full, _BAR if signal.share >= 1 else _BAR - 1)
    cell = Text(f"{harmless(signal.name):<11} ", style=style if signal.on else "")
    cell.append(glyphs.full * full, style=style).append(glyphs.empty * (_BAR - full), style="dim")
    return cell.append(f" {signal.text}", style=style if signal.on else "not bold")


def _memory(memory: Memory, width: int, glyphs: Glyphs) -> list[Text]:
    bar = max(min(width - _LABEL, 100), 8)
    parts = memory_parts(memory)
    # Over the limit the bar is of what is reserved, so that all of it is seen.
    whole = max(memory.limit_bytes, memory.used_bytes, 1)
    cells, ends = list[tuple[str, str]](), 0
    for (_, size), glyph, style in zip(parts, glyphs.parts, _PART_STYLE, strict=True):
        ends += size
        # A little is not nothing.
        cells += [(glyph, style)] * max(round(ends / whole * bar) - len(cells), int(size > 0))
    cells = [*cells, *[(glyphs.free, "dim")] * bar][:bar]
    cells[min(int(memory.page_at * memory.limit_bytes / whole * bar), bar - 1)] = (glyphs.mark, "bold red")
    lines = [
        _labelled("memory", Text(memory_text(memory), style="yellow" if memory.fraction >= memory.page_at else "")),
        _labelled("", Text.assemble(*cells)),
    ]
    legend = [
        Text.assemble((glyph, colour), f" {name} {show_bytes(size)}")
        for (name, size), glyph, colour in zip(parts, glyphs.parts, _PART_STYLE, strict=True)
    ]
    legend.append(Text(f"{glyphs.free} free {show_bytes(memory.free_bytes)}"))
    legend.append(Text.assemble((glyphs.mark, "bold red"), f" pages at {memory.page_at:.0%}"))
    lines += [_labelled("", line) for line in _flowed(legend, width - _LABEL)]
    if memory.waiting is not None:
        lines.append(_labelled("", Text(f"waits for memory: {harmless(memory.waiting)}", style="yellow")))
    return lines


def _flowed(pieces: Sequence[Text], width: int) -> list[Text]:
    """In as few lines as they take, none of them cut."""
    lines = [Text()]
    for piece in pieces:
        if lines[-1] and lines[-1].cell_len + 2 + piece.cell_len > width:
            lines.append(Text())
        lines[-1].append("  " if lines[-1] else "").append_text(piece)
    return lines


def _models(models: Sequence[Model], count: int, width: int, glyphs: Glyphs) -> list[Text]:
    if not models:
        return [_labelled("models", Text("none is served", style="dim"))]
    # Those that are left out are the last, and are counted.
    shown = models if len(models) <= count else models[: max(count - 1, 0)]
    names = [_shorten(harmless(one.id), max(width - 58, 12), glyphs.cut) for one in shown]
    room = max((cell_len(name) for name in names), default=5)
    header = f"{set_cell_size('model', room)}  {'state':<12}  {'in memory':>15}  {'run':>4}  {'wait':>4}  {'prio':>4}"
    lines = [Text(header, style="dim")]
    for one, name in zip(shown, names, strict=True):
        line = Text(f"{set_cell_size(name, room)}  ")
        line.append(f"{one.state:<12}", style=STATE_STYLE.get(one.state, ""))
        line.append(f"  {one.size:>15}  {one.in_flight:>4}  {one.waiting:>4}  {one.priority:>4}  {one.marks}")
        lines.append(line)
    if len(shown) < len(models):
        left = len(models) - len(shown)
        lines.append(Text(f"and {left} more" if shown else f"{left} models", style="dim"))
    return lines


def _shorten(text: str, most: int, cut: str) -> str:
    """In so many cells, with its beginning and its end: ids differ at either."""
    if cell_len(text) <= most:
        return text
    tail = text
    while cell_len(tail) > most // 2 - 1:
        tail = tail[1:]
    return f"{set_cell_size(text, most - cell_len(tail) - 1)}{cut}{tail}"


def _cut(line: Text, width: int, glyphs: Glyphs) -> None:
    line.no_wrap, line.overflow = True, "crop"
    if line.cell_len > width:
        line.truncate(width - 1, overflow="crop")
        line.append(glyphs.cut)


def _clock(time: str) -> str:
    return f"{datetime.fromtimestamp(parse_rfc3339(time) / 1e6).astimezone():%H:%M:%S}"
