"""OpenAI's request bodies: typed, bounded, and turned into the internal form."""

import re
import secrets
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from lmx_ledger.core.errors import InvalidRequest
from lmx_ledger.engine.protocol import Sampling
from lmx_ledger.serving.request import Chat, GenerationRequest, Texts, ToolChoice

_COMPLETION_MAX_TOKENS: Final = 16
_MAX_STOPS: Final = 16
_SESSION: Final = re.compile(r"[ -~]{1,200}")

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
StopText = Annotated[str, Meta(min_length=1, max_length=1000)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _CalledFunction(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1)]
    arguments: str | dict[str, Any] = "{}"


class _Call(msgspec.Struct):
    function: _CalledFunction
    id: str = ""
    type: Literal["function"] = "function"


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class _Function(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: Literal["function"]


class _NamedFunction(msgspec.Struct):
    name: str


class _NamedChoice(msgspec.Struct):
    function: _NamedFunction
    type: Literal["function"]


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ResponseFormat(msgspec.Struct):
    type: str


class _Shared(msgspec.Struct, kw_only=True):
    model: str | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Probability | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    stop: StopText | list[StopText] | None = None
    n: Count | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    priority: Annotated[int, Meta(ge=-8, le=8)] | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None


class ChatBody(_Shared, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[_Message]
    max_completion_tokens: Count | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _NamedChoice | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: _ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(_Shared, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Annotated[str, Meta(min_length=1)] | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Count | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What the transport knows of a request beside its body."""

    id: str
    route: str
    session: str | None
    client: str | None
    client_request_id: str | None


def read_chat(body: ChatBody, raw: dict[str, Any], envelope: Envelope, max_messages: int) -> GenerationRequest:
    """A chat request in the internal form; `raw` is the body before typing (tools go to the template as they came).

    Raises:
        InvalidRequest: something in it cannot be served; `param` names it.
    """
    if not body.messages:
        raise InvalidRequest("messages is empty; send at least one", param="messages")
    if len(body.messages) > max_messages:
        raise InvalidRequest(
            f"there are {len(body.messages)} messages; at most {max_messages} are read", param="messages"
        )
    if body.response_format is not None and body.response_format.type != "text":
        raise InvalidRequest("only response_format text is served; leave it out", param="response_format")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    if len(body.tools or []) > max_messages:
        raise InvalidRequest(f"there are {len(body.tools or [])} tools; at most {max_messages} are read", param="tools")
    chat = Chat(
        messages=[_message(message, index) for index, message in enumerate(body.messages)],
        tools=raw.get("tools") or [],
        tool_choice=_tool_choice(body),
        template_arguments=body.chat_template_kwargs or {},
    )
    return _request(
        body,
        envelope,
        prompt=chat,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs or 0,
    )


def read_completion(body: CompletionBody, envelope: Envelope) -> GenerationRequest:
    """A completion request in the internal form.

    Raises:
        InvalidRequest: something in it cannot be served; `param` names it.
    """
    if body.echo:
        raise InvalidRequest("echo is not served; prepend the prompt yourself", param="echo")
    if body.suffix:
        raise InvalidRequest("suffix is not served", param="suffix")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise InvalidRequest("best_of beyond n is not served; ask for n choices and pick one", param="best_of")
    return _request(
        body,
        envelope,
        prompt=Texts(_prompts(body.prompt)),
        max_tokens=body.max_tokens or _COMPLETION_MAX_TOKENS,
        logprobs=body.logprobs is not None,
        top_logprobs=body.logprobs or 0,
    )


_DEFAULTED: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's generation_config.json may set for clients that do not."""


def _request(
    body: _Shared,
    envelope: Envelope,
    *,
    prompt: Chat | Texts,
    max_tokens: int | None,
    logprobs: bool,
    top_logprobs: int,
) -> GenerationRequest:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stop) > _MAX_STOPS:
        raise InvalidRequest(f"there are {len(stop)} stop texts; at most {_MAX_STOPS} are watched for", param="stop")
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        # Without a seed one is drawn and recorded, so that every stream can be continued and told again.
        seed=secrets.randbits(32) if body.seed is None else body.seed & 0xFFFFFFFFFFFFFFFF,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        logprobs=logprobs,
        top_logprobs=top_logprobs,
    )
    return GenerationRequest(
        id=envelope.id,
        route=envelope.route,
        model=body.model,
        prompt=prompt,
        sampling=sampling,
        left_open=frozenset(name for name in _DEFAULTED if getattr(body, name) is None),
        max_tokens=max_tokens,
        stop=stop,
        n=body.n or 1,
        stream=bool(body.stream),
        priority=body.priority or 0,
        session=_session(envelope.session or body.prompt_cache_key or body.session_id),
        client=envelope.client,
        client_request_id=envelope.client_request_id,
    )


def _session(name: str | None) -> str | None:
    """It goes back in a header: printable ASCII."""
    if name and not _SESSION.fullmatch(name):
        raise InvalidRequest("a session is named by 1 to 200 printable ASCII characters", param="session_id")
    return name or None


def _message(message: _Message, index: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _text(message.content, index),
    }
    if message.name is not None:
        out["name"] = message.name
    if message.tool_call_id is not None:
        out["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        out["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        out["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call, index)},
            }
            for call in message.tool_calls
        ]
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"message {index} has no content", param=f"messages[{index}].content")
    return out


def _text(content: str | list[_Part] | None, index: int) -> str:
    if not isinstance(content, list):
        return content or ""
    for part in content:
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                f"message {index} has a part of type {part.type[:40]!r}; this server reads text only",
                param=f"messages[{index}].content",
            )
    return "".join(part.text or "" for part in content)


def _arguments(call: _Call, index: int) -> dict[str, Any]:
    """Templates write arguments as an object; clients send them as JSON in a string."""
    arguments = call.function.arguments
    if isinstance(arguments, dict):
        return arguments
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"the arguments of a tool call in message {index} are no JSON object: {error}",
            param=f"messages[{index}].tool_calls",
        ) from error


def _tool_choice(body: ChatBody) -> ToolChoice:
    choice = body.tool_choice
    names = [tool.function.name for tool in body.tools or []]
    if choice is None:
        return ToolChoice("auto")
    if isinstance(choice, str):
        if choice == "required" and not names:
            raise InvalidRequest("tool_choice required needs tools", param="tool_choice")
        return ToolChoice(choice)
    if choice.function.name not in names:
        raise InvalidRequest(
            f"tool_choice names {choice.function.name[:100]!r}, which is not among the tools", param="tool_choice"
        )
    return ToolChoice("required", choice.function.name)


def _prompts(prompt: str | list[Any]) -> list[str] | list[list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    for kind in (list[TokenId], list[str], list[list[TokenId]]):
        try:
            value = msgspec.convert(prompt, kind)
        except msgspec.ValidationError:
            continue
        if value:
            return [value] if kind == list[TokenId] else value  # type: ignore[return-value]
    raise InvalidRequest("prompt is a text, token ids, or a list of either, and not empty", param="prompt")
