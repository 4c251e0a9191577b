"""The parts of a request's time: whatever happens to it, they are the whole of it and nothing is there twice."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.stream import EngineStream, Spent
from lmx_ledger.serving.parts import CLIENT, DECODE, MEMORY, PARTS, PREFILL, QUEUE, RESUME, STALLS, Parts
from lmx_ledger.serving.queue import AdmissionQueue

MS = 1_000_000


def step(at_ms: int, *, reads: int | None = None, draws: tuple[int, ...] = ()) -> wire.Step:
    prefill = [] if reads is None else [wire.Prefill(reads, 1, 2)]
    tokens = [wire.Token(stream, 1) for stream in draws]
    return wire.Step(tokens=tokens, prefill=prefill, active_bytes=0, peak_bytes=0, at_ns=at_ms * MS)


def test_what_the_worker_did_for_others_is_told_from_what_it_did_for_the_request() -> None:
    parts, spent = Parts(0), Spent()
    mine, other = EngineStream(1, share=parts.share), EngineStream(2)
    streams = {1: mine, 2: other}
    parts.begin_in(spent)
    parts.rest = PREFILL
    spent.report(step(100, reads=2), streams, 0)
    spent.report(step(130, draws=(2,)), streams, 0)
    spent.report(step(180, reads=1), streams, 0)
    # Its own first token, drawn beside the other's.
    spent.report(step(200, draws=(1, 2)), streams, 0)
    parts.look(200 * MS)
    assert parts.told() == {PREFILL: 70.0, STALLS: 130.0}
    parts.rest = DECODE
    spent.report(step(210, draws=(1, 2)), streams, 0)
    spent.report(step(240, reads=2), streams, 0)
    spent.report(step(250, draws=(1, 2)), streams, 0)
    parts.look(255 * MS)
    assert parts.told() == {PREFILL: 70.0, STALLS: 160.0, DECODE: 25.0}


def test_a_look_behind_an_interruption_does_not_count_what_was_done_meanwhile() -> None:
    parts, spent = Parts(0), Spent()
    parts.begin_in(spent)
    parts.rest = RESUME
    spent.report(step(500, reads=9), {}, 0)
    parts.look(500 * MS)
    parts.rest = DECODE
    parts.look(600 * MS)
    assert parts.told() == {DECODE: 100.0, RESUME: 500.0}


moments = st.integers(0, 10_000)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["charge", "divide", "look", "report", "rest", "worker"]),
            st.sampled_from(sorted(PARTS)),
            moments,
            st.dictionaries(st.sampled_from(sorted(PARTS)), moments, max_size=3),
        ),
        max_size=30,
    )
)
def test_the_parts_are_the_whole(acts: list[tuple[str, str, int, dict[str, int]]]) -> None:
    parts, spent = Parts(0), Spent()
    stream = EngineStream(1, share=parts.share)
    for act, part, at, waited in acts:
        match act:
            case "charge":
                parts.charge(part, at * MS)
            case "divide":
                parts.divide(at * MS, {name: ns * MS for name, ns in waited.items()})
            case "look":
                parts.look(at * MS)
            case "report":
                # Clocks of two processes may be read in either order.
                spent.report(step(max(at, 1), reads=1 if at % 2 else None, draws=(1, 2)), {1: stream}, at * MS)
            case "rest":
                parts.rest = part
            case "worker":
                spent = Spent()
                parts.begin_in(spent)
    parts.look(20_000 * MS)
    told = parts.told()
    assert sum(told.values()) == 20_000.0
    assert all(ms > 0 for ms in told.values())


async def test_a_line_says_what_it_waits_for() -> None:
    queue = AdmissionQueue(1, 8)
    early = queue.enter(1)
    queue.open()
    first = queue.enter(1)
    assert early.admitted.done()
    assert set(early.waited) == {"load"}
    assert early.waited["load"] > 0
    before = first.waited
    queue.hold()
    early.leave()
    held = first.waited
    assert held[QUEUE] > before.get(QUEUE, 0)
    queue.let_go()
    assert first.admitted.done()
    assert first.waited[MEMORY] > 0
    over = first.waited
    queue.close("page_in")
    again = queue.enter(1)
    first.leave()
    queue.closed_for(CLIENT)
    queue.open()
    assert again.waited["page_in"] > 0
    assert first.waited == over, "its wait was over"
