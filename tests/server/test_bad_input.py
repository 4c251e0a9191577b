"""Every row of the error table, and nothing kills or wedges: after each one the next good request is answered."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import RunningDaemon

USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def model_config(model_config: str) -> str:
    return (
        '[server]\nport = PORT\nmax_body = "1MiB"\nbody_timeout = "1s"\nmax_messages = 50\ndrain_timeout = "5s"\n'
        + model_config
    )


@pytest.fixture(autouse=True)
def _still_answers(daemon: RunningDaemon) -> Iterator[None]:
    yield
    assert daemon.chat(max_tokens=2).status_code == 200
    assert daemon.get("/healthz")["status"] == "ok"


def refused(response: httpx.Response, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert isinstance(error["lmx"]["event"], int)
    if param is not None:
        assert error["param"] == param
    assert response.headers["X-Request-ID"].startswith("req_")
    return error


def raw_post(daemon: RunningDaemon, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{daemon.url}/v1/chat/completions", content=body, headers=headers, timeout=30)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": NaN}',
        b'{"temperature": 1e999}',
        b"[" * 200_000,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
    ],
)
def test_a_body_that_is_no_json_object_is_refused(daemon: RunningDaemon, body: bytes) -> None:
    refused(raw_post(daemon, body), 400, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": USER * 51}, "messages"),
        ({"model": 7}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 99}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1_000_000}, "top_k"),
        ({"top_k": 10**30}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 100}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1e30}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"priority": 9}, "priority"),
        ({"stop": [""]}, None),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, None),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"chat_template_kwargs": {"refuse": True}}, "messages"),
    ],
)
def test_a_field_that_cannot_be_is_named(daemon: RunningDaemon, fields: dict[str, Any], param: str | None) -> None:
    body = {"messages": USER, "max_tokens": 2, **fields}
    refused(daemon.post("/v1/chat/completions", body), 400, "invalid_request", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [99_999_999]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": ["x"] * 9}, "n"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(daemon: RunningDaemon, fields: dict[str, Any], param: str) -> None:
    refused(daemon.post("/v1/completions", fields), 400, "invalid_request", param)


def test_an_unknown_model_is_answered_with_those_that_exist(daemon: RunningDaemon) -> None:
    error = refused(daemon.chat(model="nope"), 404, "model_not_found", "model")
    assert "chain, random" in error["message"]
    assert httpx.get(f"{daemon.url}/v1/models/nope").status_code == 404


def test_a_prompt_over_the_ceiling_is_refused_twice_the_same_with_how_much_too_long(daemon: RunningDaemon) -> None:
    body = {"model": "random", "messages": [{"role": "user", "content": "x" * 9000}]}
    first, second = (daemon.post("/v1/chat/completions", body) for _ in range(2))
    error = refused(first, 400, "context_length_exceeded", "messages")
    lmx = error["lmx"]
    assert lmx["max_context_tokens"] == 8192
    assert lmx["reduce_by"] == lmx["prompt_tokens"] - 8192 + 1
    assert lmx["reason"] == "model_limit"
    assert first.json() == second.json()
    (cause,) = daemon.events(type="model.loaded", model="random")
    assert lmx["event"] == cause["seq"]


def test_max_tokens_beyond_the_ceiling_is_clamped_and_the_clamp_recorded(daemon: RunningDaemon) -> None:
    response = daemon.post(
        "/v1/completions", {"model": "random", "prompt": [300] * 8180, "max_tokens": 500, "temperature": 0}
    )
    body = response.json()
    assert body["usage"]["completion_tokens"] <= 12
    clamped = daemon.wait_event("request.degraded", request=body["id"])
    assert clamped["data"] == {"reason": "max_tokens_clamped", "asked": 500, "given": 12, "detail": None}


def test_unknown_paths_and_methods_are_typed(daemon: RunningDaemon) -> None:
    refused(httpx.get(f"{daemon.url}/v1/nothing"), 404, "not_found")
    refused(httpx.get(f"{daemon.url}/lmx/nothing"), 404, "not_found")
    refused(httpx.get(f"{daemon.url}/v1/chat/completions"), 405, "method_not_allowed")
    refused(httpx.delete(f"{daemon.url}/v1/models"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=99999", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
        ("severity=loud", "severity"),
        ("since=yesterday", "since"),
        ("since=99999999999999999999d", "since"),
        ("cause=-1", "cause"),
        ("colour=red", "colour"),
        ("after=99999999999999999999", "after"),
        ("&".join(["type=paging.*"] * 101), "type"),
    ],
)
def test_a_filter_that_is_none_is_named(daemon: RunningDaemon, query: str, param: str) -> None:
    refused(httpx.get(f"{daemon.url}/lmx/events?{query}"), 400, "invalid_request", param)


def test_a_body_of_100_mb_is_refused_by_its_length(daemon: RunningDaemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(100 * 1024**2))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "request_too_large"
    connection.close()


def test_a_body_of_100_mb_that_is_sent_all_the_same_gets_its_answer(daemon: RunningDaemon) -> None:
    response = httpx.post(f"{daemon.url}/v1/chat/completions", content=b" " * 100 * 1024**2, timeout=60)
    refused(response, 413, "request_too_large")


def test_a_chunked_body_over_the_limit_is_refused(daemon: RunningDaemon) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(4096):
            yield b" " * 1024

    response = httpx.post(f"{daemon.url}/v1/chat/completions", content=endless(), timeout=60)
    refused(response, 413, "request_too_large")


def test_a_body_that_never_ends_is_given_up(daemon: RunningDaemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    response = connection.getresponse()
    assert response.status == 400
    assert "not complete after 1 s" in json.loads(response.read())["error"]["message"]
    connection.close()


def test_a_header_without_end_is_cut_off(daemon: RunningDaemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        try:
            for _ in range(100):
                sock.sendall(b"a" * 4096)
            answer = sock.recv(65536)
        except ConnectionError:
            return
    assert answer.startswith(b"HTTP/1.1 4") or answer == b""


def test_noise_instead_of_http_hurts_nobody(daemon: RunningDaemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as sock:
        sock.sendall(b"\x16\x03\x01\x00\xa5" + bytes(range(256)))
        sock.recv(1024)


def test_a_websocket_is_refused_and_leaves_no_traceback(daemon: RunningDaemon) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    for path in ("/v1/models", "/nowhere"):
        assert httpx.get(daemon.url + path, headers=upgrade).status_code == 404
    assert "Traceback" not in daemon.log.read_text()


def test_the_same_prompt_twice_at_once_is_answered_twice(daemon: RunningDaemon) -> None:
    body = {"model": "chain", "prompt": ["one and the same", "one and the same"], "temperature": 0}
    answer = daemon.post("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == answer["choices"][1]["text"]


def test_a_refusal_belongs_to_the_model_that_was_asked(daemon: RunningDaemon) -> None:
    for name, model in (("gpt-4o", "chain"), (None, "chain"), ("random", "random"), ("nobody", None)):
        response = daemon.chat(top_k=10**6, **({} if name is None else {"model": name}))
        event = daemon.wait_event("request.rejected", request=response.headers["X-Request-ID"])
        assert event["model"] == model


def test_refusals_are_in_the_ledger_with_their_reason(daemon: RunningDaemon) -> None:
    response = daemon.chat(temperature="hot")
    event = daemon.wait_event("request.rejected", request=response.headers["X-Request-ID"])
    assert event["data"]["status"] == 400
    assert event["data"]["code"] == "invalid_request"
    assert event["data"]["param"] == "temperature"
    assert event["cause"] == response.json()["error"]["lmx"]["event"]
