"""A line for every type, and nothing in it that a terminal would obey."""

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.events import CATALOGUE, EventType, Recorded, Severity
from lmx_ledger.ledger.log_lines import NAMED, TEMPLATES, render
from tests.recorded import recorded as made


def recorded(kind: str, data: dict[str, Any], **fields: Any) -> Recorded:
    severity = CATALOGUE[kind].severity if kind in CATALOGUE else Severity.INFO
    own = {"severity": severity, "stream": "guard", "request": "req_a", "model": "m0"}
    return made(kind, data, **{**own, **fields})


def test_the_table_has_a_line_for_every_type_and_for_no_other() -> None:
    assert TEMPLATES.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_a_template_names_only_fields_that_the_event_has(kind: EventType) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(TEMPLATES[kind.name]) if field}
    assert fields <= set(kind.data.__struct_encode_fields__) | set(Recorded.__struct_fields__)


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [None, 1, 2.5, "text", [], ["a"], {}, {"k": "v"}, True])
def test_a_line_can_be_made_whatever_the_values_are(kind: EventType, value: object) -> None:
    line = render(recorded(kind.name, dict.fromkeys(kind.data.__struct_encode_fields__, value)))
    assert line.startswith(("[LMX-Core] ", "[LMX-Guard] "))
    assert "{" not in line


def test_lines_read_as_they_should() -> None:
    data = {"weights_bytes": 1_234_567_890, "path": "/m", "reason": "start"}
    assert render(recorded("model.load_started", data)) == "[LMX-Core] Loading m0 (1.2GB)..."
    data = {"late": 1, "lost": 2, "reason": "database is locked"}
    assert render(recorded("ledger.dropped", data), with_time=True) == (
        "2023-11-14T22:13:20.123456Z [LMX-Core] Ledger: 1 events late, 2 lost (database is locked). (error)"
    )


def test_the_threshold_reads_as_the_reference_guide_has_it() -> None:
    data = {"name": "memory", "page_at": 0.85, "used_bytes": 9, "limit_bytes": 10, "fraction": 0.9, "reason": "used"}
    assert render(recorded("guard.threshold_breached", data)) == "[LMX-Core] VRAM threshold (85%) breached."
    data |= {"page_at": 0.855, "fraction": 0.7402}
    assert render(recorded("guard.threshold_cleared", data)) == (
        "[LMX-Core] VRAM threshold (85.5%) cleared, 74.02% are used."
    )


def test_a_change_of_the_limit_in_force_has_a_line_of_its_own() -> None:
    data = {"name": "memory_limit", "from_bytes": 24 * 10**9, "to_bytes": 16 * 10**9, "reason": "other_programs"}
    assert render(recorded("guard.threshold_breached", data)) == (
        "[LMX-Core] Memory limit lowered from 24GB to 16GB (other_programs)."
    )
    data |= {"from_bytes": 16 * 10**9, "to_bytes": 24 * 10**9, "reason": "recovered"}
    assert render(recorded("guard.threshold_cleared", data)) == (
        "[LMX-Core] Memory limit raised from 16GB to 24GB (recovered)."
    )


@pytest.mark.parametrize("key", NAMED, ids=str)
def test_a_template_for_a_name_has_only_fields_that_the_event_has(key: tuple[str, str]) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(NAMED[key]) if field}
    assert fields <= set(CATALOGUE[key[0]].data.__struct_fields__)
    assert render(recorded(key[0], {"name": key[1]})).startswith("[LMX-")


def test_a_type_of_a_newer_program_has_a_line_too() -> None:
    assert render(recorded("guard.new_thing", {"a": 1, "b\x1b": "\x1b[2J"})) == (
        "[LMX-Guard] guard.new_thing a=1 b\ufffd=\ufffd[2J"
    )


@given(text=st.text(st.characters(categories=["C", "Z", "L", "S"]), max_size=300))
def test_no_text_of_a_client_forges_lines_or_reaches_the_terminal(text: str) -> None:
    for event in (
        recorded("request.failed", {"status": 500, "code": text, "message": [text]}, request=text, model=text),
        recorded("operator.commanded", {"command": text, "arguments": {text: {text: text}}, "via": text}),
        recorded(f"x.{text}", {text: text}),
    ):
        line = render(event)
        assert line.isprintable()
        assert len(line) < 1_000


def test_long_values_are_cut() -> None:
    line = render(recorded("model.load_failed", {"path": "/m", "error": "x" * 10_000}))
    assert line.endswith("x... (error)")
    assert len(line) < 250
