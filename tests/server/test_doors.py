"""Keys, hosts and origins over real HTTP: who may not, reads, writes and spends nothing."""

import httpx
import pytest

from tests.conftest import RunningDaemon

CLIENT, OPERATOR = "client-key-1", "operator-key-1"
SPEND = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
ROUTES = ["/v1/models", "/lmx/status", "/lmx/events", "/lmx/models"]


@pytest.fixture(scope="module")
def model_config(model_config: str) -> str:
    return (
        f'[server]\nport = PORT\napi_keys = ["{CLIENT}"]\noperator_keys = ["{OPERATOR}"]\n'
        f'allowed_origins = ["https://chat.example"]\ndrain_timeout = "5s"\n' + model_config
    )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def spent(daemon: RunningDaemon) -> int:
    events = httpx.get(f"{daemon.url}/lmx/events?type=request.received&limit=1000", headers=bearer(OPERATOR)).json()
    return len(events["events"])


def test_without_a_key_nothing_is_read_or_spent_and_health_answers(daemon: RunningDaemon) -> None:
    before = spent(daemon)
    for headers in ({}, bearer("wrong-key-1"), {"x-api-key": "wrong-key-1"}):
        for route in ROUTES:
            refused = httpx.get(daemon.url + route, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx.post(f"{daemon.url}/v1/chat/completions", json=SPEND, headers=headers).status_code == 401
    assert spent(daemon) == before
    assert httpx.get(f"{daemon.url}/healthz").status_code == 200
    assert httpx.get(f"{daemon.url}/readyz").status_code == 200


def test_a_wrong_key_is_told_before_the_body_is_read(daemon: RunningDaemon) -> None:
    response = httpx.post(f"{daemon.url}/v1/chat/completions", content=b"{not json", headers=bearer("wrong-key-1"))
    assert response.status_code == 401


def test_a_client_key_spends_and_may_not_operate(daemon: RunningDaemon) -> None:
    answered = httpx.post(f"{daemon.url}/v1/chat/completions", json=SPEND, headers=bearer(CLIENT), timeout=60)
    assert answered.status_code == 200
    assert httpx.post(
        f"{daemon.url}/v1/chat/completions", json=SPEND, headers={"x-api-key": CLIENT}, timeout=60
    ).is_success
    refused = httpx.get(f"{daemon.url}/lmx/status", headers=bearer(CLIENT))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert httpx.get(f"{daemon.url}/lmx/status", headers=bearer(OPERATOR)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:3456"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_a_foreign_page_or_a_rebinding_host_gets_nothing_even_with_a_key(
    daemon: RunningDaemon, headers: dict[str, str]
) -> None:
    before = spent(daemon)
    with_key = {**bearer(OPERATOR), **headers}
    for route in [*ROUTES, "/healthz"]:
        refused = httpx.get(daemon.url + route, headers=with_key)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    assert httpx.post(f"{daemon.url}/v1/chat/completions", json=SPEND, headers=with_key).status_code == 403
    assert httpx.options(
        f"{daemon.url}/v1/chat/completions", headers={**headers, "Access-Control-Request-Method": "POST"}
    ).status_code in {403, 405}
    assert spent(daemon) == before


def test_a_named_origin_is_let_in_and_may_read(daemon: RunningDaemon) -> None:
    origin = {"Origin": "https://chat.example"}
    preflight = httpx.options(
        f"{daemon.url}/v1/chat/completions", headers={**origin, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    answer = httpx.get(f"{daemon.url}/v1/models", headers={**origin, **bearer(CLIENT)})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example"


def test_keys_are_in_no_event(daemon: RunningDaemon) -> None:
    text = httpx.get(f"{daemon.url}/lmx/events?limit=1000", headers=bearer(OPERATOR)).text
    assert CLIENT not in text
    assert OPERATOR not in text
