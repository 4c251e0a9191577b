"""How long the stages of a run were raised, as they were and as they would have been."""

from lmx_ledger.incident.replay import Compared, held_s

S = 1_000_000


def stage(at_s: int, recorded: str | None, replayed: str | None) -> Compared:
    return Compared(None, at_s * S, "stage", recorded, replayed)


UP, DOWN = "stage normal -> backpressure (queue_wait)", "stage backpressure -> normal"


def test_a_stage_counts_from_its_beginning_to_its_end_in_the_time_that_is_asked_about() -> None:
    run = [stage(10, UP, UP), stage(40, DOWN, None), stage(70, None, DOWN)]
    assert held_s(run, 0, 100 * S, as_replayed=False) == {"backpressure": 30.0}
    assert held_s(run, 0, 100 * S, as_replayed=True) == {"backpressure": 60.0}
    assert held_s(run, 30 * S, 100 * S, as_replayed=False) == {"backpressure": 10.0}
    assert held_s(run, 50 * S, 100 * S, as_replayed=False) == {}


def test_a_stage_that_has_not_ended_counts_to_the_end_of_the_run() -> None:
    assert held_s([stage(10, UP, None)], 0, 25 * S, as_replayed=False) == {"backpressure": 15.0}
    assert held_s([stage(10, UP, None)], 0, 25 * S, as_replayed=True) == {}
