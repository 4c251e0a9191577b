"""What requests took, read off their events: of those that were served, and as a guess of those that were not."""

from collections.abc import Iterator
from itertools import count

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.simulation.demand import ANSWERED, FAILED, LEFT, REFUSED, Demand, Job, demand
from lmx_ledger.incident.simulation.machine import Outage
from lmx_ledger.serving.too_long import tokens_told, too_long
from tests.incident.parts import BEGIN_US, SECOND_US, recorded

EVER = 2**60


class Story:
    """Requests that a test tells, second by second."""

    def __init__(self) -> None:
        self.events: list[Recorded] = []
        self._seqs: Iterator[int] = count(1)

    def tell(self, at_s: float, request: str, data: ev.EventData, session: str | None = None) -> None:
        event = ev.Event(data=data, stream="s", request=request, session=session, model="m0")
        self.events.append(recorded(next(self._seqs), at_s, event))

    def came(self, at_s: float, request: str, session: str | None = None, chars: int = 400, **sampling: int) -> None:
        data = ev.RequestReceived(
            route="/v1/chat/completions", stream=False, messages=1, tools=0, chars=chars, prompt_sha256="0",
            client=None, client_request_id=None, sampling={"n": 1, "max_tokens": 12, **sampling},
        )  # fmt: skip
        self.tell(at_s, request, data, session)

    def served(
        self,
        at_s: float,
        request: str,
        session: str | None = None,
        *,
        read_ms: float = 100.0,
        draw_ms: float = 110.0,
        wait_ms: float = 0.0,
        fetch_ms: float = 0.0,
    ) -> None:
        """Prompts of 100 tokens, answers of 12."""
        self.came(at_s, request, session)
        began = at_s + wait_ms / 1e3
        admitted = ev.RequestAdmitted(prompt_tokens=100, max_tokens=12, choices=1, queue_ms=wait_ms, sampling={})
        self.tell(began, request, admitted, session)
        first = began + (fetch_ms + read_ms) / 1e3
        token = ev.RequestFirstToken(ttft_ms=(first - at_s) * 1e3, prefill_ms=read_ms)
        self.tell(first, request, token, session)
        end = first + draw_ms / 1e3
        parts = {"queue": wait_ms, "restore": fetch_ms, "prefill": read_ms, "decode": draw_ms}
        finished = ev.RequestFinished(
            status=200, finish_reason="length", prompt_tokens=100, cached_tokens=0, completion_tokens=12,
            queue_ms=wait_ms, ttft_ms=(first - at_s) * 1e3, itl_p95_ms=10.0, wall_ms=(end - at_s) * 1e3,
            parts_ms={part: ms for part, ms in parts.items() if ms},
        )  # fmt: skip
        self.tell(end, request, finished, session)

    def refused(
        self, at_s: float, request: str, code: str, message: str = "no", *, chars: int, max_tokens: int = 12
    ) -> None:
        self.came(at_s, request, chars=chars, max_tokens=max_tokens)
        data = ev.RequestRejected(status=429, code=code, message=message, route="/v1/chat/completions")
        self.tell(at_s, request, data)

    def demand(self, *outages: Outage, base_s: float = 0.0, since_s: float = 0.0) -> Demand:
        base_us = BEGIN_US + int(base_s * SECOND_US)
        events = sorted(self.events, key=lambda event: event.time_us)
        return demand(events, base_us, BEGIN_US + int(since_s * SECOND_US), EVER, outages)

    def jobs(self, *outages: Outage) -> dict[str, Job]:
        return {job.id: job for job in self.demand(*outages).jobs}


def test_what_was_served_takes_again_what_it_took() -> None:
    story = Story()
    story.served(1.0, "r1", "s", read_ms=80.0, draw_ms=55.0, wait_ms=250.0, fetch_ms=20.0)
    (job,) = story.demand().jobs
    assert (job.fate, job.came_s, job.session, job.prompt, job.room) == (ANSWERED, 1.0, "s", 100, 112)
    assert (job.read_s, job.drawn_s, job.fetch_s) == pytest.approx((0.08, 0.055, 0.02))
    assert (job.waited_ms, job.ttft_ms) == pytest.approx((250.0, 350.0))


