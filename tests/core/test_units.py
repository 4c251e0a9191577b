"""Sizes and durations, as people write them and as they are shown."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.units import parse_bytes, parse_duration, show_bytes, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30.0), ("2m", 120.0), ("1h", 3600.0), ("7d", 604800.0), (" 1.5 s ", 1.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "s", "-1s", "1w", "1e3s", "1h30m", "inf", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 500ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GiB", 24 * 2**30), ("8GB", 8 * 10**9), ("512", 512), ("1.5KiB", 1536), ("64 kb", 64_000), ("1tib", 2**40)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1PB", "1G", "0x10", "1e9"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 24GiB"):
        parse_bytes(text)


@given(count=st.integers(0, 10**40))
def test_a_whole_number_of_bytes_is_read_as_itself(count: int) -> None:
    assert parse_bytes(f"{count}") == count
    assert parse_bytes(f"{count}.5KiB") == 1024 * count + 512


@given(count=st.integers(0, 10**15))
def test_a_shown_size_reads_back_within_its_last_digit(count: int) -> None:
    shown = show_bytes(count)
    assert re.fullmatch(r"\d{1,3}(\.\d)? (B|KB|MB|GB|TB)|1000 TB", shown)
    unit = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[shown.split()[1]]
    assert abs(parse_bytes(shown) - count) <= unit


@given(seconds=st.floats(0, 10**8))
def test_a_shown_duration_has_two_units_at_most(seconds: float) -> None:
    assert re.fullmatch(
        r"\d{1,3} ms|[1-5]?\d\.\d s|\d+m \d\ds|\d+h \d\dm|\d+d \d+h",
        show_duration(seconds),
    )


def test_durations_are_shown_for_people() -> None:
    assert [show_duration(s) for s in (0.34, 0.9999, 4.2, 59.99, 200, 7_500, 273_600)] == [
        "340 ms",
        "1.0 s",
        "4.2 s",
        "1m 00s",
        "3m 20s",
        "2h 05m",
        "3d 4h",
    ]


def test_sizes_are_shown_for_people() -> None:
    assert [show_bytes(n) for n in (512, 1_234, 8 * 10**9, 1_234_567_890)] == ["512 B", "1.2 KB", "8 GB", "1.2 GB"]
    assert [show_bytes(n) for n in (99_960, 999_400, 999_900, 999_999_999)] == ["100 KB", "999 KB", "1 MB", "1 GB"]
