"""A model hub on this machine: the routes of the real one that a pull uses, and the troubles that a real one has."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models import write_test_model

LFS = (".safetensors", ".gguf", ".bin", "tokenizer.json")
PIECE = 4096
PATIENCE_S = 60

Files = dict[str, bytes]


def sharded_model(folder: Path, *, shards: int = 3) -> Files:
    """A real tiny model with its weights in shards, an index, and what else lies about in repositories."""
    write_test_model(folder)
    weights = load_file(folder / "model.safetensors")
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    place = {key: names[number % shards] for number, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: np.ascontiguousarray(weights[key]) for key in weights if place[key] == name}
        save_file(part, folder / name, metadata={"format": "mlx"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return files | {"README.md": b"# tiny", "modeling_tiny.py": b"boom = 1 / 0", ".gitattributes": b"* lfs"}


def served_names(files: Files) -> set[str]:
    """What a pull of such a repository brings."""
    return {name for name in files if name not in {"README.md", "modeling_tiny.py", ".gitattributes"}}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Answer(NamedTuple):
    """An HTTP answer without a body worth reading."""

    status: int
    headers: dict[str, str]


class Pause:
    """The hub stops in the middle of a file until it is told to go on."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def wait(self) -> None:
        assert self.reached.wait(PATIENCE_S), "nobody fetched that far"


class Hub:
    """What it has (`repos`: id to branch to files), the troubles it was told to have, and what was asked of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.cdn = url.replace("127.0.0.1", "localhost")
        """Another host as far as clients can tell, as the real one's is."""
        self.repos: dict[str, dict[str, Files]] = {}
        self.refusals: dict[str, list[Answer]] = {}
        self.bodies: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.lies: dict[str, list[bytes]] = {}
        self.pauses: dict[str, Pause] = {}
        self.claimed: dict[str, bytes] = {}
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.tokens: dict[str, set[str | None]] = {"hub": set(), "cdn": set()}
        self.sent = 0

    def publish(self, repo: str, files: Files, branch: str = "main") -> str:
        """Make these the files of a branch; its commit."""
        self.repos.setdefault(repo, {})[branch] = dict(files)
        return self.commit(repo, branch)

    def commit(self, repo: str, branch: str = "main") -> str:
        files = self.repos[repo][branch]
        return hashlib.sha1(repr(sorted((name, sha256(data)) for name, data in files.items())).encode()).hexdigest()

    def refuse(self, path: str, status: int, *, times: int = 1, headers: dict[str, str] | None = None) -> None:
        """Answer so for paths that contain this, a number of times."""
        self.refusals.setdefault(path, []).extend([Answer(status, headers or {})] * times)

    def cut(self, name: str, *offsets: int) -> None:
        """Hang up when a file has been sent up to an offset, once each."""
        self.cuts.setdefault(name, []).extend(offsets)

    def pause(self, name: str, offset: int) -> Pause:
        """Stop once at an offset of a file."""
        self.pauses[name] = Pause(offset)
        return self.pauses[name]

    def fetched(self, name: str) -> list[str | None]:
        """The Range of every request for a file's bytes."""
        return [span for path, span in self.asked if path.endswith(f"/{name}")]

    def refusal(self, path: str) -> Answer | None:
        for part, answers in self.refusals.items():
            if part in path and answers:
                return answers.pop(0)
        return None

    def files(self, repo: str, revision: str) -> Files | None:
        for branch, files in self.repos.get(repo, {}).items():
            if revision in {branch, self.commit(repo, branch)}:
                return files
        return None


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub of one's own on 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined] # http.server has no other way to its handlers
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        for pause in hub.pauses.values():
            pause.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def hub(self) -> Hub:
        found: Hub = self.server.hub  # type: ignore[attr-defined]
        return found

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((path, self.headers.get("Range")))
        self.hub.tokens["cdn" if path.startswith("/cdn/") else "hub"].add(self.headers.get("Authorization"))
        if answer := self.hub.refusal(path):
            self._answer(answer.status, answer.headers, b"{}")
        elif body := next((body for part, body in self.hub.bodies.items() if part in path), None):
            self._answer(200, {"Content-Type": "application/json"}, body)
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/(.+)/([0-9a-f]{40})/(.+)", path):
            self._send(match[3], (self.hub.files(match[1], match[2]) or {})[match[3]])
        else:
            self._answer(404, {}, b"{}")

    def _info(self, repo: str, revision: str) -> None:
        if repo not in self.hub.repos:
            self._answer(404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}')
            return
        files = self.hub.files(repo, revision)
        if files is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}')
            return
        branch = next(name for name in self.hub.repos[repo] if revision in {name, self.hub.commit(repo, name)})
        siblings = []
        for name, real in files.items():
            content = self.hub.claimed.get(name, real)
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_oid(content)}
            if name.endswith(LFS):
                entry["lfs"] = {"size": len(content), "sha256": sha256(content), "pointerSize": 130}
            siblings.append(entry)
        body = {"_id": "1", "id": repo, "sha": self.hub.commit(repo, branch), "siblings": siblings}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        content = (self.hub.files(repo, revision) or {}).get(name)
        if content is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        elif name.endswith(LFS):
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256(content)}"'}
            self._answer(302, {"Location": f"{self.hub.cdn}/cdn/{repo}/{revision}/{name}", **linked}, b"")
        else:
            self._send(name, content)

    def _send(self, name: str, content: bytes) -> None:
        if lies := self.hub.lies.get(name):
            content = lies.pop(0)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.hub.ranges else 0
        if start >= len(content) > 0:
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        self.send_response(206 if start or (asked and self.hub.ranges) else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{git_oid(content)}"')
        if asked and self.hub.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cuts = self.hub.cuts.get(name, [])
        end = cuts[0] if cuts and start <= cuts[0] <= len(content) else len(content)
        try:
            self._pieces(name, content[start:end], start)
        except (BrokenPipeError, ConnectionResetError):
            # The test's puller was killed in the middle, as it was meant to be.
            self.close_connection = True
            return
        if end < len(content) or (cuts and end == cuts[0]):
            cuts.pop(0)
            self.close_connection = True

    def _pieces(self, name: str, content: bytes, start: int) -> None:
        pause = self.hub.pauses.get(name)
        for at in range(0, len(content), PIECE):
            piece = content[at : at + PIECE]
            if pause and not pause.go_on.is_set() and start + at + len(piece) > pause.offset:
                head = max(pause.offset - start - at, 0)
                self.wfile.write(piece[:head])
                pause.reached.set()
                pause.go_on.wait(PATIENCE_S)
                piece = piece[head:]
            self.wfile.write(piece)
            self.hub.sent += len(piece)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