def test_what_was_refused_would_take_what_others_of_its_length_took() -> None:
    story = Story()
    for number in range(4):
        story.served(float(number), f"r{number}")
    story.refused(9.0, "long", "backpressure", chars=4_000)
    story.refused(9.1, "short", "queue_full", chars=40, max_tokens=1)
    story.refused(9.2, "told", "context_length_exceeded", too_long(70_000, "m0", 64_000, ""), chars=10)
    jobs = story.jobs()
    # A token for four characters, a millisecond for each; 110 ms for the eleven tokens behind the first.
    assert (jobs["long"].fate, jobs["long"].code, jobs["long"].prompt) == (REFUSED, "backpressure", 1_000)
    assert (jobs["long"].read_s, jobs["long"].drawn_s) == pytest.approx((1.0, 0.11))
    assert (jobs["short"].prompt, jobs["short"].drawn_s) == (10, 0.0)
    assert jobs["told"].prompt == 70_000


def test_answers_that_are_drawn_together_are_slower_and_alone_as_fast_as_alone() -> None:
    story = Story()
    for number in range(6):
        story.served(float(number), f"alone{number}", draw_ms=110.0)
    for number in range(6):
        for one in range(2):
            story.served(20.0 + number, f"pair{number}{one}", draw_ms=165.0)
    found = story.demand()
    assert found.speeds["m0"].company == pytest.approx(0.5, abs=0.01)
    assert found.speeds["m0"].draw_ms == pytest.approx(10.0, abs=0.2)
    assert {round(job.drawn_s, 3) for job in found.jobs} == {0.11}


def test_who_came_behind_an_answer_of_its_conversation_comes_behind_it() -> None:
    story = Story()
    story.served(0.0, "a1", "a")
    story.served(1.0, "a2", "a")
    # Two that the same conversation asks at once: each is behind an end of its own.
    story.served(1.0, "a3", "a")
    story.served(2.0, "a4", "a")
    story.served(2.5, "a5", "a")
    story.served(1.5, "b1", "b")
    story.served(100.0, "a6", "a")
    story.served(0.0, "n1")
    story.served(1.0, "n2")
    jobs = story.jobs()
    assert {name: job.behind for name, job in jobs.items()} == {
        "a1": None, "a2": "a1", "a3": None, "a4": "a3", "a5": "a4", "b1": None, "a6": None, "n1": None, "n2": None,
    }  # fmt: skip
    assert jobs["a2"].think_s == pytest.approx(1.0 - 0.21)


def test_time_that_its_worker_was_away_is_not_the_requests() -> None:
    story = Story()
    for number in range(4):
        story.served(float(number), f"r{number}")
    story.served(10.0, "hung", read_ms=5_000.0)
    away = Outage("m0", 10.05, 14.0, 15.0)
    assert story.jobs()["hung"].read_s == pytest.approx(5.0)
    assert story.jobs(away)["hung"].read_s == pytest.approx(0.1)


def test_what_ended_before_is_known_and_what_has_not_ended_is_left_out() -> None:
    story = Story()
    story.served(0.0, "before", "a")
    story.served(10.0, "lead", "b")
    story.served(70.0, "in", "c")
    story.came(71.0, "waits", "d")
    story.came(72.0, "left", "e")
    gone = ev.RequestCancelled(
        phase="queue",
        reason="client_gone",
        prompt_tokens=0,
        completion_tokens=0,
        wall_ms=500.0,
        parts_ms={"queue": 500.0},
    )
    story.tell(72.5, "left", gone)
    story.came(73.0, "failed", "f")
    broken = ev.RequestFailed(
        status=500, code="engine_failed", message="no", prompt_tokens=100, completion_tokens=0, wall_ms=900.0
    )
    story.tell(73.9, "failed", broken)
    found = story.demand(base_s=5.0, since_s=60.0)
    assert found.known == {("a", "m0")}
    told = {job.id: (job.fate, job.counts, job.left_s) for job in found.jobs}
    assert told == {
        "lead": (ANSWERED, False, None),
        "in": (ANSWERED, True, None),
        "left": (LEFT, True, 0.5),
        "failed": (FAILED, True, 0.9),
    }


def test_how_long_a_prompt_was_that_was_refused_is_read_off_the_words_that_refused_it() -> None:
    words = too_long(70_000, "m0", 64_000, " while heat slows this machine")
    assert words.endswith("takes fewer than 64000 while heat slows this machine; shorten it by 6001")
    assert tokens_told(words) == 70_000
    assert tokens_told("no new sessions are taken") is None
