"""Reading a request's body: bounded in bytes, time and nesting, then typed; a failure is a 400 or 413 that says why."""

import re
from typing import Any, Final, TypeVar

import msgspec
from quart import Request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from lmx_ledger.core.config import ServerSection
from lmx_ledger.core.errors import InvalidRequest, RequestTooLarge

_T = TypeVar("_T")
_PLACE: Final = re.compile(r" - at `\$\.?(.*?)`$")


async def read_json(request: Request, server: ServerSection) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestTooLarge: it is over the byte limit.
        InvalidRequest: it is no UTF-8, no JSON, no object, too deep, or did not arrive in time.
    """
    try:
        body = await request.get_data(cache=False, as_text=False)
    except RequestEntityTooLarge:
        raise too_large(server) from None
    except RequestTimeout:
        raise InvalidRequest(f"the body was not complete after {server.body_timeout:g} s; send it at once") from None
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is no JSON in UTF-8: {error}") from error
    except RecursionError:
        raise _too_deep(server) from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body is no JSON object")
    if _deeper_than(raw, server.max_nesting):
        raise _too_deep(server)
    return raw


def typed(raw: dict[str, Any], kind: type[_T]) -> _T:
    """The body as a struct; fields that the struct does not know are ignored, as the vendors do.

    Raises:
        InvalidRequest: a field is missing, of the wrong type or out of bounds; `param` names it.
    """
    try:
        return msgspec.convert(raw, kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        missing = re.search(r"missing required field `(\w+)`", text)
        param = ".".join(p for p in (place.group(1) if place else "", missing.group(1) if missing else "") if p)
        message = _PLACE.sub("", text)
        raise InvalidRequest(f"{param}: {message}" if param else message, param=param or None) from error


def too_large(server: ServerSection) -> RequestTooLarge:
    """The refusal of a body over the limit."""
    return RequestTooLarge(
        f"the body is over {server.max_body} bytes; send less or raise [server] max_body",
        lmx={"max_body_bytes": server.max_body},
    )


def _too_deep(server: ServerSection) -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {server.max_nesting} levels")


def _deeper_than(value: object, most: int) -> bool:
    level: list[object] = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return any(isinstance(value, (dict, list)) for value in level)
