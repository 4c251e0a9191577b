"""What breaks a prefix is named for what it is."""

import pytest

from lmx_ledger.session.breakers import MENDING, Breaker, mending, name, name_of_tools

SYSTEM = "You are a coding agent. "


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("Today is 2026-11-22.", "Today is 2026-11-23.", Breaker.DATE),
        ("It is 09:41 now.", "It is 10:02 now.", Breaker.DATE),
        ("Monday, as ever", "Tuesday, as ever", Breaker.DATE),
        ("The month is March.", "The month is April.", Breaker.DATE),
        ("cch=1f8e90ab; go", "cch=77ac01fe; go", Breaker.NONCE),
        ("request 17 of many", "request 18 of many", Breaker.NONCE),
        ("id 01M84DTN-WRB", "id 01M84DTQ-ABX", Breaker.NONCE),
        ("Be brief.", "Be thorough.", Breaker.SYSTEM_EDITED),
        ("Be brief.", "Be brief. And kind.", Breaker.SYSTEM_EDITED),
    ],
)
def test_of_a_system_message_it_is_told_what_differs(before: str, now: str, expected: Breaker) -> None:
    assert name(SYSTEM + before, SYSTEM + now, "system", reasons=False) is expected


def test_an_answer_that_comes_back_otherwise_is_the_clients_or_the_templates_doing() -> None:
    assert name("Sure!", "Sure.", "assistant", reasons=False) is Breaker.ANSWER_EDITED
    assert name("<think>Hm", "Sure.", "assistant", reasons=True) is Breaker.REASONING_STRIPPED


def test_what_a_user_said_may_be_rewritten_too() -> None:
    assert name("What is LMX?", "Who is LMX?", "user", reasons=False) is Breaker.HISTORY_EDITED


def test_tools_are_the_same_in_another_order_or_others() -> None:
    assert name_of_tools(["a", "b"], ["b", "a"]) is Breaker.TOOLS_REORDERED
    assert name_of_tools(["a", "b"], ["a", "c"]) is Breaker.TOOLS_CHANGED


def test_for_each_there_is_a_way_to_mend_it() -> None:
    assert set(MENDING) == set(Breaker)
    assert mending("nonce") == MENDING[Breaker.NONCE]
    assert mending("of a later version") is None
