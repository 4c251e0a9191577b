"""The paging storm's load, run once more under the limit that its replay names: what the estimate said came true."""

import pytest

from lmx_ledger.incident.candidates import candidates
from lmx_ledger.incident.estimate import Estimator
from lmx_ledger.incident.outcome import Estimate
from tests.incident.parts import scenario

EVER = 2**60
LIVE = "prevented/paging-storm"


def limit_of(name: str) -> int:
    """With which its daemon was started."""
    events, _ = scenario(name)
    limit: int = next(e.data["changed"]["memory"]["limit"] for e in events if e.type == "config.loaded")
    return limit


def behind(name: str, limit: int) -> Estimate:
    """From when the requests went to three models in turn."""
    events, told = scenario(name)
    return Estimator(events, told["injected_us"], EVER).estimate({"memory.limit": str(limit)})


def first_token_ms(name: str) -> float:
    """The median of what is recorded before that, where the limit makes no difference."""
    events, told = scenario(name)
    found = Estimator(events, 0, told["injected_us"]).estimate({}).recorded.ttft_p50_ms
    assert found is not None
    return found


def test_the_live_run_has_the_limit_that_the_replay_of_the_storm_names() -> None:
    events, _ = scenario("paging-storm")
    named, *_ = candidates(["paging_storm"], events, Estimator(events, 0, EVER))
    assert named == {"memory.limit": str(limit_of(LIVE))}
    assert limit_of("paging-storm") < limit_of(LIVE)


def test_page_ins_and_waiting_are_as_the_estimate_said_within_the_error_that_it_printed() -> None:
    limit = limit_of(LIVE)
    said, live = behind("paging-storm", limit), behind(LIVE, limit).recorded
    for key, was in (("page_ins", live.page_ins), ("page_in_ms", live.page_in_ms), ("waited_ms", live.waited_ms)):
        figure = said.figure(key)
        assert figure.recorded is not None
        assert figure.estimated is not None
        assert not figure.too_rough
        assert abs(figure.estimated - was) <= figure.error, key
        assert was < figure.recorded / 4


@pytest.mark.parametrize("key", ["ttft_p50_ms", "ttft_p95_ms"])
def test_first_tokens_came_as_the_estimate_said_within_the_error_that_it_printed(key: str) -> None:
    limit = limit_of(LIVE)
    figure = behind("paging-storm", limit).figure(key)
    was = behind(LIVE, limit).figure(key).recorded
    assert figure.estimated is not None
    assert was is not None
    # The machine was not as fast that time as this time: by how much, the time before the trouble says.
    faster = first_token_ms(LIVE) / first_token_ms("paging-storm")
    assert abs(figure.estimated * faster - was) <= figure.error


def test_under_its_own_limit_the_live_run_is_modelled_as_it_was() -> None:
    found = Estimator(scenario(LIVE)[0], 0, EVER).estimate({})
    assert found.figure("page_ins").error <= 1
    assert found.figure("answered").error <= found.recorded.requests / 20
