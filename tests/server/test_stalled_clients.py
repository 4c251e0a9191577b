"""Clients that stop reading, or hang up with much unread: they cost the others nothing."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Self

import pytest

from tests.conftest import RunningDaemon, eventually

ENDLESS = {
    "model": "chain",
    "messages": [{"role": "user", "content": "Sing"}],
    "temperature": 0,
    "chat_template_kwargs": {"script": "endless"},
    "stream": True,
    # Twenty log-probabilities make two kilobytes of each token, which soon fill what buffers there are.
    "logprobs": True,
    "top_logprobs": 20,
}


class Stalled:
    """A client that asks for a stream and reads nothing of it until it is told to."""

    def __init__(self, daemon: RunningDaemon, **fields: Any) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", daemon.port))
        body = json.dumps({**ENDLESS, **fields}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def read_all(self) -> bytes:
        """Everything, to the end mark or to the end of the connection."""
        text = b""
        while b"data: [DONE]" not in text and (piece := self.socket.recv(1 << 16)):
            text += piece
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hang_up(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.fixture
def narrow(start_daemon: Callable[[str], RunningDaemon], model_config: str) -> Callable[[str], RunningDaemon]:
    """Starts a daemon with one place, and the `send_timeout` that is given."""

    def start(send_timeout: str) -> RunningDaemon:
        server = f'[server]\nport = PORT\nsend_timeout = "{send_timeout}"\n'
        return start_daemon(server + "[queue]\nmax_running = 1\nmax_choices = 1\n" + model_config)

    return start


async def test_a_client_that_does_not_read_holds_no_place_once_the_engine_is_done(
    narrow: Callable[[str], RunningDaemon],
) -> None:
    own = narrow("1h")
    with Stalled(own, max_tokens=600) as stalled:
        own.wait_event("request.first_token")
        assert own.chat(model="chain", temperature=0).status_code == 200
        assert own.get("/lmx/status")["in_flight"] == 1, "the first one is still being sent"
        assert own.get("/lmx/models")["models"][0]["in_flight"] == 0
        assert stalled.read_all().count(b'"top_logprobs"') == 600
    # The answer has been read to its end before that is written down.
    await eventually(lambda: own.events(type="request.finished")[-1]["data"]["completion_tokens"] == 600)
    assert own.stop() == 0


async def test_a_client_that_never_reads_is_cut_off_and_its_stream_ended(
    narrow: Callable[[str], RunningDaemon],
) -> None:
    own = narrow("200ms")
    with Stalled(own, max_tokens=8000) as stalled:
        cancelled = own.wait_event("request.cancelled")
        assert cancelled["data"]["reason"] == "client_stalled"
        assert cancelled["data"]["phase"] in {"decode", "send"}
        await eventually(lambda: not own.get("/lmx/status")["in_flight"])
        assert own.chat(model="chain", temperature=0).status_code == 200
        assert b"[DONE]" not in stalled.read_all(), "what the kernel had, and then the end of the connection"
    assert own.stop() == 0
    assert "Traceback" not in own.log.read_text()


async def test_a_client_that_reads_slowly_gets_everything(narrow: Callable[[str], RunningDaemon]) -> None:
    own = narrow("2s")
    with Stalled(own, max_tokens=400) as slow:
        text, rested = b"", 0
        while b"data: [DONE]" not in text:
            if len(text) // 150_000 > rested:
                rested += 1
                await asyncio.sleep(1)
            piece = slow.socket.recv(4096)
            assert piece, text[-300:]
            text += piece
    assert rested >= 4, "twice the time in all, and never at once"
    assert own.wait_event("request.finished")["data"]["completion_tokens"] == 400
    assert own.stop() == 0


async def test_clients_that_hang_up_with_much_unread_leave_no_flood_in_the_log(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    own = start_daemon(model_config)
    crowd = [Stalled(own, max_tokens=150, n=8) for _ in range(2)]
    await eventually(lambda: len(own.events(type="request.first_token")) == 2)
    # All of it is made, and most of it waits for readers.
    await eventually(lambda: not own.get("/lmx/models")["models"][0]["in_flight"])
    assert own.get("/lmx/status")["in_flight"] == 2
    for client in crowd:
        client.hang_up()
    await eventually(lambda: not own.get("/lmx/status")["in_flight"])
    gone = [event["data"] for event in own.events(type="request.cancelled")]
    assert [(data["reason"], data["phase"]) for data in gone] == [("client_gone", "send")] * 2
    assert own.stop() == 0
    assert "socket.send()" not in own.log.read_text()
    assert "Traceback" not in own.log.read_text()
