"""A conversation through a pipe, as objects, and in a real (pseudo) terminal."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.cli.answer import Answer, stream_answer
from lmx_ledger.cli.connection import Connection
from tests.cli.parts import PATIENCE_S, document, lmx, screen
from tests.conftest import RunningDaemon
from tests.models import SING

RECITED = "Once upon a time, the END of it"


def test_one_question_through_a_pipe_is_answered_and_nothing_else_is_said(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    done = lmx("chat", "--url", daemon.url, home=tmp_path, stdin="tell me")
    assert (done.returncode, done.stdout, done.stderr) == (0, RECITED + "\n", "")


def test_a_program_gets_one_object_per_line(daemon: RunningDaemon, tmp_path: Path) -> None:
    done = lmx("chat", "--json", "--model", "gpt-4o", "--url", daemon.url, home=tmp_path, stdin="tell me")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert "".join(o["text"] for o in objects if o["type"] == "content") == RECITED
    end = objects[-1]
    assert (end["type"], end["finish_reason"], end["content"]) == ("end", "stop", RECITED)
    assert end["usage"]["completion_tokens"] == 7


def test_the_longest_answer_is_kept_to(daemon: RunningDaemon, tmp_path: Path) -> None:
    done = lmx("chat", "--json", "--max-tokens", "2", "--url", daemon.url, home=tmp_path, stdin="tell me")
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["finish_reason"], end["usage"]["completion_tokens"]) == ("length", 2)


def test_what_cannot_be_asked_is_said_in_one_line(daemon: RunningDaemon, tmp_path: Path) -> None:
    for arguments, stdin, because in (
        (("--model", "nosuch"), "hi", "there are: chain, random"),
        ((), "", "nothing came"),
        ((), b"\xff\xfe", "UTF-8"),
        ((), "long " * 9000, "shorten it by"),
    ):
        done = lmx("chat", *arguments, "--url", daemon.url, home=tmp_path, stdin=stdin)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert because in line, line


class Heard:
    """A view that only remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def progress(self, done: int, total: int) -> None:
        self.said.append(("progress", (done, total)))

    def reasoning(self, text: str) -> None:
        self.said.append(("reasoning", text))

    def content(self, text: str) -> None:
        self.said.append(("content", text))

    def tool_call(self, call: dict[str, Any]) -> None:
        self.said.append(("tool_call", call))

    def end(self, answer: Answer) -> None:
        self.said.append(("end", answer.finish_reason))

    def failed(self, reason: str) -> None:
        self.said.append(("failed", reason))


def ask(daemon: RunningDaemon, **fields: Any) -> tuple[Answer, Heard]:
    heard = Heard()
    body = {"stream": True, "model": "chain", "messages": [{"role": "user", "content": "tell me"}], **fields}
    return stream_answer(Connection(daemon.url), body, heard), heard


def test_reasoning_is_told_from_the_answer_and_not_repeated_to_the_model(daemon: RunningDaemon) -> None:
    answer, heard = ask(daemon, chat_template_kwargs={"think": True})
    assert answer.reasoning.strip() == "I ponder deeply"
    assert answer.content.strip() == "Forty-two"
    assert "reasoning" in {name for name, _ in heard.said}
    assert set(answer.message()) == {"role", "content"}


