"""`lmx chat`: a conversation in the terminal, or one question through a pipe."""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from lmx_ledger.cli.answer import Answer, HumanView, JsonView, PlainView, View, stream_answer
from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, Refused
from lmx_ledger.cli.display import harmless, note, on_terminal, terminal
from lmx_ledger.cli.options import ApiKey, Url, stored_models

EXAMPLE: Final = "Example: lmx chat --model lmx-demo --system 'Be brief'  (or: echo hi | lmx chat)"

_HELP: Final = """\
/new    forget the conversation
/cache  what the KV cache did for the last answer
/quit   leave (Ctrl-D does too)
/help   this
Ctrl-C  cancel the answer that is coming"""


@dataclass
class Conversation:
    """The messages so far. A question without an answer is taken back, so that the next one starts clean."""

    model: str | None
    system: str | None
    max_tokens: int | None
    messages: list[dict[str, Any]] = field(default_factory=list)
    last: Answer | None = None

    def body(self) -> dict[str, Any]:
        """The request for the next answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        options = {"model": self.model, "max_tokens": self.max_tokens}
        return {
            "messages": system + self.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in options.items() if value is not None},
        }

    def ask(self, connection: Connection, text: str, view: View) -> Answer:
        """One turn.

        Raises:
            Failure: it could not be answered; the conversation is as it was before.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            answer = stream_answer(connection, self.body(), view)
        except Failure:
            self.messages.pop()
            raise
        self.last = answer
        if answer.content or answer.calls:
            self.messages.append(answer.message())
        else:
            self.messages.pop()
        return answer


def chat(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="M",
            help="Id or alias.",
            show_default="the first served",
            autocompletion=stored_models,
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer, in tokens.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line: content, reasoning, end.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Talk to a model. What comes through a pipe is one question."""
    connection = Connection(url, api_key)
    served = _served(connection, model)
    conversation = Conversation(served, system, max_tokens)
    view: View = JsonView() if as_json else HumanView() if on_terminal() else PlainView()
    if not sys.stdin.isatty():
        _one_shot(connection, conversation, view)
        return
    if isinstance(view, HumanView):
        terminal().print(f"{served} at {connection.url}. /help lists what else can be typed.", style="dim")
    _converse(connection, conversation, view)


def _served(connection: Connection, model: str | None) -> str:
    """The model's id, so that an unknown one is refused before anything is typed."""
    if model is None:
        return str(connection.get("/v1/models")["data"][0]["id"])
    return str(connection.get(f"/v1/models/{quote(model, safe='')}")["id"])


def _one_shot(connection: Connection, conversation: Conversation, view: View) -> None:
    try:
        text = sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Failure(f"what came through the pipe is not UTF-8 text (byte {error.start})") from None
    if not text:
        raise Failure("nothing came through the pipe; give it a question: echo hi | lmx chat")
    try:
        answer = conversation.ask(connection, text, view)
    except Failure as failure:
        view.failed(str(failure))
        raise
    if answer.cancelled:
        raise typer.Exit(130)


def _converse(connection: Connection, conversation: Conversation, view: View) -> None:
    try:
        # Line editing and history for input(); a Python without it still chats.
        import readline  # noqa: F401, PLC0415
    except ImportError:
        note("this Python has no line editing")
    while (text := _read_line(quiet=isinstance(view, JsonView))) is not None:
        match text:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/help":
                typer.echo(_HELP)
            case "/cache":
                note(_cache_line(conversation.last))
            case "/new":
                conversation.messages.clear()
                note("a new conversation")
            case command if command.startswith("/") and " " not in command:
                note(f"{harmless(command)} is no command; /help lists them")
            case _:
                _turn(connection, conversation, text, view)


def _cache_line(answer: Answer | None) -> str:
    """What `X-LMX-Cache` and the usage said of the last answer."""
    if answer is None:
        return "nothing was answered yet"
    prompt = answer.usage["prompt_tokens"] if answer.usage else None
    tokens = "" if prompt is None else f"{answer.cached_tokens:,} of {prompt:,} prompt tokens came from the cache"
    if answer.cache is None:
        return f"this daemon keeps no KV cache (its answer has no X-LMX-Cache){': ' if tokens else ''}{tokens}"
    return f"X-LMX-Cache: {harmless(answer.cache)}{'; ' if tokens else ''}{tokens}"


def _turn(connection: Connection, conversation: Conversation, text: str, view: View) -> None:
    try:
        conversation.ask(connection, text, view)
    except (Refused, NoDaemon) as failure:
        # The conversation stands: the question can be asked again, shorter, later, or when the daemon is back.
        view.failed(str(failure))
        note(str(failure))


def _read_line(*, quiet: bool) -> str | None:
    """A line; None at the end of input. Ctrl-C throws away what was typed."""
    try:
        return input("" if quiet else "> ").strip()
    except EOFError:
        typer.echo()
        return None
    except KeyboardInterrupt:
        typer.echo()
        note("/quit or Ctrl-D leaves")
        return ""
