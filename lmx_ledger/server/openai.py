"""OpenAI's routes: models, chat completions, completions."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
from quart import Blueprint, Response, g, request

from lmx_ledger.core.errors import LmxError, ModelNotFound
from lmx_ledger.server.connections import connection_of
from lmx_ledger.server.context import Context
from lmx_ledger.server.errors import body_of
from lmx_ledger.server.openai_answer import StreamFrames, collect, sse, whole
from lmx_ledger.server.openai_body import ChatBody, CompletionBody, Envelope, read_chat, read_completion
from lmx_ledger.server.reading import read_json, typed
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.request import GenerationRequest, Output

_JSON = "application/json"


def blueprint(context: Context) -> Blueprint:
    """The routes under `/v1`."""
    face = Blueprint("openai", __name__)

    @face.get("/v1/models")
    async def models() -> Response:
        data = [_model(model, context) for model in context.serving.models.all()]
        data += [_stored(name, context) for name in await context.serving.available()]
        return Response(msgspec.json.encode({"object": "list", "data": data}), content_type=_JSON)

    @face.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        return Response(msgspec.json.encode(await _find(name, context)), content_type=_JSON)

    @face.post("/v1/chat/completions")
    async def chat_completions() -> Response:
        raw = await read_json(request, context.config.server)
        body = typed(raw, ChatBody)
        wanted = read_chat(body, raw, _envelope(), context.config.server.max_messages)
        return await _serve(context, wanted, include_usage=_include_usage(body))

    @face.post("/v1/completions")
    async def completions() -> Response:
        body = typed(await read_json(request, context.config.server), CompletionBody)
        return await _serve(context, read_completion(body, _envelope()), include_usage=_include_usage(body))

    return face


async def _serve(context: Context, wanted: GenerationRequest, *, include_usage: bool) -> Response:
    g.wanted_model = wanted.model
    answer = await context.serving.begin(wanted)
    g.admitted = True
    if not wanted.stream:
        choices = await collect(answer)
        response = Response(whole(answer, choices), content_type=_JSON)
    else:
        connection_of(request).when_stalled(partial(answer.end, "client_stalled"))
        outputs = aiter(answer)
        # Until the first output an error still has a status of its own.
        first = await anext(outputs)
        frames = StreamFrames(answer, include_usage=include_usage)
        body = _stream(frames, first, outputs, context)
        response = Response(body, content_type="text/event-stream")
        response.timeout = None
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
    response.headers["X-LMX-Session"] = answer.session
    if answer.cache is not None:
        response.headers["X-LMX-Cache"] = answer.cache
    return response


async def _stream(
    frames: StreamFrames, first: Output, rest: AsyncIterator[Output], context: Context
) -> AsyncIterator[bytes]:
    yield frames.frames(first)
    try:
        async for output in rest:
            yield frames.frames(output)
    except LmxError as error:
        yield sse(body_of(error, context.rules_seq))
        return
    yield frames.end()


def _include_usage(body: ChatBody | CompletionBody) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def _envelope() -> Envelope:
    headers = request.headers
    session = headers.get("X-Session-ID") or headers.get("X-LMX-Session")
    return Envelope(
        id=g.request_id,
        route=request.path,
        session=session,
        client=(headers.get("User-Agent") or "")[:200] or None,
        client_request_id=(headers.get("X-Request-ID") or "")[:200] or None,
    )


async def _find(name: str, context: Context) -> dict[str, Any]:
    try:
        return _model(context.serving.models.find(name), context)
    except ModelNotFound:
        if name not in await context.serving.available():
            raise
        return _stored(name, context)


def _stored(name: str, context: Context) -> dict[str, Any]:
    """A model that will be loaded when a request names it; its context is not known before."""
    return {
        "id": name,
        "object": "model",
        "created": context.started_s,
        "owned_by": "lmx",
        "max_model_len": None,
    }


def _model(model: ServedModel, context: Context) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": context.started_s,
        "owned_by": "lmx",
        "max_model_len": min(model.context, context.config.context.max_tokens) or None,
    }
