"""Ids as they are stored and as they are told."""

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.ids import new_request_id, new_ulid
from lmx_ledger.ledger.event_id import event_id, request_key, request_of

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def number_of(text: str) -> int:
    value = 0
    for digit in text:
        value = value * 32 + CROCKFORD.index(digit)
    return value


@given(time_us=st.integers(0, (1 << 48) * 1000 - 1), digest=st.binary(min_size=32, max_size=32))
def test_an_event_id_is_a_ulid_of_its_time_and_its_hash(time_us: int, digest: bytes) -> None:
    found = event_id(time_us, digest)
    assert found.startswith("evt_")
    assert len(found) == 30
    assert number_of(found[4:]) == (time_us // 1000 << 80) | int.from_bytes(digest[:10], "big")


@given(value=st.integers(0, (1 << 128) - 1))
def test_a_request_id_is_kept_in_16_bytes_and_comes_back(value: int) -> None:
    text = "req_" + "".join(CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
    assert request_key(text) == value.to_bytes(16, "big")
    assert request_of(value.to_bytes(16, "big")) == text


@given(text=st.text() | st.from_regex(r"req_[0-9A-Z]{26}", fullmatch=True))
def test_any_other_request_id_comes_back_too(text: str) -> None:
    assert request_of(request_key(text)) == text


def test_the_ids_that_are_given_out_are_kept_short() -> None:
    assert all(isinstance(request_key(new_request_id()), bytes) for _ in range(100))
    assert len({new_ulid() for _ in range(100)}) == 100
