"""A reading of `lmx serve metrics` as text: name and value of everything, and what figures were before."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from lmx_ledger.cli.display import harmless
from lmx_ledger.cli.reading import Memory, Model, Reading
from lmx_ledger.core.units import show_bytes, show_duration

_NAME: Final = 22


def rows(reading: Reading) -> list[tuple[str, str]]:
    """Name and value of everything, for a page without a terminal; nothing of strangers in it can do harm."""
    memory = reading.memory
    found = [
        ("url", reading.url),
        ("version", reading.version),
        ("state", f"{reading.state}, up {show_duration(reading.uptime_s)}"),
        ("drill", "none" if reading.drill is None else f"DRILL {reading.drill.text}"),
        ("stage", stage_text(reading)),
        ("reasons", ", ".join(reading.reasons) or "none"),
        ("safe_mode", "yes" if reading.safe_mode else "no"),
        ("context", f"up to {reading.max_context_tokens:,} tokens"),
        *((f"signal.{one.name}", f"{one.text}{', ON' if one.on else ''}") for one in reading.signals),
        ("memory", memory_text(memory)),
        ("memory.page_at", f"{memory.page_at:.0%}, down to {memory.page_to:.0%}"),
        *((f"memory.{name.lower().replace(' ', '_')}", show_bytes(size)) for name, size in memory_parts(memory)),
        ("memory.free", show_bytes(memory.free_bytes)),
        *([] if memory.waiting is None else [("memory.waiting", memory.waiting)]),
        ("ttft_p95", show_ms(reading.ttft_p95_ms)),
        ("itl_p95", show_ms(reading.itl_p95_ms)),
        ("decode", f"{reading.decode_tps:,.1f} tokens/s"),
        ("prefill", "-" if reading.prefill_tps is None else f"{reading.prefill_tps:,.1f} tokens/s"),
        ("queue", queue_text(reading)),
        *([] if reading.ledger_error is None else [("ledger", reading.ledger_error)]),
        *(("model", _model_text(one)) for one in reading.models),
        *(("event", one.line if one.drill is None else f"(drill) {one.line}") for one in reading.events),
    ]
    return [(harmless(name), harmless(value)) for name, value in found]


def plain(reading: Reading) -> list[str]:
    """`rows` as lines."""
    return [f"{name:<{_NAME}}{value}" for name, value in rows(reading)]


def _model_text(model: Model) -> str:
    marks = f", {model.marks}" if model.marks else ""
    work = f"{model.in_flight} in flight, {model.waiting} waiting"
    return f"{model.id}: {model.state}, {model.size}, {work}, priority {model.priority}{marks}"


def stage_text(reading: Reading) -> str:
    """The stage, and since when; or that nobody guards."""
    return f"{reading.stage} for {show_duration(reading.stage_for_s)}" if reading.guarded else "off by configuration"


def queue_text(reading: Reading) -> str:
    """Who is served and who waits."""
    if not reading.in_flight:
        served = "nobody is served"
    else:
        served = (
            f"{reading.in_flight:,} in flight, {f'{reading.queued:,} of them' if reading.queued else 'nobody'} waiting"
        )
    wait = f"; next waits {show_duration(reading.wait_s)}" if reading.wait_s else ""
    refused = f"; {reading.refused:,} refused" if reading.refused and reading.stage != "normal" else ""
    return served + wait + refused


def memory_text(memory: Memory) -> str:
    """What is reserved, of what limit, and what of it the workers really hold."""
    lowered = ""
    if memory.limit_bytes < memory.configured_bytes:
        lowered = f" (lowered from {show_bytes(memory.configured_bytes)})"
    reserved = f"{memory.fraction:.0%} reserved: {show_bytes(memory.used_bytes)} of {show_bytes(memory.limit_bytes)}"
    return f"{reserved}{lowered}; {show_bytes(memory.held_bytes)} held"


def memory_parts(memory: Memory) -> list[tuple[str, int]]:
    """What is reserved, by what for. `other`: the reserve that is nobody's, and other daemons of this home."""
    named = memory.weights_bytes + memory.kv_bytes + memory.kept_bytes + memory.working_bytes
    return [
        ("weights", memory.weights_bytes),
        ("KV in use", memory.kv_bytes),
        ("KV at rest", memory.kept_bytes),
        ("working", memory.working_bytes),
        ("other", max(memory.used_bytes - named, 0)),
    ]


def show_ms(ms: float | None) -> str:
    """For people; `-` where nothing was measured yet."""
    if ms is None:
        return "-"
    return f"{ms:.1f} ms" if ms < 99.95 else show_duration(ms / 1e3)


class History:
    """Figures of the readings so far, oldest first; None where there was no answer or nothing to measure."""

    def __init__(self, most: int = 600) -> None:
        self._readings: deque[Reading | None] = deque(maxlen=most)

    def add(self, reading: Reading | None) -> None:
        """One more; None: no answer."""
        # Of an old one nothing but its figures is looked at.
        self._readings.append(
            reading if reading is None else msgspec.structs.replace(reading, events=[], models=[], signals=[])
        )

    def last(self, figure: Callable[[Reading], float | None], count: int) -> list[float | None]:
        """That figure of the last so many."""
        newest = list(self._readings)[-count:] if count > 0 else []
        return [None if one is None else figure(one) for one in newest]


def spark(values: Sequence[float | None], glyphs: str) -> str:
    """One glyph for each value, from 0 to the highest of them; a gap is a blank."""
    top = max((value for value in values if value is not None), default=0.0)
    steps = len(glyphs) - 1
    return "".join(
        " " if value is None else glyphs[min(round(value / top * steps), steps) if top > 0 else 0] for value in values
    )
