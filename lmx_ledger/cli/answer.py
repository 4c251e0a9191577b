"""One streamed answer: read frame by frame, shown as it comes to a person, a pipe or a program."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import typer
from rich.status import Status
from rich.text import Text

from lmx_ledger.cli.connection import Connection, Failure, Refused
from lmx_ledger.cli.display import harmless, print_json, terminal
from lmx_ledger.core.clock import elapsed_ms, mono_ns


@dataclass
class Answer:
    """What has come so far. `calls` are OpenAI tool calls, `usage` is OpenAI's, `cache` the header `X-LMX-Cache`."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    request: str | None = None
    cache: str | None = None
    ttft_ms: float | None = None
    wall_ms: float = 0.0
    cancelled: bool = False

    def message(self) -> dict[str, Any]:
        """The turn as the next request repeats it (reasoning is not repeated)."""
        calls = {"tool_calls": self.calls} if self.calls else {}
        return {"role": "assistant", "content": self.content, **calls}

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were not computed again."""
        return int(((self.usage or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


class View(Protocol):
    """Where an answer is shown."""

    def progress(self, done: int, total: int) -> None:
        """So many tokens of the prompt have been read."""

    def reasoning(self, text: str) -> None:
        """A piece of the model's reasoning."""

    def content(self, text: str) -> None:
        """A piece of the answer."""

    def tool_call(self, call: dict[str, Any]) -> None:
        """A whole tool call."""

    def end(self, answer: Answer) -> None:
        """The answer is complete, or was cancelled."""

    def failed(self, reason: str) -> None:
        """There will be no (more of the) answer."""


def stream_answer(connection: Connection, body: dict[str, Any], view: View) -> Answer:
    """Ask and show; Ctrl-C hangs up, which cancels the request in the daemon, and keeps what has come.

    Raises:
        Failure: it was refused, failed or broke off.
    """
    answer, began = Answer(), mono_ns()
    try:
        with connection.stream("/v1/chat/completions", body) as streamed:
            answer.cache = streamed.headers.get("X-LMX-Cache")
            for frame in _frames(streamed.lines):
                if "error" in frame:
                    raise Refused(str(frame["error"]["message"]))
                if _take(frame, answer, view) and answer.ttft_ms is None:
                    answer.ttft_ms = elapsed_ms(began)
    except KeyboardInterrupt:
        answer.cancelled = True
    if answer.finish_reason is None and not answer.cancelled:
        raise Failure("the answer broke off; see: lmx serve logs")
    answer.wall_ms = elapsed_ms(began)
    view.end(answer)
    return answer


