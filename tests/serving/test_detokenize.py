"""Streaming text is the text."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lmx_ledger.serving.detokenize import Detokenizer


@pytest.fixture(scope="module")
def tokenizer(random_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(random_model / "tokenizer.json"))


def streamed(tokenizer: Tokenizer, ids: list[int], silent: frozenset[int] = frozenset()) -> str:
    detokenizer = Detokenizer(tokenizer, silent)
    return "".join(detokenizer.feed(token) for token in ids) + detokenizer.finish()


@settings(deadline=None)
@given(ids=st.lists(st.integers(3, 300), max_size=80))
def test_any_ids_streamed_give_what_decoding_all_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert streamed(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=False)


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert streamed(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_half_a_character_is_not_shown(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("€", add_special_tokens=False).ids
    assert len(ids) == 3
    detokenizer = Detokenizer(tokenizer, frozenset())
    assert [detokenizer.feed(token) for token in ids] == ["", "", "€"]


def test_control_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    start = tokenizer.token_to_id("<|im_start|>")
    assert start is not None
    ids = [start, *tokenizer.encode("hi", add_special_tokens=False).ids, start]
    assert streamed(tokenizer, ids, frozenset({start})) == "hi"
