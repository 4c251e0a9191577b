"""Stop texts are exact, wherever the tokens end."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.serving.stops import StopMatcher, longest_beginning

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    out = "".join(matcher.feed(piece) for piece in pieces)
    return (out if matcher.stopped else out + matcher.finish()), matcher.stopped


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The match that ends first, found the slow way."""
    for end in range(1, len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@given(st.lists(st.text("ab", max_size=5), max_size=10), STOPS)
def test_what_is_shown_is_the_text_before_the_stop_that_ends_first(pieces: list[str], stops: list[str]) -> None:
    assert shown(pieces, stops) == expected("".join(pieces), stops)


@given(LETTERS, STOPS)
def test_cutting_the_text_into_other_pieces_changes_nothing(text: str, stops: list[str]) -> None:
    assert shown(list(text), stops) == shown([text], stops)


def test_a_beginning_of_a_stop_is_held_back_until_it_is_clear() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the E") == "the "
    assert matcher.withheld == 1
    assert matcher.feed("N") == ""
    assert matcher.feed("OUGH") == "ENOUGH"


def test_nothing_is_shown_behind_a_stop() -> None:
    matcher = StopMatcher(["stop"])
    assert matcher.feed("go stop now") == "go "
    assert matcher.stopped
    assert matcher.feed("more") == ""


@given(LETTERS, STOPS)
def test_the_longest_beginning_is_a_suffix_and_a_proper_prefix(text: str, stops: list[str]) -> None:
    length = longest_beginning(text, stops)
    if length:
        assert any(stop.startswith(text[-length:]) and len(stop) > length for stop in stops)
    assert not any(
        text.endswith(stop[:longer]) for stop in stops for longer in range(length + 1, len(stop)) if longer <= len(text)
    )
