"""The model hub over HTTP: what a repository holds, and its files' bytes from any offset on."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

# Both are read once, when the library is imported. Nobody is told who pulls what; and hf_xet would fetch from hosts
# of its own choosing, past HF_ENDPOINT.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"

# Of huggingface_hub, which raises its exceptions.
import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined] # public, missing in __all__

from lmx_ledger import __version__
from lmx_ledger.store.errors import BadModelId, HubUnavailable, NoAccess, RepoUnknown, StoreError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

WAITS_S: Final = (1.0, 2.0, 4.0, 8.0)
"""Pauses before each next try, as long as no byte arrives in between."""

_TIMEOUT_S: Final = 30.0
_LONGEST_WAIT_S: Final = 300.0
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

# What it warns of is said here, once, in our words.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


class HubFile(NamedTuple):
    """One file of a commit. `sha256` is known of LFS files, `git_oid` (Git's SHA-1 of a blob) of the others."""

    name: str
    size: int
    sha256: str | None
    git_oid: str | None


class Snapshot(NamedTuple):
    """A repository at one commit (`revision`, 40 hex digits)."""

    id: str
    revision: str
    files: tuple[HubFile, ...]


class _Again(Exception):
    """May go better in a moment; `wait_s` is what the hub asked for."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _NoConnection(_Again):
    """Nobody is reached there."""


class Hub:
    """One hub, HF_ENDPOINT or the public one, with the token of HF_TOKEN or of a login."""

    def __init__(self, *, say: Callable[[str], None], waits_s: Sequence[float] = WAITS_S) -> None:
        """Nothing is sent yet. `say` hears of tries that failed.

        Raises:
            StoreError: HF_ENDPOINT or the token is nothing that can be sent.
        """
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.HUGGINGFACE_CO_URL_HOME).rstrip("/")
        if not self.endpoint.startswith(("http://", "https://")):
            raise StoreError(f"HF_ENDPOINT={self.endpoint!r} is no URL; write it like https://hub.example")
        token = get_token()
        if token is not None and not (token.isascii() and token.isprintable()):
            raise NoAccess("the hub token (HF_TOKEN) has characters that no token has; set it again")
        self._token = token
        self._say = say
        self._waits_s = tuple(waits_s)

    def look_up(self, repo: str, revision: str | None) -> Snapshot:
        """The commit that a branch, tag or commit (default: the main branch) is now, and its files.

        Raises:
            StoreError: one of its kinds; see `lmx_ledger.store.errors`.
        """
        api = HfApi(
            endpoint=self.endpoint,
            token=self._token or False,
            library_name="lmx-ledger",
            library_version=__version__,
        )
        for wait_s in self._tries():
            try:
                with self._explained(repo, revision):
                    # Without a timeout of ours the library waits for ever.
                    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
                    if not _COMMIT.fullmatch(info.sha or "") or info.siblings is None:
                        raise self._stranger()
                    # A repo that was renamed keeps the name that it was asked for; only its spelling is the hub's.
                    name = info.id if info.id.casefold() == repo.casefold() else repo
                    return Snapshot(name, str(info.sha), tuple(self._file(sibling) for sibling in info.siblings))
            except _NoConnection as error:
                # At the very beginning that is a wrong address or no network, which waiting does not mend.
                raise HubUnavailable(f"{self.endpoint}: {error}; check the network, or HF_ENDPOINT") from None
            except _Again as error:
                self._pause(error, wait_s)
            except (TypeError, LookupError, AttributeError):
                raise self._stranger() from None
        raise AssertionError("the last try returns or raises")

    def fetch(self, snapshot: Snapshot, file: HubFile, part: Path, advance: Callable[[int], None]) -> None:
        """Append to `part` what it lacks of the file. Each piece is written as it comes, so that a kill loses none.

        `advance` hears how many bytes more (or, where the hub cannot resume, fewer) there are.

        Raises:
            StoreError: one of its kinds; what was fetched stays.
            OSError: `part` cannot be written.
        """
        url = hf_hub_url(snapshot.id, file.name, revision=snapshot.revision, endpoint=self.endpoint)
        tries = self._tries()
        with part.open("ab", buffering=0) as stream:
            while (have := stream.tell()) < file.size or file.size == 0:
                wait_s = next(tries)
                try:
                    with self._explained(snapshot.id, snapshot.revision):
                        self._append(url, stream, file.size, advance)
                    if stream.tell() >= file.size:
                        return
                    raise _Again("it closed the connection too early")
                except _Again as error:
                    if stream.tell() > have:
                        tries = self._tries()
                        wait_s = next(tries)
                    self._pause(error, wait_s)

    def _append(self, url: str, stream: FileIO, size: int, advance: Callable[[int], None]) -> None:
        # Compressed, an offset would mean another place than in the file.
        headers = {"Accept-Encoding": "identity", "User-Agent": f"lmx-ledger/{__version__}"}
        if self._token:
            # The client drops it on a redirect to another host.
            headers["Authorization"] = f"Bearer {self._token}"
        if have := stream.tell():
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
            hf_raise_for_status(response)
            if have and not _continues(response, have):
                stream.truncate(0)
                stream.seek(0)
                advance(-have)
                have = 0
            for chunk in response.iter_raw():
                rest = memoryview(chunk)
                while rest:
                    # A disk that is almost full takes a part and says how much.
                    rest = rest[stream.write(rest) :]
                advance(len(chunk))
                have += len(chunk)
                if have > size:
                    # More than the hub said there is: the check of the content says so.
                    return

    def _file(self, sibling: "RepoSibling") -> HubFile:
        size = sibling.lfs.size if sibling.lfs else sibling.size
        sha256, git_oid = sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id
        # Digests become names of files, and nothing that a hub says may lead elsewhere.
        if not isinstance(size, int) or not (sha256 is None or re.fullmatch(r"[0-9a-f]{64}", sha256)):
            raise self._stranger()
        return HubFile(sibling.rfilename, size, sha256, git_oid if git_oid and _COMMIT.fullmatch(git_oid) else None)

    def _tries(self) -> Iterator[float | None]:
        """The pause after each try; None after the last one."""
        yield from self._waits_s
        yield None

    def _pause(self, error: _Again, wait_s: float | None) -> None:
        if wait_s is None:
            raise HubUnavailable(f"{self.endpoint}: {error}; what was fetched stays, run it again to go on") from None
        wait_s = min(max(wait_s, error.wait_s), _LONGEST_WAIT_S)
        self._say(f"{error}; trying again in {wait_s:.0f} s")
        time.sleep(wait_s)

    @contextmanager
    def _explained(self, repo: str, revision: str | None) -> Iterator[None]:
        try:
            yield
        except HFValidationError:
            raise BadModelId(f"{repo[:80]!r} is no id of a repository; write it as org/name") from None
        except OfflineModeIsEnabled:
            raise HubUnavailable("HF_HUB_OFFLINE is set; unset it to pull") from None
        except RevisionNotFoundError:
            raise RepoUnknown(f"{repo} has no revision {revision}; leave --revision out for the newest") from None
        except GatedRepoError:
            raise NoAccess(
                f"{repo} is gated; accept its terms at {self.endpoint}/{repo} and set HF_TOKEN to a token of yours"
            ) from None
        except RemoteEntryNotFoundError:
            raise HubUnavailable(f"{repo}: the hub lists a file that it does not have; try again later") from None
        except HfHubHTTPError as error:
            raise self._refusal(repo, error.response) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise _NoConnection(f"it cannot be reached ({_brief(error)})") from None
        except httpx2.TimeoutException:
            raise _Again(f"no answer in {_TIMEOUT_S:.0f} s") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _Again(f"the connection broke ({_brief(error)})") from None
        except (httpx2.TooManyRedirects, httpx2.InvalidURL, ValueError):
            # ValueError: a body that is not the JSON, or the text, that it says it is.
            raise self._stranger() from None

    def _refusal(self, repo: str, response: httpx2.Response) -> Exception:
        status = response.status_code
        if status in _TRANSIENT:
            asked = response.headers.get("Retry-After", "")
            reason = "the hub asks to slow down" if status == 429 else "the hub is in trouble"
            return _Again(f"{reason} (HTTP {status})", float(asked) if asked.isdigit() else 0.0)
        if status == 404:
            return RepoUnknown(f"there is no {repo} at {self.endpoint}; check how it is written")
        if status == 401 and self._token is None:
            return NoAccess(f"{repo} does not exist or is not public; check how it is written, or set HF_TOKEN")
        if status in {401, 403}:
            return NoAccess(f"the hub does not let this token read {repo}; set HF_TOKEN to one that may")
        return HubUnavailable(f"{self.endpoint} answers HTTP {status} for {repo}; check HF_ENDPOINT, or try later")

    def _stranger(self) -> HubUnavailable:
        return HubUnavailable(f"{self.endpoint} answers, but not as a model hub does; check HF_ENDPOINT")


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Whether the body begins at the offset that was asked for."""
    found = re.match(rf"bytes {offset}-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and found is not None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