def test_tool_calls_are_shown_and_stay_in_the_conversation(daemon: RunningDaemon) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    answer, heard = ask(daemon, tools=[tool])
    (call,) = answer.message()["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert ("tool_call", call) in heard.said
    assert answer.finish_reason == "tool_calls"


def test_a_conversation_in_a_terminal_keeps_its_history(daemon: RunningDaemon, tmp_path: Path) -> None:
    with screen("chat", "--url", daemon.url, home=tmp_path) as shown:
        shown.until(r"> ")
        shown.type("tell me\n")
        first = shown.until(r"stop  (\d+) .*\+ 7 tokens")
        assert RECITED in first
        shown.until(r"> ")
        shown.type("more\n")
        second = shown.until(r"stop  (\d+) .*\+ 7 tokens")
        shown.until(r"> ")
        shown.type("/new\n")
        shown.until(r"a new conversation")
        shown.until(r"> ")
        shown.type("tell me\n")
        third = shown.until(r"stop  (\d+) .*\+ 7 tokens")
        shown.until(r"> ")
        shown.type("/quit\n")
        assert shown.process.wait(PATIENCE_S) == 0
    read = [int(re.findall(r"stop  (\d+)", text)[-1]) for text in (first, second, third)]
    assert read[0] == read[2] < read[1]


def test_ctrl_c_cancels_the_answer_and_not_the_program(daemon: RunningDaemon, tmp_path: Path) -> None:
    with screen("chat", "--model", "chain", "--system", SING, "--url", daemon.url, home=tmp_path) as shown:
        shown.until(r"> ")
        shown.type("talk\n")
        shown.until(r"talk\r\n.{40}")
        shown.process.send_signal(signal.SIGINT)
        shown.until(r"cancelled")
        shown.until(r"\n> ")
        shown.type("half a line")
        shown.until(r"half a line")
        shown.interrupt_until(r"/quit or Ctrl-D leaves")
        shown.until(r"\n> ")
        shown.type("\x04")
        assert shown.process.wait(PATIENCE_S) == 0
    assert daemon.wait_event("request.cancelled", model="chain")["data"]["phase"] == "decode"


def test_a_terminal_shows_dates_once_and_ids_whole(daemon: RunningDaemon, tmp_path: Path) -> None:
    lmx("chat", "--url", daemon.url, home=tmp_path, stdin="tell me")
    event = document(lmx("events", "--json", "--type", "request.finished", "--url", daemon.url, home=tmp_path))
    with screen("events", "--type", "request.*", "--limit", "3", "--url", daemon.url, home=tmp_path) as shown:
        text = shown.until(re.escape(event["events"][-1]["request"]) + r"[\s\S]*tokens=")
        assert shown.process.wait(PATIENCE_S) == 0
    assert len(re.findall(r"\d{4}-\d\d-\d\d", text)) == 1
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_chat_says_what_the_cache_did(daemon: RunningDaemon, tmp_path: Path) -> None:
    with screen("chat", "--url", daemon.url, home=tmp_path) as shown:
        shown.until(r"> ")
        shown.type("/cache\n")
        shown.until(r"nothing was answered yet")
        shown.until(r"> ")
        shown.type("tell me\n")
        shown.until(r"stop  \d+ .*\+ 7 tokens")
        shown.until(r"> ")
        shown.type("/cache\n")
        shown.until(r"\d+ of \d+ prompt tokens came from the cache")


class CachingServer(BaseHTTPRequestHandler):
    """A daemon with a KV cache, as far as a client sees one: every answer reused 90 of 100 tokens."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        frames = [
            {"id": "chatcmpl-1", "choices": [{"delta": {"content": "Hi."}, "finish_reason": "stop"}]},
            {
                "id": "chatcmpl-1",
                "choices": [],
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 2,
                    "prompt_tokens_details": {"cached_tokens": 90},
                },
            },
        ]
        body = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("X-LMX-Cache", "partial")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        body = b'{"data": [{"id": "m"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name upstream
        """Nobody reads it."""


@pytest.fixture
def caching_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), CachingServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_a_cache_reused_is_shown_behind_the_answer_and_on_request(caching_url: str, tmp_path: Path) -> None:
    with screen("chat", "--url", caching_url, home=tmp_path) as shown:
        shown.until(r"> ")
        shown.type("hi\n")
        shown.until(r"stop  100 \(90 cached\) \+ 2 tokens")
        shown.until(r"> ")
        shown.type("/cache\n")
        shown.until(r"X-LMX-Cache: partial; 90 of 100 prompt tokens came from the cache")
    done = lmx("chat", "--json", "--url", caching_url, home=tmp_path, stdin="hi")
    assert json.loads(done.stdout.splitlines()[-1])["cache"] == "partial"
