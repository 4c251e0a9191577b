"""Errors as clients see them, and their place in the ledger."""

import sys
import traceback
from typing import Any, Final

import msgspec
from quart import Response, g, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from lmx_ledger.core import events as ev
from lmx_ledger.core.errors import (
    EngineFailed,
    Forbidden,
    InvalidApiKey,
    InvalidRequest,
    LmxError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
)
from lmx_ledger.server.context import Context
from lmx_ledger.server.reading import too_large

_JSON: Final = "application/json"


def body_of(error: LmxError, rules_seq: int) -> dict[str, Any]:
    """OpenAI's form, with the event that explains the refusal."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "code": error.code,
            "param": error.param,
            "lmx": {"event": error.cause_seq or rules_seq, **error.lmx},
        }
    }


def response_of(error: LmxError, rules_seq: int) -> Response:
    """The HTTP answer."""
    response = Response(msgspec.json.encode(body_of(error, rules_seq)), error.status, content_type=_JSON)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, InvalidApiKey):
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def translate(error: Exception, context: Context) -> LmxError:
    """The typed error for anything that a route may raise."""
    if isinstance(error, LmxError):
        return error
    if isinstance(error, RequestEntityTooLarge):
        return too_large(context.config.server)
    if isinstance(error, HTTPException):
        if error.code == 404:
            return NotFound(f"there is nothing at {request.path[:200]}")
        if error.code == 405:
            return MethodNotAllowed(f"{request.path[:200]} does not take {request.method}")
        return InvalidRequest(error.description or "the request cannot be read")
    print("".join(traceback.format_exception(error)), file=sys.stderr)  # noqa: T201 - the daemon's own log
    return EngineFailed(f"the server failed on this request ({type(error).__name__}); its log says where")


def record_rejection(error: LmxError, context: Context) -> None:
    """Note a refusal: of work (POST to a client's route), or of somebody who may not. Other misses are not events."""
    refused = isinstance(error, (Forbidden, InvalidApiKey))
    work = request.method == "POST" and request.path.startswith("/v1/")
    if g.get("admitted") or not (refused or work):
        return
    data = ev.RequestRejected(
        status=error.status,
        code=error.code,
        message=error.message[:500],
        route=request.path[:200],
        param=error.param,
        retry_after_s=error.retry_after_s,
    )
    context.ledger.emit(
        ev.Event(
            data=data,
            stream=f"request:{g.request_id}",
            request=g.request_id,
            model=_model_meant(context),
            cause=error.cause_seq or context.rules_seq,
        )
    )


def _model_meant(context: Context) -> str | None:
    """The served model that was asked; None where it was refused before that was known, or there is no such one."""
    if "wanted_model" not in g:
        return None
    try:
        return context.serving.models.find(g.wanted_model).id
    except ModelNotFound:
        return None
