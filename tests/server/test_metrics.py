"""`/metrics`: what Prometheus reads of it, and that the page which lists it is true."""

import re
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningDaemon

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ABSENT = {"lmx_gpu_busy_ratio", "lmx_gpu_frequency_hertz"}
"""What only a machine with a GPU says."""


@pytest.fixture(scope="module")
def scraped(daemon: RunningDaemon) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name and labels, behind two turns of a conversation, a stream and a refusal."""
    for n in range(2):
        answer = daemon.chat("Hi there", max_tokens=8, session_id="metrics", temperature=0)
        assert answer.status_code == 200, n
    # So long that not all of its tokens come at once, however busy this machine is.
    assert daemon.chat("What is LMX?", max_tokens=64, stream=True).status_code == 200
    assert daemon.post("/v1/chat/completions", {"messages": []}).status_code == 400
    # What requests add up to is folded behind them.
    deadline = time.monotonic() + 60
    while not daemon.get("/lmx/slo")["objectives"][0]["total"] and time.monotonic() < deadline:
        time.sleep(0.1)
    return samples(httpx.get(f"{daemon.url}/metrics"))


def samples(response: httpx.Response) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    assert response.status_code == 200
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def documented() -> list[tuple[str, str, list[str]]]:
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ([^|]*) \|", PAGE.read_text(), re.M)
    return [(name, kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows]


def test_every_series_that_the_page_names_is_emitted_with_its_labels_and_no_other(
    scraped: dict[str, dict[tuple[tuple[str, str], ...], float]],
) -> None:
    rows = documented()
    assert len(rows) > 40
    for name, kind, labels in rows:
        if name in ABSENT:
            continue
        key = f"{name}_count" if kind == "histogram" else name
        assert key in scraped, name
        assert all({label for label, _ in found} == set(labels) for found in scraped[key]), name
    histograms = {name for name, kind, _ in rows if kind == "histogram"}
    of_histograms = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    assert set(scraped) <= {name for name, _, _ in rows} | of_histograms


def test_what_was_asked_is_counted(scraped: dict[str, dict[tuple[tuple[str, str], ...], float]]) -> None:
    def one(name: str, **labels: str) -> float:
        return sum(value for found, value in scraped[name].items() if set(labels.items()) <= set(found))

    assert one("vllm:request_success_total") == one("vllm:e2e_request_latency_seconds_count") >= 3
    assert one("vllm:time_to_first_token_seconds_count") >= 3
    assert one("vllm:generation_tokens_total") >= 12
    assert 0 < one("vllm:prefix_cache_hits_total") < one("vllm:prefix_cache_queries_total")
    assert one("vllm:inter_token_latency_seconds_count") >= 1
    assert one("lmx_requests_refused_total", code="invalid_request") == 1
    assert one("lmx_guard_stage", stage="normal") == 1
    assert one("lmx_guard_stage") == 1
    assert one("lmx_memory_used_bytes") <= one("lmx_memory_limit_bytes")
    assert one("slo:objective:ratio", sloth_service="all", sloth_slo="availability") > 0.5
    assert one("lmx_events_total", type="request.received") >= 3


def test_names_keep_their_colons_whatever_a_scraper_prefers(daemon: RunningDaemon) -> None:
    answer = httpx.get(f"{daemon.url}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "vllm:num_requests_running" in samples(answer)
