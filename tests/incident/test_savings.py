"""What would have saved most: each rule from what it goes by, the dearest first, with what was lost for lack of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from lmx_ledger.core.config import Config
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.dearest import Dearest
from lmx_ledger.incident.losses import Losses
from lmx_ledger.incident.savings import LEAST_MS, Change, changes
from tests.incident.by_hand import told

CONFIG = Config()


def found(*events: Recorded, config: Config = CONFIG) -> list[Change]:
    losses = Losses()
    for event in events:
        losses.add(event)
    return changes(losses, config)


def missed(seq: int, reason: str, breaker: str | None = None, ms: float = 4_000.0, session: str = "a") -> Recorded:
    return told(seq, "kv.missed", reason=reason, breaker=breaker, lost_tokens=900, cost_ms=ms, session=session)


def ended(seq: int, **parts_ms: float) -> Recorded:
    return told(seq, "request.finished", parts_ms=parts_ms)


def test_a_prefix_that_changes_is_a_change_for_each_thing_that_changes_it() -> None:
    one, other = found(
        missed(1, "diverged", "date", 5_000.0, "a"),
        missed(2, "diverged", "date", 9_000.0, "b"),
        missed(3, "diverged", "nonce", 3_000.0, "c"),
    )
    assert (one.rule, one.cost_ms, one.times, one.seqs) == ("stable_prefix", 14_000.0, 2, (2, 1))
    assert "put the date or time into the last user message" in one.what
    assert "1,800 tokens that were known were read again in 2 requests, because of date, 64% of it session b" in one.why
    assert (other.cost_ms, other.given, other.keys) == (3_000.0, {}, ())
    assert "all of it session c" in other.why


@pytest.mark.parametrize("reason", ["new_session", "too_short"])
def test_a_miss_that_is_nobodys_fault_is_no_reason_to_change_anything(reason: str) -> None:
    assert found(missed(1, reason)) == []


def test_reasoning_that_the_template_leaves_out_cannot_be_mended() -> None:
    assert found(missed(1, "diverged", "reasoning_stripped")) == []


def test_kv_that_had_to_go_wants_more_room_and_kv_that_went_with_its_worker_wants_the_disk() -> None:
    evicted, paged = found(missed(1, "evicted", ms=9_000.0), missed(2, "paged"))
    assert evicted.keys == ("kv.ram", "kv.disk")
    assert "for each model auto in memory, 32 GB on disk" in evicted.why
    assert (paged.rule, paged.keys[0]) == ("outlive_workers", "kv.disk")


def test_models_that_do_not_fit_cost_what_requests_waited_for_them() -> None:
    account = {"limit": 16_000_000_000, "lines": []}
    (one,) = found(
        told(1, "paging.planned", model="big", victims=["m0"], reason="page_in", account=account),
        told(2, "paging.in_finished", model="m0", ms=900.0),
        ended(3, page_in=2_000.0, memory=1_000.0, decode=9_000.0),
        told(4, "request.resumed", reason="memory", gap_ms=500.0),
    )
    assert (one.rule, one.cost_ms) == ("make_room", 3_500.0)
    assert one.why.startswith("Weights came back from disk once, all of it m0 for big; requests waited 3.5 s")
    assert dict(one.given) == {"memory.limit": "20000000000"}


def test_where_no_request_says_what_it_waited_the_reading_is_what_it_cost() -> None:
    (one,) = found(told(1, "paging.in_finished", model="m0", ms=4_000.0))
    assert (one.cost_ms, dict(one.given)) == (4_000.0, {"memory.page_at": "1.0"})


def test_a_line_that_is_long_and_a_line_that_is_full_are_one_change() -> None:
    (one,) = found(
        ended(1, queue=6_000.0),
        told(2, "request.rejected", status=429, code="queue_full", retry_after_s=10),
        told(3, "request.rejected", status=429, code="queue_full", retry_after_s=10),
    )
    assert (one.rule, one.cost_ms, one.times) == ("run_more", 26_000.0, 3)
    assert dict(one.given) == {"queue.max_running": "32"}
    assert "2 requests found the line full" in one.why


def test_at_the_most_that_may_run_no_more_is_asked_of_a_replay() -> None:
    config = Config.model_validate({"queue": {"max_running": 256}})
    assert found(ended(1, queue=6_000.0), config=config)[0].given == {}


def test_refusals_by_backpressure_ask_for_more_patience() -> None:
    (one,) = found(told(1, "request.rejected", status=429, code="backpressure", retry_after_s=7))
    assert (one.cost_ms, dict(one.given)) == (7_000.0, {"guard.queue_wait": "30s"})


def test_a_refusal_that_is_the_clients_fault_costs_nothing_that_we_could_save() -> None:
    assert found(told(1, "request.rejected", status=400, code="invalid_request", retry_after_s=None)) == []


def test_workers_that_die_want_to_be_looked_at() -> None:
    (one,) = found(
        told(1, "request.resumed", reason="worker_died", gap_ms=4_000.0),
        told(2, "request.failed", code="engine_failed", wall_ms=9_000.0, parts_ms={}),
    )
    assert (one.rule, one.cost_ms, one.keys) == ("mend_workers", 13_000.0, ())
    assert "one request failed after 9.0 s of work" in one.why


def test_the_dearest_comes_first_and_trifles_are_left_out() -> None:
    rules = [one.rule for one in found(ended(1, load=2_000.0, stalls=5_000.0, queue=LEAST_MS - 1))]
    assert rules == ["smaller_pieces", "stay_loaded"]


@given(
    some.lists(
        some.one_of(
            some.builds(lambda n, ms, who: missed(n, "diverged", "date", ms, who), some.integers(1, 99),
                        some.floats(0, 1e6), some.sampled_from("abc")),
            some.builds(lambda n, q, p: ended(n, queue=q, page_in=p), some.integers(1, 99), some.floats(0, 1e6),
                        some.floats(0, 1e6)),
            some.builds(lambda n, ms: told(n, "request.resumed", reason="worker_died", gap_ms=ms),
                        some.integers(1, 99), some.floats(0, 1e6)),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_whatever_was_lost_no_change_promises_more_than_all_of_it(events: list[Recorded]) -> None:
    lost = sum(
        (event.data.get("cost_ms") or 0.0)
        + event.data.get("gap_ms", 0.0)
        + sum(event.data.get("parts_ms", {}).values())
        for event in events
    )
    told_ = found(*events)
    assert sum(one.cost_ms for one in told_) <= lost + 0.01 * len(events) + 0.01
    assert [one.cost_ms for one in told_] == sorted((one.cost_ms for one in told_), reverse=True)
    assert all(one.cost_ms >= LEAST_MS and len(one.seqs) <= 3 and one.why.endswith(".") for one in told_)


def test_of_many_names_the_dearest_are_kept_and_memory_is_bounded() -> None:
    sums = Dearest(kept=10)
    for number in range(1_000):
        sums.add(f"s{number}", 1.0)
        sums.add("dear", 5.0, tokens=2)
    ranked = sums.ranked()
    assert len(ranked) <= 20
    assert (ranked[0][0], ranked[0][1].ms, ranked[0][1].tokens, ranked[0][1].times) == ("dear", 5_000.0, 2_000, 1_000)


@given(some.lists(some.tuples(some.sampled_from("abcdef"), some.floats(0, 100)), max_size=60))
def test_while_there_are_few_names_every_sum_is_exact(added: list[tuple[str, float]]) -> None:
    sums = Dearest(kept=3)
    for name, ms in added:
        sums.add(name, ms)
    exact: dict[str, float] = {}
    for name, ms in added:
        exact[name] = exact.get(name, 0.0) + ms
    assert {name: one.ms for name, one in sums.ranked()} == exact