def _frames(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def _take(frame: dict[str, Any], answer: Answer, view: View) -> bool:
    """Take in one frame; whether it brought something that the model generated."""
    answer.request = frame.get("id", answer.request)
    answer.usage = frame.get("usage") or answer.usage
    if progress := frame.get("lmx"):
        view.progress(progress["done"], progress["total"])
    came = False
    for choice in frame.get("choices", []):
        delta = choice.get("delta", {})
        if text := delta.get("reasoning_content"):
            answer.reasoning += text
            view.reasoning(text)
            came = True
        if text := delta.get("content"):
            answer.content += text
            view.content(text)
            came = True
        for call in delta.get("tool_calls") or []:
            whole = {name: value for name, value in call.items() if name != "index"}
            answer.calls.append(whole)
            view.tool_call(whole)
            came = True
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    return came


class PlainView:
    """A pipe: the answer, the whole answer and nothing but the answer. Tool calls are part of it, one per line."""

    def progress(self, done: int, total: int) -> None:
        """Not part of the answer."""

    def reasoning(self, text: str) -> None:
        """Not part of the answer."""

    def content(self, text: str) -> None:
        """As it comes."""
        typer.echo(text, nl=False)

    def tool_call(self, call: dict[str, Any]) -> None:
        """Name and arguments."""
        typer.echo(_call_line(call))

    def end(self, answer: Answer) -> None:
        """Text files end with a line end."""
        if not answer.content.endswith("\n"):
            typer.echo()

    def failed(self, reason: str) -> None:
        """The exit status and stderr say it."""


class JsonView:
    """A program: one object per line."""

    def progress(self, done: int, total: int) -> None:
        """`{"type": "progress", "done", "total"}` in tokens."""
        print_json({"type": "progress", "done": done, "total": total}, line=True)

    def reasoning(self, text: str) -> None:
        """`{"type": "reasoning", "text"}`."""
        print_json({"type": "reasoning", "text": text}, line=True)

    def content(self, text: str) -> None:
        """`{"type": "content", "text"}`."""
        print_json({"type": "content", "text": text}, line=True)

    def tool_call(self, call: dict[str, Any]) -> None:
        """`{"type": "tool_call", "id", "function": {"name", "arguments"}}`."""
        print_json({**call, "type": "tool_call"}, line=True)

    def end(self, answer: Answer) -> None:
        """`{"type": "end", ...}` with the whole answer and its numbers."""
        print_json(
            {
                "type": "end",
                "request": answer.request,
                "finish_reason": answer.finish_reason,
                "cancelled": answer.cancelled,
                "content": answer.content,
                "usage": answer.usage,
                "cache": answer.cache,
                "ttft_ms": answer.ttft_ms,
                "wall_ms": answer.wall_ms,
            },
            line=True,
        )

    def failed(self, reason: str) -> None:
        """`{"type": "error", "message"}`."""
        print_json({"type": "error", "message": reason}, line=True)


class HumanView:
    """A terminal: reasoning dimmed, the prompt's progress while it is read, the numbers at the end."""

    def __init__(self) -> None:
        self._console = terminal()
        self._status: Status | None = None
        self._column_zero = True
        self._reasoned = False

    def progress(self, done: int, total: int) -> None:
        """A line that goes away again."""
        share = f" {done / total:.0%}" if total else ""
        text = f"reading the prompt: {done:,} of {total:,} tokens{share}"
        if self._status is None:
            self._status = terminal(stderr=True).status(text)
            self._status.start()
        else:
            self._status.update(text)

    def reasoning(self, text: str) -> None:
        """Dimmed."""
        self._reasoned = True
        self._write(text, "dim italic")

    def content(self, text: str) -> None:
        """As it comes, below the reasoning."""
        if self._reasoned:
            self._reasoned = False
            self._fresh_line()
            text = text.lstrip("\n")
        self._write(text, "")

    def tool_call(self, call: dict[str, Any]) -> None:
        """On a line of its own."""
        self._fresh_line()
        self._write(_call_line(call) + "\n", "cyan")

    def end(self, answer: Answer) -> None:
        """How it ended, how much it was and how fast it came."""
        self._fresh_line()
        parts = ["cancelled" if answer.cancelled else answer.finish_reason or ""]
        if answer.usage:
            tokens = answer.usage["completion_tokens"]
            cached = f" ({answer.cached_tokens:,} cached)" if answer.cached_tokens else ""
            parts.append(f"{answer.usage['prompt_tokens']:,}{cached} + {tokens:,} tokens")
            decode_ms = answer.wall_ms - (answer.ttft_ms or 0)
            if tokens > 1 and decode_ms > 0:
                parts.append(f"{(tokens - 1) / decode_ms * 1000:.1f} tokens/s")
        if answer.ttft_ms is not None:
            parts.append(f"first after {answer.ttft_ms:,.0f} ms")
        self._console.print(Text("  ".join(filter(None, parts)) + "\n", style="dim"))

    def failed(self, reason: str) -> None:  # noqa: ARG002 - the caller's line on stderr says why
        """Make room for the line on stderr that says why."""
        self._fresh_line()
        self._reasoned = False

    def _write(self, text: str, style: str) -> None:
        self._stop_status()
        shown = harmless(text, keep="\n\t")
        self._console.print(Text(shown, style=style), end="", soft_wrap=True)
        self._console.file.flush()
        self._column_zero = shown.endswith("\n")

    def _fresh_line(self) -> None:
        self._stop_status()
        if not self._column_zero:
            self._console.print()
            self._column_zero = True

    def _stop_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _call_line(call: dict[str, Any]) -> str:
    function = call["function"]
    return f"tool call: {function['name']}({function['arguments']})"
