"""The way to a daemon: HTTP, and what each kind of trouble on it means for the exit status."""

import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:3456"
"""The one of `core.config`, which is not imported here: pydantic would double the time to the first output."""

_PATIENCE_S: Final = 30.0
_CONNECT_S: Final = 5.0


class Failure(Exception):
    """It did not work; the message is one line that says why and what to do."""

    exit_code = 1


class NoDaemon(Failure):
    """Nobody answers there."""

    exit_code = 3


class Refused(Failure):
    """The daemon answered with an error."""


def home_folder(home: Path | None) -> Path:
    """The home folder: as given, or LMX_HOME, or `~/.lmx`."""
    return (home or Path(os.environ.get("LMX_HOME") or "~/.lmx")).expanduser().absolute()


def reach_url(host: str, port: int) -> str:
    """The URL under which a daemon that listens on `host` is reached from this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104 - compared
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


class Connection:
    """Requests to one daemon."""

    def __init__(self, url: str | None, api_key: str | None = None) -> None:
        """Nothing is sent yet.

        Raises:
            typer.BadParameter: the URL or the key is none that can be sent.
        """
        self.url = _checked(url or DEFAULT_URL)
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise typer.BadParameter("a key has printable ASCII characters only", param_hint="--api-key")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def port(self) -> int:
        """The port in the URL."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def host(self) -> str:
        """The host in the URL."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the URL names this machine, so that its ledger file may be read instead."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def must_be_local(self, why: str) -> None:
        """For commands that need files of the machine that the URL names.

        Raises:
            Failure: it is another one; the message begins with `why`.
        """
        if not self.is_local:
            raise Failure(f"{why} on {self.host}; run this there")

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a GET that succeeded.

        Raises:
            NoDaemon: nobody listens there.
            Refused: the answer is an error.
            Failure: no answer in time, or none of an LMX daemon.
        """
        with self._explained(), self._client() as client:
            response = client.get(path, params=params)
            self._check(response)
            return self._json(response)

    def get_bytes(
        self, path: str, params: Mapping[str, Any] | None = None, *, patience_s: float = _PATIENCE_S
    ) -> bytes:
        """What a GET that succeeded gives, whatever it is, within so long.

        Raises:
            NoDaemon: nobody listens there.
            Refused: the answer is an error.
            Failure: no answer in time.
        """
        with self._explained(patience_s), self._client(patience_s) as client:
            response = client.get(path, params=params)
            self._check(response)
            return response.content

    def get_all(
        self, asked: Sequence[tuple[str, Mapping[str, Any] | None]], *, patience_s: float = _PATIENCE_S
    ) -> list[Any]:
        """The JSON of several GETs over one connection, each within so long.

        Raises:
            NoDaemon: nobody listens there.
            Refused: an answer is an error.
            Failure: no answer in time, or none of an LMX daemon.
        """
        found = []
        with self._explained(patience_s), self._client(patience_s) as client:
            for path, params in asked:
                response = client.get(path, params=params)
                self._check(response)
                found.append(self._json(response))
        return found

    def post(self, path: str, body: dict[str, Any], *, patience_s: float = _PATIENCE_S) -> Any:
        """The JSON of a POST that succeeded, within so long.

        Raises:
            NoDaemon: nobody listens there.
            Refused: the answer is an error.
            Failure: no answer in time, or none of an LMX daemon.
        """
        with self._explained(patience_s), self._client(patience_s) as client:
            response = client.post(path, json=body)
            self._check(response)
            return self._json(response)

    def delete(self, path: str) -> Any:
        """The JSON of a DELETE that succeeded.

        Raises:
            NoDaemon: nobody listens there.
            Refused: the answer is an error.
            Failure: no answer in time, or none of an LMX daemon.
        """
        with self._explained(), self._client() as client:
            response = client.delete(path)
            self._check(response)
            return self._json(response)

    def answers(self) -> bool:
        """Whether an LMX daemon is there.

        Raises:
            Failure: something else answers there, or nothing in time.
        """
        try:
            health = self.get("/healthz")
        except NoDaemon:
            return False
        if not isinstance(health, dict) or health.get("status") != "ok":
            raise Failure(f"{self.url} answers, but not as an LMX daemon does; check --url and --port")
        return True

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` says, ready or not.

        Raises:
            NoDaemon: nobody listens there.
            Failure: no answer in time, or none of an LMX daemon.
        """
        with self._explained(), self._client() as client:
            return dict(self._json(client.get("/readyz")))

    @contextmanager
    def stream(self, path: str, body: dict[str, Any]) -> Iterator["Streamed"]:
        """A streamed answer to a POST; leaving the context hangs up.

        Raises:
            NoDaemon: nobody listens there.
            Refused: the answer is an error.
            Failure: the answer broke off.
        """
        with (
            self._explained(),
            self._client(read_timeout_s=None) as client,
            client.stream("POST", path, json=body) as response,
        ):
            if response.is_error:
                response.read()
            self._check(response)
            yield Streamed(response.headers, _lines(response.iter_bytes()))

    def _client(self, read_timeout_s: float | None = _PATIENCE_S) -> "httpx.Client":
        import httpx  # noqa: PLC0415 - 140 ms that help and usage errors do without

        # A proxy from the environment is not for a daemon on this machine.
        return httpx.Client(
            base_url=self.url,
            headers=self._headers,
            timeout=httpx.Timeout(read_timeout_s, connect=_CONNECT_S),
            trust_env=False,
        )

    @contextmanager
    def _explained(self, patience_s: float = _PATIENCE_S) -> Iterator[None]:
        import httpx  # noqa: PLC0415

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            port = "" if self.url == DEFAULT_URL else f" --port {self.port}"
            start = f"start one with: lmx serve start{port}" if self.is_local else "check --url"
            raise NoDaemon(f"no daemon at {self.url}; {start}") from None
        except httpx.TimeoutException:
            raise Failure(f"{self.url} did not answer in {patience_s:.0f} s; see: lmx serve logs") from None
        except httpx.RemoteProtocolError as error:
            raise Failure(f"{self.url} broke off, or is no HTTP server ({error}); see: lmx serve logs") from None
        except httpx.TransportError as error:
            raise Failure(f"{self.url} broke off ({error}); see: lmx serve logs") from None

    def _check(self, response: "httpx.Response") -> None:
        if not response.is_error:
            return
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            raise self._stranger(response) from None
        if response.status_code in {401, 403}:
            message += "; here: --api-key or LMX_API_KEY"
        elif wait_s := response.headers.get("Retry-After"):
            message += f"; try again in {wait_s} s"
        raise Refused(message)

    def _json(self, response: "httpx.Response") -> Any:
        try:
            return response.json()
        except ValueError:
            raise self._stranger(response) from None

    def _stranger(self, response: "httpx.Response") -> Failure:
        return Failure(
            f"{self.url} answers, but not as an LMX daemon does (HTTP {response.status_code}); check --url and --port"
        )


class Streamed(NamedTuple):
    """An answer whose body comes line by line."""

    headers: Mapping[str, str]
    lines: Iterator[str]


def _checked(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not text.isascii() or not text.isprintable() or " " in text:
        raise typer.BadParameter(f"{url!r} is no URL; write it like {DEFAULT_URL}", param_hint="--url")
    return text.rstrip("/")


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Lines of UTF-8 ended by LF. httpx's own also splits at U+2028, which may stand inside of JSON."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace")
