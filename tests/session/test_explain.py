"""Hits and misses are told apart, and each miss has the reason that an operator would give it."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.session.explain import Known, Place, Reason, Seen, common_length, explain

BLOCK = 16
HERE = Place("weights", "form", "template", 7)


USUAL_SEEN = Seen(prompt=200, reused=0)


@dataclass(frozen=True)
class Case:
    """A prompt of 200 tokens that goes on behind a state of 150, and what was reused of it."""

    seen: Seen = USUAL_SEEN
    tokens: int = 150
    shared: int | None = 150
    place: Place = HERE
    on_disk: bool = True

    @property
    def known(self) -> Known:
        return Known(self.tokens, self.shared, self.place, self.on_disk)


AGO = HERE._replace(worker=3)
USUAL = Case()
CASES = {
    "evicted": replace(USUAL, seen=Seen(200, 0, lost="evicted")),
    "evicted, by a run before": replace(USUAL, place=AGO),
    "corrupt": replace(USUAL, seen=Seen(200, 64, lost="corrupt")),
    "corrupt, as seen at the start": replace(USUAL, place=AGO, seen=Seen(200, 0, unusable=Reason.CORRUPT)),
    "format_changed, as seen at the start": replace(
        USUAL, place=AGO, seen=Seen(200, 0, unusable=Reason.FORMAT_CHANGED)
    ),
    "paged": replace(USUAL, place=AGO, on_disk=False),
    "diverged": replace(USUAL, shared=20, seen=Seen(200, 20)),
    "diverged, at once": replace(USUAL, shared=3, seen=Seen(200, 0)),
    "diverged, and nobody knows where": replace(USUAL, shared=None, seen=Seen(200, 48)),
    "model_changed": replace(USUAL, place=HERE._replace(fingerprint="other"), shared=None),
    "format_changed": replace(USUAL, place=HERE._replace(form="other"), shared=None),
    "template_changed": replace(USUAL, place=HERE._replace(template="other"), shared=4),
    "too_short": replace(USUAL, seen=Seen(12, 0), shared=9, tokens=9),
    "too_short, what was known": replace(USUAL, shared=9, tokens=9),
    "busy": replace(USUAL, seen=Seen(200, 0, beside=190), shared=20),
    "busy, beside a state that was kept": replace(USUAL, seen=Seen(200, 20, beside=190), shared=20, tokens=20),
    "busy, another process": replace(USUAL, place=AGO, on_disk=False, seen=Seen(200, 0, borrowed=True)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_miss_has_its_reason(name: str) -> None:
    case = CASES[name]
    told = explain(case.seen, case.known, HERE, BLOCK)
    assert (told.hit, told.reason) == (False, name.split(",", maxsplit=1)[0])
    assert told.recomputed == case.seen.prompt - case.seen.reused


def test_a_conversation_that_nobody_knows_is_new() -> None:
    assert explain(Seen(200, 0), None, HERE, BLOCK).reason is Reason.NEW_SESSION
    told = explain(Seen(200, 100), None, HERE, BLOCK)
    assert (told.reason, told.reused, told.lost) == (Reason.NEW_SESSION, 100, 0)


@pytest.mark.parametrize("reused", [150, 149, 134])
def test_all_but_the_last_block_of_what_was_known_is_a_hit_however_much_is_new(reused: int) -> None:
    case = Case(seen=Seen(1_000, reused))
    assert explain(case.seen, case.known, HERE, BLOCK).hit


def test_all_but_the_last_block_of_the_prompt_is_a_hit_whoever_computed_it() -> None:
    assert explain(Seen(200, 184), None, HERE, BLOCK).hit
    assert not explain(Seen(200, 183), None, HERE, BLOCK).hit


def test_a_prompt_that_parts_costs_what_was_known_behind_that_place() -> None:
    case = CASES["diverged"]
    told = explain(case.seen, case.known, HERE, BLOCK)
    assert (told.diverged_at, told.lost) == (20, 130)


def test_what_went_costs_what_the_prompt_and_the_conversation_have_in_common() -> None:
    case = replace(CASES["corrupt"], shared=100)
    told = explain(case.seen, case.known, HERE, BLOCK)
    assert (told.reason, told.lost, told.diverged_at) == (Reason.CORRUPT, 36, 100)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_the_common_length_is_the_longest_common_beginning(one: list[int], other: list[int]) -> None:
    length = common_length(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]


@given(
    prompt=st.integers(1, 400),
    reused=st.integers(0, 400),
    tokens=st.integers(1, 400),
    shared=st.none() | st.integers(0, 400),
    lost=st.none() | st.sampled_from(["evicted", "corrupt"]),
    worker=st.sampled_from([3, 7]),
    beside=st.integers(0, 400),
    on_disk=st.booleans(),
)
def test_whatever_is_seen_the_account_adds_up(
    prompt: int,
    reused: int,
    tokens: int,
    shared: int | None,
    lost: str | None,
    worker: int,
    beside: int,
    *,
    on_disk: bool,
) -> None:
    seen = Seen(prompt, min(reused, prompt - 1), lost=lost, beside=min(beside, prompt))
    known = Known(tokens, None if shared is None else min(shared, prompt, tokens), AGO._replace(worker=worker), on_disk)
    told = explain(seen, known, HERE, BLOCK)
    assert told.reused + told.recomputed == prompt
    assert 0 <= told.lost <= max(told.recomputed, 0)
    assert told.hit == (told.reason is None)
    if told.hit:
        assert told.reused > 0
    if told.diverged_at is not None:
        assert told.reused <= told.diverged_at < min(tokens, prompt)
