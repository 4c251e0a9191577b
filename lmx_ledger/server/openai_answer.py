"""OpenAI's answers: whole ones and streams of chunks, with prebuilt JSON around the text of a token."""

from typing import Any, Final

import msgspec

from lmx_ledger.core.ids import answer_id
from lmx_ledger.serving.answer import Answer
from lmx_ledger.serving.request import Chat, ChoiceEnd, Output, Piece, Progress, TokenLogprob, ToolCall, Usage

DONE: Final = b"data: [DONE]\n\n"


def sse(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class Collected:
    """One choice of a whole answer, gathered from its pieces."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCall] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason = "stop"

    def add(self, output: Piece | ChoiceEnd) -> None:
        """Take in what came."""
        if isinstance(output, ChoiceEnd):
            self.finish_reason = output.finish_reason
            return
        self.content.append(output.content)
        self.reasoning.append(output.reasoning)
        self.calls += output.tool_calls
        self.logprobs += output.logprobs


async def collect(answer: Answer) -> list[Collected]:
    """The whole answer, choice by choice."""
    choices = [Collected() for _ in range(answer.request.choices)]
    async for output in answer:
        if not isinstance(output, Progress):
            choices[output.choice].add(output)
    return choices


def whole(answer: Answer, choices: list[Collected]) -> bytes:
    """The body of an answer that is not streamed."""
    chat = isinstance(answer.request.prompt, Chat)
    build = _chat_choice if chat else _text_choice
    wanted = answer.request.sampling.logprobs
    return msgspec.json.encode(
        {
            **_head(answer),
            "object": "chat.completion" if chat else "text_completion",
            "choices": [build(index, choice, logprobs=wanted) for index, choice in enumerate(choices)],
            "usage": usage_of(answer.usage),
        }
    )


def _head(answer: Answer) -> dict[str, Any]:
    chat = isinstance(answer.request.prompt, Chat)
    return {
        "id": answer_id(answer.request.id, "chatcmpl-" if chat else "cmpl-"),
        "created": answer.created_s,
        "model": answer.model.id,
    }


def _chat_choice(index: int, choice: Collected, *, logprobs: bool) -> dict[str, Any]:
    content = "".join(choice.content)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not choice.calls else None,
        "refusal": None,
    }
    if reasoning := "".join(choice.reasoning):
        message["reasoning_content"] = reasoning
    if choice.calls:
        message["tool_calls"] = [_call(call) for call in choice.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": _chat_logprobs(choice.logprobs) if logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def _text_choice(index: int, choice: Collected, *, logprobs: bool) -> dict[str, Any]:
    return {
        "index": index,
        "text": "".join(choice.content),
        "logprobs": _text_logprobs(choice.logprobs, 0) if logprobs else None,
        "finish_reason": choice.finish_reason,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chat_logprobs(tokens: list[TokenLogprob]) -> dict[str, Any]:
    def entry(text: str, raw: bytes, value: float) -> dict[str, Any]:
        return {"token": text, "bytes": list(raw), "logprob": value}

    return {
        "content": [
            {
                **entry(token.token, token.token_bytes, token.logprob),
                "top_logprobs": [entry(*top) for top in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def _text_logprobs(tokens: list[TokenLogprob], offset: int) -> dict[str, Any]:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: value for text, _, value in token.top} for token in tokens],
        "text_offset": offsets,
    }


class StreamFrames:
    """The chunks of one streamed answer."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        self._answer = answer
        self._chat = isinstance(answer.request.prompt, Chat)
        self._include_usage = include_usage
        self._wants_logprobs = answer.request.sampling.logprobs
        head = {
            **_head(answer),
            "object": "chat.completion.chunk" if self._chat else "text_completion",
        }
        if include_usage:
            head["usage"] = None
        self._head = head
        self._begun: set[int] = set()
        self._calls = [0] * answer.request.choices
        self._offsets = [0] * answer.request.choices
        # Around a token's text everything is known beforehand: encoded once, not once a token.
        opened = msgspec.json.encode({**head, "choices": []}).removesuffix(b"]}")
        key = b'"delta":{"content":' if self._chat else b'"text":'
        close = b"}" if self._chat else b""
        self._before = [b'data: %s{"index":%d,%s' % (opened, index, key) for index in range(answer.request.choices)]
        self._after = close + b',"logprobs":null,"finish_reason":null}]}\n\n'

    def frames(self, output: Output) -> bytes:
        """The chunks for one output."""
        if isinstance(output, Progress):
            return self._progress(output)
        opening = self._open(output.choice)
        if isinstance(output, ChoiceEnd):
            return opening + self._chunk(output.choice, {}, finish_reason=output.finish_reason)
        if output.content and not (output.reasoning or output.tool_calls or output.logprobs):
            text = msgspec.json.encode(output.content)
            return opening + self._before[output.choice] + text + self._after
        return opening + self._piece(output)

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end mark."""
        if not self._include_usage:
            return DONE
        return sse({**self._head, "choices": [], "usage": usage_of(self._answer.usage)}) + DONE

    def _open(self, choice: int) -> bytes:
        if not self._chat or choice in self._begun:
            return b""
        self._begun.add(choice)
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def _piece(self, piece: Piece) -> bytes:
        if not self._chat:
            offset = self._offsets[piece.choice]
            self._offsets[piece.choice] += sum(len(token.token) for token in piece.logprobs)
            in_text = _text_logprobs(piece.logprobs, offset) if self._wants_logprobs else None
            return self._chunk(piece.choice, {"text": piece.content}, logprobs=in_text)
        out = b""
        if piece.reasoning:
            out += self._chunk(piece.choice, {"reasoning_content": piece.reasoning})
        if piece.content or piece.logprobs:
            logprobs = _chat_logprobs(piece.logprobs) if self._wants_logprobs else None
            out += self._chunk(piece.choice, {"content": piece.content}, logprobs=logprobs)
        for call in piece.tool_calls:
            index = self._calls[piece.choice]
            self._calls[piece.choice] += 1
            out += self._chunk(piece.choice, {"tool_calls": [{"index": index, **_call(call)}]})
        return out

    def _progress(self, progress: Progress) -> bytes:
        """An ordinary chunk with nothing in it: every client reads it, and its idle timer starts anew."""
        lmx = {"phase": progress.phase, "done": progress.done, "total": progress.total}
        return b"".join(
            self._open(choice) + self._chunk(choice, {}, lmx=lmx) for choice in range(self._answer.request.choices)
        )

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
        lmx: dict[str, Any] | None = None,
    ) -> bytes:
        body: dict[str, Any] = {"index": choice}
        if self._chat:
            body["delta"] = delta
        else:
            body["text"] = delta.get("text", "")
        body |= {"logprobs": logprobs, "finish_reason": finish_reason}
        return sse({**self._head, "choices": [body], **({"lmx": lmx} if lmx else {})})
