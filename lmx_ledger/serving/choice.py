"""One choice of an answer: its tokens become text, reasoning, tool calls and log-probabilities."""

from collections import deque
from typing import NamedTuple

from lmx_ledger.engine.protocol import Logprob, Token
from lmx_ledger.serving.detokenize import Detokenizer
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.request import TokenLogprob
from lmx_ledger.serving.stops import StopMatcher
from lmx_ledger.serving.structure import PLAIN, Part, Stretch, StructureSplitter
from lmx_ledger.serving.text import TextModel


class Shown(NamedTuple):
    """What some tokens gave: text to show, calls to parse, and whether a stop text ended the choice."""

    content: str
    reasoning: str
    tool_texts: list[Stretch]
    logprobs: list[TokenLogprob]
    stopped: bool


class ChoiceText:
    """The text side of one stream. Feed it tokens in order; `finish` once at the end."""

    def __init__(
        self, model: ServedModel, text: TextModel, *, structured: bool, begin: Part, tools: bool, stop: list[str]
    ) -> None:
        self._text = text
        self._detokenizer = Detokenizer(text.tokenizer, model.silent)
        self._splitter = StructureSplitter(model.dialect if structured else PLAIN, tools=tools, begin=begin)
        self._stops = StopMatcher(stop)
        self._fed_chars = 0
        self._pending: deque[tuple[int, TokenLogprob]] = deque()
        self.reasoning_tokens = 0

    def feed(self, tokens: list[Token]) -> Shown:
        """The effect of some tokens; those after a stop text are not looked at."""
        content, reasoning = "", ""
        calls: list[Stretch] = []
        for token in tokens:
            if token.logprob is not None and token.finish != "stop":
                self._pending.append((self._fed_chars, self._read(token.id, token.logprob)))
            self.reasoning_tokens += self._splitter.part is Part.REASONING
            if token.finish == "stop":
                continue
            piece = self._detokenizer.feed(token.id)
            self._fed_chars += len(piece)
            added = self._sort(self._splitter.feed(piece), calls)
            content, reasoning = content + added[0], reasoning + added[1]
            if self._stops.stopped:
                break
        return Shown(content, reasoning, calls, self._released(), self._stops.stopped)

    def finish(self) -> Shown:
        """What was held back, now that nothing follows."""
        calls: list[Stretch] = []
        if self._stops.stopped:
            return Shown("", "", calls, [], stopped=True)
        rest = self._detokenizer.finish()
        self._fed_chars += len(rest)
        first = self._sort(self._splitter.feed(rest), calls)
        last = self._sort(self._splitter.finish(), calls)
        content = first[0] + last[0] + self._stops.finish()
        return Shown(content, first[1] + last[1], calls, self._released(), self._stops.stopped)

    def _sort(self, stretches: list[Stretch], calls: list[Stretch]) -> tuple[str, str]:
        content, reasoning = "", ""
        for stretch in stretches:
            if stretch.part is Part.TOOL:
                calls.append(stretch)
            elif stretch.part is Part.REASONING:
                reasoning += stretch.text
            else:
                content += self._stops.feed(stretch.text)
        return content, reasoning

    def _released(self) -> list[TokenLogprob]:
        """Log-probabilities of tokens whose text has begun to be shown; those of a stop text never are."""
        shown = self._fed_chars - self._splitter.withheld - self._stops.withheld
        out = []
        while self._pending and self._pending[0][0] < max(shown, 0):
            out.append(self._pending.popleft()[1])
        return out

    def _read(self, token: int, logprob: Logprob) -> TokenLogprob:
        def text_of(number: int) -> tuple[str, bytes]:
            raw = self._text.token_bytes(number)
            return raw.decode(errors="replace"), raw

        drawn, raw = text_of(token)
        top = [(*text_of(number), value) for number, value in logprob.top]
        return TokenLogprob(token=drawn, token_bytes=raw, logprob=logprob.drawn, top=top)
