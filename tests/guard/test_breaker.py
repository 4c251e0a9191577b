"""The circuit breaker as a state machine."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lmx_ledger.guard.breaker import OPEN_S, SOON_S, Breaker, State


class Machine(RuleBasedStateMachine):
    """Against plain counts of what happened since the last success."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.failures = 0

    @rule(times=st.integers(1, 6))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker = self.breaker.tried().failed()
            self.failures += 1

    @rule()
    def succeed(self) -> None:
        self.breaker = self.breaker.tried().succeeded()
        self.failures = 0

    @invariant()
    def few_failures_are_met_at_once_and_many_ever_later(self) -> None:
        assert self.breaker.failures == self.failures
        if self.failures <= len(SOON_S):
            assert self.breaker.state is State.CLOSED
            assert self.breaker.pause_s == (SOON_S[self.failures - 1] if self.failures else 0.0)
        else:
            assert self.breaker.state is State.OPEN
            opened = self.failures - len(SOON_S)
            assert self.breaker.pause_s == OPEN_S[min(opened, len(OPEN_S)) - 1]


TestBreaker = Machine.TestCase


def test_a_closed_breaker_is_not_half_opened_by_a_try() -> None:
    assert Breaker().failed().tried() == Breaker(failures=1)


def test_one_failure_while_half_open_opens_it_again_for_longer() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker = breaker.failed()
    assert (breaker.state, breaker.pause_s) == (State.OPEN, 2.0)
    assert breaker.tried().state is State.HALF_OPEN
    assert breaker.tried().failed().pause_s == 5.0
