"""Splits an answer's text at the model's markers into reasoning, content and tool calls, as it arrives."""

import enum
from typing import Final, NamedTuple

from lmx_ledger.engine.protocol import Dialect
from lmx_ledger.serving.stops import longest_beginning

PLAIN: Final = Dialect(None, None, None, None, None)
"""No markers: raw text."""


class Part(enum.Enum):
    """What a stretch of text is."""

    CONTENT = "content"
    REASONING = "reasoning"
    TOOL = "tool"


class Stretch(NamedTuple):
    """Some text and what it is. A TOOL stretch is one whole call, as it stood between its markers."""

    part: Part
    text: str
    closed: bool = True


class StructureSplitter:
    """A state machine over text. Tool markers count only when tools were offered, so that nobody's text is eaten."""

    def __init__(self, dialect: Dialect, *, tools: bool, begin: Part = Part.CONTENT) -> None:
        self._dialect = dialect
        self._tools = tools and dialect.tool_start is not None
        self._part = begin
        self._held = ""
        self._tool_text = ""
        self._trim = False

    @property
    def part(self) -> Part:
        """What the next text would be."""
        return self._part

    @property
    def withheld(self) -> int:
        """Characters that were fed and not shown yet, because they could begin a marker."""
        return len(self._held)

    def feed(self, text: str) -> list[Stretch]:
        """The stretches that are certain by now, in order."""
        out: list[Stretch] = []
        self._held += text
        while self._held:
            found = self._next_marker()
            if found is None:
                keep = longest_beginning(self._held, list(self._markers()))
                cut = len(self._held) - keep
                self._show(self._held[:cut], out)
                self._held = self._held[cut:]
                break
            at, marker, becomes = found
            self._show(self._held[:at], out)
            self._held = self._held[at + len(marker) :]
            self._turn(becomes, out)
        return out

    def finish(self) -> list[Stretch]:
        """What is left when the model has ended; a tool call without its end is `closed=False` unless none is due."""
        out: list[Stretch] = []
        self._show(self._held, out)
        self._held = ""
        if self._part is Part.TOOL:
            out.append(Stretch(Part.TOOL, self._tool_text, closed=not self._dialect.tool_end))
            self._tool_text = ""
        return out

    def _markers(self) -> dict[str, Part]:
        dialect = self._dialect
        if self._part is Part.TOOL:
            return {dialect.tool_end: Part.CONTENT} if dialect.tool_end else {}
        if self._part is Part.REASONING:
            return {dialect.think_end: Part.CONTENT} if dialect.think_end else {}
        markers = {dialect.think_start: Part.REASONING} if dialect.think_start else {}
        if self._tools and dialect.tool_start:
            markers[dialect.tool_start] = Part.TOOL
        return markers

    def _next_marker(self) -> tuple[int, str, Part] | None:
        found = [(at, m, part) for m, part in self._markers().items() if (at := self._held.find(m)) >= 0]
        return min(found, key=lambda f: f[0], default=None)

    def _turn(self, becomes: Part, out: list[Stretch]) -> None:
        if self._part is Part.TOOL:
            out.append(Stretch(Part.TOOL, self._tool_text))
            self._tool_text = ""
        # The white space that templates put behind </think> and between tool calls is not the answer's.
        self._trim = True
        self._part = becomes

    def _show(self, text: str, out: list[Stretch]) -> None:
        if self._part is Part.TOOL:
            self._tool_text += text
            return
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        if text:
            out.append(Stretch(self._part, text))
