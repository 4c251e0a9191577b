"""The processes that are compared: a daemon of ours, mlx-lm's own server, and mlx-lm in a process by itself."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from lmx_ledger.bench.clients import ask, completion

_START_S: Final = 120.0
_STOP_S: Final = 20.0


class Server:
    """One that listens on 127.0.0.1, from its start to its end."""

    def __init__(self, command: list[str], port: int, log: Path, environment: dict[str, str]) -> None:
        self.port = port
        self._log = log
        self.began = time.perf_counter()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
            )

    def first_token_s(self) -> float:
        """From the command to the first token, asked for until it comes.

        Raises:
            OSError: it ended before, or nothing came within two minutes.
        """
        while time.perf_counter() - self.began < _START_S:
            if self.process.poll() is not None:
                raise OSError(f"it ended with status {self.process.returncode}: {self._log.read_text()[-500:]}")
            heard = asyncio.run(ask(self.port, completion("a b", 1)))
            if heard.arrived:
                return heard.arrived[0] - self.began
            time.sleep(0.02)
        raise OSError(f"no token within {_START_S:.0f} s: {self._log.read_text()[-500:]}")

    def rss_bytes(self) -> int:
        """Resident memory of it and its children."""
        own = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Daemon(Server):
    """Ours: the default configuration, the ledger on, and the model in question, or several by their names."""

    def __init__(self, home: Path, models: Path | Mapping[str, Path], more: str = "") -> None:
        """`more` stands in the configuration, in front of the models."""
        home.mkdir(exist_ok=True)
        self._home = home
        port = free_port()
        file = home / "config.toml"
        named = models if isinstance(models, Mapping) else {"bench": models}
        served = "".join(f"[[models]]\nid = {json.dumps(n)}\npath = {json.dumps(str(p))}\n" for n, p in named.items())
        file.write_text(f"[server]\nport = {port}\n{more}\n{served}")
        command = [sys.executable, "-m", "lmx_ledger.cli", "serve", "start", "--foreground", "--config", str(file)]
        super().__init__([*command, "--home", str(home)], port, home / "bench.log", {"LMX_HOME": str(home)})

    def get(self, path: str, **arguments: Any) -> Any:
        """A GET's JSON."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=30, **arguments).json()

    def post(self, path: str, **body: Any) -> Any:
        """The JSON that answers an operator's order.

        Raises:
            OSError: it was not carried out.
        """
        done = httpx.post(f"http://127.0.0.1:{self.port}{path}", timeout=_START_S, json=body)
        if done.is_error:
            raise OSError(f"{path} {body}: {done.text[:500]}")
        return done.json()

    def events(self, *kinds: str, **more: Any) -> list[dict[str, Any]]:
        """All events of these types, oldest first."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            page = self.get("/lmx/events", params={"type": kinds, "limit": 1_000, "after": after, **more})
            found += page["events"]
            after = page["next"]
        return found

    def used_bytes(self) -> int:
        """What the worker's allocator holds, as it said last."""
        return int(self.get("/lmx/status")["memory"]["used_bytes"])

    def kv_bytes(self) -> int:
        """What is kept of KV takes on disk."""
        taken = 0
        for path in (self._home / "kv").rglob("*.kv"):
            # It may have been given back meanwhile.
            with contextlib.suppress(FileNotFoundError):
                taken += path.stat().st_size
        return taken

    def worker_pid(self, number: int = 0) -> int:
        """The process that has the model of that number."""
        return int(self.get("/lmx/models")["models"][number]["worker_pid"])


class Peer(Server):
    """mlx-lm's own server, with the BLAS that ours uses."""

    def __init__(self, folder: Path, model: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
        super().__init__(command, port, folder / "peer.log", _PRELOADED)


class Raw:
    """mlx-lm's BatchGenerator by itself: `run` gives a question to it and returns its answer (see `bench/raw.py`)."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lmx_ledger.bench.raw", str(model)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **_PRELOADED},
        )

    def run(self, prompts: list[list[int]], max_tokens: int, *, sampled: bool = False) -> dict[str, float]:
        """What came of it.

        Raises:
            OSError: it has ended.
        """
        return self._ask(
            {"prompts": prompts, "max_tokens": max_tokens, "temperature": 0.8 if sampled else 0.0, "top_p": 0.95}
        )

    def next_turn_s(self, history: list[int], new: int, times: int) -> float:
        """To the first token behind so many new ones, with the cache of the history at hand; the median of some times.

        Raises:
            OSError: it has ended.
        """
        return self._ask({"history": history, "new": new, "times": times})["first_s"]

    def _ask(self, asked: dict[str, Any]) -> dict[str, float]:
        assert self._process.stdin is not None  # noqa: S101 - it is started with pipes
        assert self._process.stdout is not None  # noqa: S101 - as above
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise OSError("the baseline ended")
        answer: dict[str, float] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=_STOP_S)


_PRELOADED: Final = {"LD_PRELOAD": "libopenblas.so.0"} if sys.platform == "linux" else {}


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


@contextlib.contextmanager
def running(server: "Server | Raw") -> Iterator[None]:
    """Stop it in the end."""
    try:
        yield
    finally:
        server.stop()
