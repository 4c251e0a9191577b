"""Talking to a daemon over HTTP; what goes wrong carries the exit status of the contract."""

import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx
import msgspec
import typer

# core.config says the same, but pydantic costs every command a fifth of a second; a test holds the two together.
DEFAULT_URL: Final = "http://127.0.0.1:3456"
_TIMEOUT: Final = httpx.Timeout(30.0, connect=3.0)
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to be replaced, not bound

Parameters = Mapping[str, str] | Sequence[tuple[str, str]]


class Failure(Exception):
    """A command cannot do its work; the message is one line that says why and what to do."""

    exit_code: ClassVar[int] = 1


class NoDaemon(Failure):
    """Nobody answers there."""

    exit_code = 3


class Refused(Failure):
    """The daemon said no; `status` is HTTP's."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """One daemon, by URL (LMX_URL or the default without one) and key (LMX_API_KEY).

    Raises:
        typer.BadParameter: the URL is none, or no header can carry the key.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        given = url or os.environ.get("LMX_URL") or DEFAULT_URL
        self.url = (given if "://" in given else f"http://{given}").rstrip("/")
        key = api_key or os.environ.get("LMX_API_KEY")
        try:
            parts = urlsplit(self.url)
            self.host, self.port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            if parts.scheme not in {"http", "https"} or not self.host or " " in self.url:
                raise ValueError("it names no host, or another scheme than http and https")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            self._client = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)
        except UnicodeEncodeError:
            raise typer.BadParameter("a key has ASCII characters only", param_hint="--api-key") from None
        except (httpx.InvalidURL, ValueError) as error:
            message = f"{given!r} is no URL ({error}); write it like {DEFAULT_URL}"
            raise typer.BadParameter(message, param_hint="--url") from None

    @property
    def is_local(self) -> bool:
        """Whether it names this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def get(self, path: str, params: Parameters | None = None) -> Any:
        """The JSON of a GET.

        Raises:
            NoDaemon: nobody answers.
            Refused: the daemon says no.
            Failure: whoever answers is no daemon of this kind.
        """
        response = self._send("GET", path, list(params.items()) if isinstance(params, Mapping) else params)
        if not response.is_success:
            raise _refusal(response.status_code, response.content, self.url)
        return self._json(response)

    def readiness(self) -> dict[str, Any]:
        """`/readyz`, whatever its status.

        Raises:
            NoDaemon: nobody answers.
            Failure: whoever answers is no daemon of this kind.
        """
        answer = self._json(self._send("GET", "/readyz", None))
        return answer if isinstance(answer, dict) else {}

    def answers(self) -> bool:
        """Whether a daemon answers.

        Raises:
            Failure: something answers, and it is no daemon of this kind.
        """
        try:
            health = self._json(self._send("GET", "/healthz", None))
        except NoDaemon:
            return False
        if not isinstance(health, dict) or "boot" not in health:
            raise _stranger(self.url)
        return True

    @contextmanager
    def stream_lines(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[str]]:
        """The lines of a streamed POST; leaving the context hangs up.

        Raises:
            NoDaemon: nobody answers.
            Refused: the daemon says no.
            Failure: the answer broke off.
        """
        patient = httpx.Timeout(None, connect=3.0)
        try:
            with self._client.stream("POST", path, json=body, timeout=patient) as response:
                if not response.is_success:
                    raise _refusal(response.status_code, response.read(), self.url)
                yield response.iter_lines()
        except httpx.ConnectError:
            raise self._nobody() from None
        except httpx.TransportError as error:
            raise Failure(f"the answer from {self.url} broke off ({error}); ask again") from None

    def _send(self, method: str, path: str, params: Sequence[tuple[str, str]] | None) -> httpx.Response:
        try:
            return self._client.request(method, path, params=list(params or ()))
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise self._nobody() from None
        except httpx.TransportError as error:
            raise _stranger(self.url, str(error)) from None

    def _json(self, response: httpx.Response) -> Any:
        try:
            return msgspec.json.decode(response.content)
        except msgspec.DecodeError:
            raise _stranger(self.url) from None

    def _nobody(self) -> NoDaemon:
        return NoDaemon(f"no daemon answers at {self.url}; start one with `lmx serve start`, or name it with --url")


def home_folder(given: Path | None) -> Path:
    """The home that a command means: the given one, LMX_HOME, or ~/.lmx; absolute."""
    return (given or Path(os.environ.get("LMX_HOME") or "~/.lmx")).expanduser().absolute()


def reach_url(host: str, port: int) -> str:
    """The URL under which this machine reaches a daemon that listens on `host`."""
    name = _ANYWHERE.get(host, host).strip("[]")
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _stranger(url: str, why: str = "") -> Failure:
    return Failure(f"{url} answers, but not as an LMX daemon does{f' ({why})' if why else ''}; name another with --url")


def _refusal(status: int, content: bytes, url: str) -> Failure:
    try:
        error = msgspec.json.decode(content)["error"]
        message = str(error["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return _stranger(url, f"HTTP {status}")
    hint = "; give the key with --api-key or LMX_API_KEY" if status == 401 else ""
    return Refused(message + hint, status)
