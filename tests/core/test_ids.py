"""Identifiers sort by time and are recognised in any vendor's clothes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.ids import answer_id, new_request_id, new_ulid, request_id_of

TIMES = st.integers(0, (1 << 48) * 1_000 - 1)


@given(times=st.tuples(TIMES, TIMES))
def test_ulids_sort_by_their_millisecond(times: tuple[int, int]) -> None:
    earlier, later = sorted(times)
    first, second = new_ulid(earlier), new_ulid(later)
    assert len(first) == len(second) == 26
    if earlier // 1_000 == later // 1_000:
        assert first[:10] == second[:10]
    else:
        assert first < second


def test_no_two_are_the_same_within_one_millisecond() -> None:
    assert len({new_ulid(1_000) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("prefix", ["", "req_", "chatcmpl-", "cmpl-", "resp_", "msg_"])
def test_a_request_is_known_by_each_of_its_names(prefix: str) -> None:
    request = new_request_id()
    assert request_id_of(answer_id(request, prefix)) == request
    assert request_id_of(f"  {answer_id(request, prefix)}\n") == request


@given(text=st.text(max_size=40))
def test_any_other_text_is_no_request(text: str) -> None:
    found = request_id_of(text)
    assert found is None or found.endswith(text.strip()[-26:])


@pytest.mark.parametrize(
    "text", ["", "req_", "req_abc", "foo_01HZZZZZZZZZZZZZZZZZZZZZZZ", "req_0000000000000000000000000U"]
)
def test_what_only_looks_like_one_is_none(text: str) -> None:
    assert request_id_of(text) is None
