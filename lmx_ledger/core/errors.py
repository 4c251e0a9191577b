"""The typed errors of the contract: each knows its status, its code and what the caller can do about it."""

from collections.abc import Mapping
from typing import ClassVar


class LmxError(Exception):
    """What a client is told. The message says what to do; `lmx` carries the numbers behind it.

    `cause_seq` is the ledger event that put the refusal in force; without one the rules of this boot
    (`config.loaded`) are named, so that the same request under the same state gets the same answer.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "engine_failed"
    kind: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        lmx: Mapping[str, object] | None = None,
        cause_seq: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.lmx: dict[str, object] = dict(lmx or {})
        self.cause_seq = cause_seq
        self.retry_after_s = retry_after_s


class InvalidRequest(LmxError):
    """The request can never work as it is."""

    status, code, kind = 400, "invalid_request", "invalid_request_error"


class ContextLengthExceeded(LmxError):
    """The prompt reaches the ceiling now in force."""

    status, code, kind = 400, "context_length_exceeded", "invalid_request_error"


class InvalidApiKey(LmxError):
    """A key is needed and is missing or wrong."""

    status, code, kind = 401, "invalid_api_key", "authentication_error"


class Forbidden(LmxError):
    """Not allowed here: an operator's route, a foreign Host or Origin."""

    status, code, kind = 403, "forbidden", "permission_error"


class ModelNotFound(LmxError):
    """No such model; the message lists those that exist."""

    status, code, kind = 404, "model_not_found", "invalid_request_error"


class NotFound(LmxError):
    """No such route or thing."""

    status, code, kind = 404, "not_found", "invalid_request_error"


class MethodNotAllowed(LmxError):
    """The route exists, for another method."""

    status, code, kind = 405, "method_not_allowed", "invalid_request_error"


class Conflict(LmxError):
    """Not while things are as they are: something is in flight, pinned, or another process's."""

    status, code, kind = 409, "conflict", "invalid_request_error"


class RequestTooLarge(LmxError):
    """The body is over the byte limit."""

    status, code, kind = 413, "request_too_large", "invalid_request_error"


class QueueFull(LmxError):
    """Every slot is busy and the queue is full; retry after the time given."""

    status, code, kind = 429, "queue_full", "rate_limit_error"


class Backpressure(LmxError):
    """New sessions are refused, so that what is in flight and known goes on; retry after the time given."""

    status, code, kind = 429, "backpressure", "rate_limit_error"


class Draining(LmxError):
    """No new work is admitted; what is in flight goes on."""

    status, code, kind = 429, "draining", "rate_limit_error"


class ModelUnavailable(LmxError):
    """The model cannot be served now: it failed to load or its worker is in a crash loop."""

    status, code, kind = 503, "model_unavailable", "server_error"


class InsufficientMemory(LmxError):
    """It can never fit under the memory limit; `short_by_bytes` says how much is missing."""

    status, code, kind = 507, "insufficient_memory", "server_error"


class LedgerUnavailable(LmxError):
    """The ledger's file cannot be read just now; serving goes on without it."""

    status, code, kind = 503, "ledger_unavailable", "server_error"


class EngineFailed(LmxError):
    """The worker died or failed under this request."""

    status, code, kind = 500, "engine_failed", "server_error"


class StartupError(Exception):
    """The daemon cannot start; the message is one line that says why and what to do."""
