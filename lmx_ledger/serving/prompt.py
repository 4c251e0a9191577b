"""From the internal request to token ids: template, tools, the ceiling, and how much may be answered."""

import asyncio
import hashlib
from typing import Any, NamedTuple

from lmx_ledger.core.errors import ContextLengthExceeded, InvalidRequest
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.request import Chat, GenerationRequest, Texts
from lmx_ledger.serving.structure import Part
from lmx_ledger.serving.template import TemplateError
from lmx_ledger.serving.text import TextModel
from lmx_ledger.serving.too_long import too_long
from lmx_ledger.session.explain import common_length
from lmx_ledger.session.table import Beginning, beginning

_INLINE_CHARS = 16_384
_WHY = {
    "memory": " with the memory that there is",
    "safe_mode_thermal": " while heat slows this machine",
    "safe_mode_swap": " while this machine swaps",
}


class Prepared(NamedTuple):
    """What goes to the engine: one list of ids per prompt, and in which part of the structure the answer begins.

    `boundary`: so many tokens of it will stand at the beginning of the conversation's next prompt as well; 0: all, or
    nobody asked.
    """

    prompts: list[list[int]]
    max_tokens: int
    begin: Part
    tools: list[dict[str, Any]]
    what: Beginning = Beginning()
    boundary: int = 0

    @property
    def tokens(self) -> int:
        """Prompt tokens in all."""
        return sum(len(prompt) for prompt in self.prompts)


class Shape(NamedTuple):
    """What the ledger keeps of a prompt: no text, its length and hash."""

    messages: int
    tools: int
    chars: int
    sha256: str


def shape_of(prompt: Chat | Texts) -> Shape:
    """Count and hash a prompt; the hash is over its Python repr-free parts, joined by U+001F."""
    if isinstance(prompt, Texts):
        parts = [p if isinstance(p, str) else " ".join(map(str, p)) for p in prompt.prompts]
        messages, tools = len(parts), 0
    else:
        parts = [str(m.get(k) or "") for m in prompt.messages for k in ("role", "content")]
        messages, tools = len(prompt.messages), len(prompt.tools)
    joined = "\x1f".join(parts)
    digest = hashlib.sha256(joined.encode(errors="surrogatepass")).hexdigest()
    return Shape(messages, tools, sum(map(len, parts)), digest)


class Ceiling(NamedTuple):
    """Fewer tokens than so many may be asked for.

    `reason` is `model_limit`, `memory`, `safe_mode_thermal` or `safe_mode_swap`, `seq` the event that made it so, if
    one did.
    """

    tokens: int
    reason: str
    seq: int | None = None


async def prepare(request: GenerationRequest, model: ServedModel, text: TextModel, ceiling: Ceiling) -> Prepared:
    """Tokenize (long texts on another thread) and hold the prompt against the ceiling.

    Raises:
        InvalidRequest: the template or the tokenizer cannot take it, or it is empty.
        ContextLengthExceeded: a prompt reaches the ceiling; `reduce_by` is how many tokens too many.
    """
    begin = Part.CONTENT
    tools: list[dict[str, Any]] = []
    what, boundary = Beginning(), 0
    if isinstance(request.prompt, Chat):
        rendered, begin, tools = _render(request.prompt, model, text)
        prompts = [await _encode(text, rendered, special=False)]
        what = beginning(request.prompt.messages, tools)
        if model.kv is not None and model.kv.whole:
            boundary = await _boundary(request.prompt, tools, prompts[0], text)
    else:
        prompts = [
            await _encode(text, prompt, special=True) if isinstance(prompt, str) else _checked(prompt, model.vocab)
            for prompt in request.prompt.prompts
        ]
    if not all(prompts):
        raise InvalidRequest("the prompt is empty; give it some text", param="prompt")
    longest = max(map(len, prompts))
    if longest >= ceiling.tokens:
        reduce_by = longest - ceiling.tokens + 1
        raise ContextLengthExceeded(
            too_long(longest, model.id, ceiling.tokens, _WHY.get(ceiling.reason, "")),
            param="prompt" if isinstance(request.prompt, Texts) else "messages",
            lmx={
                "prompt_tokens": longest,
                "max_context_tokens": ceiling.tokens,
                "reduce_by": reduce_by,
                "reason": ceiling.reason,
            },
            cause_seq=ceiling.seq or model.loaded_seq,
        )
    room = ceiling.tokens - longest
    return Prepared(
        prompts, room if request.max_tokens is None else min(request.max_tokens, room), begin, tools, what, boundary
    )


def _render(chat: Chat, model: ServedModel, text: TextModel) -> tuple[str, Part, list[dict[str, Any]]]:
    if text.template is None:
        raise InvalidRequest(
            f"{model.id} has no chat template, it only continues text; use /v1/completions", param="messages"
        )
    dialect, choice = model.dialect, chat.tool_choice
    tools = [] if choice.mode == "none" else chat.tools
    if choice.name is not None:
        tools = [tool for tool in tools if tool["function"]["name"] == choice.name]
    if tools and dialect.tool_start is None:
        raise InvalidRequest(f"{model.id} knows no tool calls; leave tools out", param="tools")
    try:
        rendered = text.template.render(chat.messages, tools, chat.template_arguments)
    except TemplateError as error:
        raise InvalidRequest(str(error), param="messages") from error
    begin = Part.CONTENT
    if dialect.think_start and rendered.rstrip().endswith(dialect.think_start):
        begin = Part.REASONING
    if tools and choice.mode == "required" and dialect.tool_start:
        # The only way to hold a model to a call without constraining its grammar: begin the call for it.
        rendered += (dialect.think_end or "" if begin is Part.REASONING else "") + dialect.tool_start
        begin = Part.TOOL
    return rendered, begin, tools


async def _boundary(chat: Chat, tools: list[dict[str, Any]], prompt: list[int], text: TextModel) -> int:
    """How much of this prompt the next one will begin with: templates render history otherwise than what is new."""
    assert text.template is not None  # noqa: S101 - it rendered the prompt
    later = [*chat.messages, {"role": "assistant", "content": "-"}, {"role": "user", "content": "-"}]
    try:
        rendered = text.template.render(later, tools, chat.template_arguments)
    except TemplateError:
        return 0
    shared = common_length(prompt, await _encode(text, rendered, special=False))
    return shared if shared < len(prompt) - 1 else 0


async def _encode(text: TextModel, prompt: str, *, special: bool) -> list[int]:
    if len(prompt) <= _INLINE_CHARS:
        return text.encode(prompt, special=special)
    return await asyncio.to_thread(text.encode, prompt, special=special)


def _checked(ids: list[int], vocab: int) -> list[int]:
    if any(not 0 <= token < vocab for token in ids):
        raise InvalidRequest(f"token ids go from 0 to {vocab - 1}", param="prompt")
    return ids
