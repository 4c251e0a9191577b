"""Whether a model fits, against the account of bytes that it is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.memory.caches import LayerCache
from lmx_ledger.memory.fit import LEAST_CHUNK, Candidate, Fit, PagedOut, Room, fit
from lmx_ledger.memory.plan import Policy
from lmx_ledger.memory.shape import ModelShape, Prefill

MB = 10**6
CONTEXT = 32_768


def shape(layers: int = 10, *, token: int = 0, pair_heads: int = 0) -> ModelShape:
    """Layers of 10 MB, and as much that belongs to none; so many bytes of KV for a token."""
    prefill = Prefill(token_bytes=0, logits_bytes=0, heads=pair_heads, head_dim=None if pair_heads else 128)
    return ModelShape((10 * MB,) * layers, 10 * MB, (LayerCache(token),), prefill, CONTEXT, exact=True)


def room(limit: int, **more: int) -> Room:
    return Room(limit=limit, chunk=2_048, fused=frozenset({128}), policy=Policy(1.0, 1.0), **more)


def ask(one: ModelShape, limit: int, *beside: Candidate, context: int = 256, **more: int) -> Fit:
    return fit(Candidate("new", one), context, beside, room(limit, **more), CONTEXT)


def test_alone_it_fits_to_the_last_byte_and_no_further() -> None:
    fits = ask(shape(), 110 * MB)
    assert (fits.verdict, fits.spare, fits.short_by, fits.need) == ("fits", 0, 0, 110 * MB)
    short = ask(shape(), 110 * MB - 1)
    assert (short.verdict, short.short_by, short.longest) == ("short", 1, 0)


def test_what_is_reserved_and_what_others_have_is_not_there() -> None:
    assert ask(shape(), 120 * MB, reserve=10 * MB).verdict == "fits"
    assert ask(shape(), 120 * MB, reserve=10 * MB, others=1).short_by == 1


def test_others_give_their_last_layers_first_and_no_more_than_it_takes() -> None:
    answer = ask(shape(), 195 * MB, Candidate("old", shape()))
    assert answer.verdict == "pages"
    assert answer.paged == (PagedOut("old", first=7, last=9, whole=False, bytes=30 * MB),)
    assert answer.spare == 5 * MB


def test_a_whole_model_goes_before_the_next_one_has_to() -> None:
    low, high = Candidate("low", shape(4)), Candidate("high", shape(4), priority=1)
    answer = ask(shape(), 145 * MB, high, low)
    assert answer.paged == (
        PagedOut("low", first=0, last=3, whole=True, bytes=50 * MB),
        PagedOut("high", first=2, last=3, whole=False, bytes=20 * MB),
    )


def test_one_that_is_pinned_stays() -> None:
    answer = ask(shape(), 195 * MB, Candidate("old", shape(), pinned=True))
    assert (answer.verdict, answer.short_by, answer.paged) == ("short", 25 * MB, ())


def test_room_is_kept_clear_of_the_limit_as_the_daemon_keeps_it() -> None:
    wide = room(240 * MB)._replace(policy=Policy(page_at=0.85, page_to=0.75))
    answer = fit(Candidate("new", shape()), 256, [Candidate("old", shape())], wide, CONTEXT)
    assert answer.verdict == "pages"
    assert sum(paged.bytes for paged in answer.paged) == 40 * MB


def test_short_of_memory_prompts_are_read_in_smaller_pieces() -> None:
    one = shape(token=1, pair_heads=8)
    whole = ask(one, 10**12, context=CONTEXT)
    assert whole.chunk == 2_048
    less = ask(one, whole.weights + whole.kv + whole.working // 3, context=CONTEXT)
    assert (less.verdict, less.chunk) == ("fits", 512)
    none = ask(one, whole.weights + whole.kv, context=CONTEXT)
    assert (none.verdict, none.chunk) == ("short", LEAST_CHUNK)


@given(
    limit=st.integers(90, 400),
    token=st.integers(1, 20_000),
    heads=st.integers(0, 4),
    context=st.integers(1, CONTEXT),
    beside=st.lists(st.integers(0, 6), max_size=3),
)
def test_up_to_the_longest_context_it_fits_and_behind_that_it_is_short(
    limit: int, token: int, heads: int, context: int, beside: list[int]
) -> None:
    others = [Candidate(f"old{n}", shape(layers)) for n, layers in enumerate(beside)]
    one = shape(token=token, pair_heads=heads)
    answer = ask(one, limit * MB, *others, context=context)
    assert (answer.verdict == "short") == (answer.short_by > 0)
    assert (answer.verdict == "pages") == bool(answer.paged)
    held = sum(other.shape.weights_bytes for other in others)
    gone = sum(paged.bytes for paged in answer.paged)
    if answer.verdict != "short":
        assert held - gone + answer.need + answer.spare == limit * MB
        assert answer.spare >= 0
    if answer.longest:
        assert ask(one, limit * MB, *others, context=answer.longest).verdict != "short"
    if answer.longest < CONTEXT:
        assert ask(one, limit * MB, *others, context=answer.longest + 256).verdict == "short"


@pytest.mark.parametrize("most", [1, 255, 1_000, CONTEXT])
def test_no_longer_context_is_looked_for_than_was_asked(most: int) -> None:
    assert fit(Candidate("new", shape(token=1)), 256, (), room(10**12), most).longest == most
