"""Who may: keys in constant time, the Host header (DNS rebinding), the Origin (pages of other sites)."""

import enum
import hmac
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from lmx_ledger.core.config import ServerSection, is_loopback
from lmx_ledger.core.errors import Forbidden, InvalidApiKey


class Door(enum.Enum):
    """What a route asks of its caller."""

    OPEN = "open"
    CLIENT = "client"
    OPERATOR = "operator"


class Caller(NamedTuple):
    """The part of a request that decides. `headers` has lower-case names."""

    method: str
    headers: Mapping[str, str]

    def get(self, name: str) -> str:
        """A header's value, or nothing."""
        return self.headers.get(name, "")


class Access:
    """The rules of one configuration."""

    def __init__(self, server: ServerSection) -> None:
        self._loopback_only = is_loopback(server.host)
        self._port = server.port
        self._origins = frozenset(origin.rstrip("/").lower() for origin in server.allowed_origins)
        self._clients = tuple(key.encode() for key in server.api_keys)
        self._operators = tuple(key.encode() for key in server.operator_keys)

    def check(self, caller: Caller, door: Door) -> None:
        """Let the caller pass.

        Raises:
            Forbidden: a foreign Host or Origin, or a client's key at an operator's door.
            InvalidApiKey: keys are configured and none of them was given.
        """
        self._check_host(caller.get("host"))
        self._check_origin(caller)
        if door is not Door.OPEN:
            self._check_key(_given_key(caller), door)

    def may_read(self, origin: str) -> bool:
        """Whether pages of that origin may read answers (CORS)."""
        return origin.rstrip("/").lower() in self._origins

    def _check_host(self, host: str) -> None:
        """A page that had its own name point here (DNS rebinding) gives itself away by the name it still sends."""
        if not self._loopback_only:
            return
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if not is_loopback(name):
            raise Forbidden(f"the Host header names {host[:100]!r}; this server answers as 127.0.0.1 or localhost only")

    def _check_origin(self, caller: Caller) -> None:
        origin = caller.get("origin")
        if origin:
            if self.may_read(origin) or origin.lower() in {f"http://{caller.get('host').lower()}"}:
                return
            raise Forbidden(f"pages of {origin[:100]} may not call this server; name it in [server] allowed_origins")
        site = caller.get("sec-fetch-site")
        navigates = caller.method == "GET" and caller.get("sec-fetch-mode") == "navigate"
        if site in {"cross-site", "same-site"} and not navigates:
            raise Forbidden("a page of another site may not call this server")

    def _check_key(self, given: bytes, door: Door) -> None:
        if not self._clients and not self._operators:
            return
        is_operator, is_client = _among(given, self._operators), _among(given, self._clients)
        if is_operator:
            return
        if door is Door.CLIENT:
            if is_client or not self._clients:
                return
        elif is_client:
            if not self._operators:
                return
            raise Forbidden("this is a client's key; operator routes need one of [server] operator_keys")
        if not given:
            raise InvalidApiKey("a key is needed: send Authorization: Bearer KEY, or x-api-key: KEY")
        raise InvalidApiKey("this key is not known here; check [server] api_keys and operator_keys")


def _given_key(caller: Caller) -> bytes:
    scheme, _, token = caller.get("authorization").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else caller.get("x-api-key").strip()
    return key.encode()


def _among(given: bytes, keys: Sequence[bytes]) -> bool:
    """Compares with every key, in constant time each, so that the time tells nothing about any."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(given, key)
    return found
