"""Clients of a server: streamed completions over a bare socket, so that what is measured is not the client."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_LONGEST_LINE: Final = 2**22


class Heard(NamedTuple):
    """What came of one streamed request: when it began, when text came, the text, and the tokens that `usage` tells.

    `cached` of the prompt's were not computed. `error` is the server's own, or why the connection ended; None when all
    went well.
    """

    began: float
    arrived: list[float]
    text: str
    tokens: int
    error: str | None
    cached: int

    @property
    def first_s(self) -> float:
        """To the first text; the whole time where none came."""
        return (self.arrived[0] if self.arrived else time.perf_counter()) - self.began


def completion(prompt: Sequence[int] | str, max_tokens: int, **more: Any) -> dict[str, Any]:
    """The body of a streamed completion."""
    return {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


async def ask(
    port: int, body: dict[str, Any], path: str = "/v1/completions", arrived: list[float] | None = None
) -> Heard:
    """Send it and listen to the end; `arrived` gets the times while they come, for whoever does not wait so long."""
    began = time.perf_counter()
    arrived = [] if arrived is None else arrived
    text, tokens, cached, error = [], 0, 0, None
    try:
        async for frame in _frames(port, path, body):
            now = time.perf_counter()
            if "error" in frame:
                error = str(frame["error"])
            for choice in frame.get("choices", ()):
                if piece := choice.get("text") or choice.get("delta", {}).get("content"):
                    arrived.append(now)
                    text.append(piece)
            if usage := frame.get("usage"):
                tokens = usage["completion_tokens"]
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    except (OSError, asyncio.IncompleteReadError, ValueError) as broken:
        error = f"{type(broken).__name__}: {broken}"
    return Heard(began, arrived, "".join(text), tokens, error, cached)


async def _frames(port: int, path: str, body: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LONGEST_LINE)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = await reader.read()
            raise ValueError(f"{status!r} {rest[-300:]!r}")
        # Lengths of chunks and what is between frames have no `data: ` in front.
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
            elif line.startswith(b"data: [DONE]"):
                return
    finally:
        writer.close()
