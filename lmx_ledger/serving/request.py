"""The one internal form of a request, which every API face fills, and of what comes back."""

from typing import Any, TypeAlias

import msgspec

from lmx_ledger.engine.protocol import Logprob, Sampling


class ToolChoice(msgspec.Struct, frozen=True):
    """`mode` is none, auto or required; `name` forces that one function."""

    mode: str = "auto"
    name: str | None = None


class Chat(msgspec.Struct, frozen=True):
    """A conversation for the model's template, in the form that Hugging Face templates read."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    tool_choice: ToolChoice = ToolChoice()
    template_arguments: dict[str, Any] = {}


class Texts(msgspec.Struct, frozen=True):
    """Raw prompts, each text or token ids; answered side by side."""

    prompts: list[str] | list[list[int]]


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be generated, whichever API it came through. `max_tokens` None: as much as fits.

    `left_open` names the fields of `sampling` that the client did not set; the model's own defaults fill them. A higher
    `priority` is before others in line, and each step up doubles its share of the reading of prompts.
    """

    id: str
    route: str
    model: str | None
    prompt: Chat | Texts
    sampling: Sampling
    left_open: frozenset[str] = frozenset()
    max_tokens: int | None = None
    stop: list[str] = []
    n: int = 1
    stream: bool = False
    priority: int = 0
    session: str | None = None
    client: str | None = None
    client_request_id: str | None = None

    @property
    def choices(self) -> int:
        """How many streams it needs."""
        return self.n * (len(self.prompt.prompts) if isinstance(self.prompt, Texts) else 1)

    def filled(self, defaults: dict[str, float]) -> "GenerationRequest":
        """With a model's defaults where the client left the sampling open."""
        own = {name: value for name, value in defaults.items() if name in self.left_open}
        return msgspec.structs.replace(self, sampling=msgspec.structs.replace(self.sampling, **own)) if own else self


def drawn_by(sampling: Sampling) -> dict[str, float]:
    """What decides which tokens are drawn, for the ledger."""
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
    return {name: getattr(sampling, name) for name in names}


class ToolCall(msgspec.Struct, frozen=True):
    """One call the model made; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


class TokenLogprob(msgspec.Struct, frozen=True):
    """A drawn token as text and bytes, with the log-probabilities at its position (`top`: text, bytes, value)."""

    token: str
    token_bytes: bytes
    logprob: float
    top: list[tuple[str, bytes, float]]


class Progress(msgspec.Struct, frozen=True):
    """Nothing to show yet: `phase` is queued (done = places ahead) or prefill (tokens read of total)."""

    phase: str
    done: int
    total: int


class Piece(msgspec.Struct, frozen=True):
    """What one choice has to show since its last piece."""

    choice: int
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []


class ChoiceEnd(msgspec.Struct, frozen=True):
    """A choice is complete: stop, length or tool_calls."""

    choice: int
    finish_reason: str


Output: TypeAlias = Progress | Piece | ChoiceEnd


class Usage(msgspec.Struct):
    """Tokens of a request, over all its choices."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


__all__ = [
    "Chat",
    "ChoiceEnd",
    "GenerationRequest",
    "Logprob",
    "Output",
    "Piece",
    "Progress",
    "Texts",
    "TokenLogprob",
    "ToolCall",
    "ToolChoice",
    "Usage",
    "drawn_by",
]
