"""Patterns of phrasings."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.patterns import parse


def test_alternatives_and_options_are_all_listed() -> None:
    assert parse("(stop|end) it [now|at once]").all() == [
        "stop it now",
        "stop it at once",
        "stop it",
        "end it now",
        "end it at once",
        "end it",
    ]


def test_an_empty_alternative_is_nothing() -> None:
    assert parse("go (on|)").all() == ["go on", "go"]
    assert parse("go [on|]").all() == ["go on", "go"]


def test_brackets_nest() -> None:
    assert parse("a (b [c]|d)").all() == ["a b c", "a b", "a d"]


@pytest.mark.parametrize("text", ["a (b", "a [b|c", "a) b", "a ]", "(a]"])
def test_a_bracket_without_its_partner_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bracket"):
        parse(text)


@given(
    st.recursive(
        st.text("ab ", min_size=1, max_size=4),
        lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "(" + "|".join(parts) + ")"),
        max_leaves=6,
    ),
    st.integers(),
)
def test_what_is_drawn_is_one_of_all_and_all_are_counted(text: str, seed: int) -> None:
    pattern = parse(text)
    assert len(pattern.all()) == pattern.count()
    assert pattern.draw(random.Random(seed)) in pattern.all()
