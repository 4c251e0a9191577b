"""Whatever is in names, errors and titles: no form of a report becomes anything but text of it."""

import re
from typing import Any

import msgspec
import pytest

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.assemble import assemble
from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import escaped, markdown
from lmx_ledger.report.model import Evidence, Hypothesis, Incident, Postmortem, TimelineLine, WhatIf
from lmx_ledger.report.write import json_of
from tests.report import parts
from tests.report.reading import Page

HOSTILE = {
    "html": "<script>alert(1)</script><img src=https://evil.example/x onerror=alert(1)>\"'><svg onload=alert(1)>",
    "end of style": "</style></title></svg></text></desc><b>bold</b><!-- -->]]>",
    "markdown": "[click](https://evil.example) **b** _i_ `c` | cell | # h\n\n# heading\n- item\n```\n<b>",
    "escapes": "\x1b[31mred\x1b[0m\x1b]8;;https://evil.example\x07link\x1b]8;;\x07\x00\x08\x7f\x9b",
    "right to left": "\u202egnp.exe\u202c \u2066isolate\u2069 \u200f\u061c שלום עולם مرحبا",
    "long": "W" * 10_000,
    "combining": "e" + "\u0301" * 10_000,
    "breaks": "one\r\ntwo\u2028three\u2029four\x85five\x0bsix",
    "template": "{{ 7 * 7 }} {% raw %} {# c #} ${x} %s {0}",
    "surrogate": "half \ud800 and \udfff",
    "nothing": "",
}


def document_of(text: str) -> Postmortem:
    """One in which every field that can hold a text holds this one."""
    events = [with_text(event, text) for event in [*parts.paging_storm(), *more(text)]]
    incident = Incident(
        id=text,
        title=text,
        severity=text,
        status=text,
        models=(text, text),
        started_us=parts.START_US,
        detected_us=parts.START_US,
        resolved_us=parts.START_US + 900 * parts.SECOND,
        opened_by=(events[0].seq,),
    )
    line = TimelineLine(at_us=parts.START_US, seq=1, last_seq=9, kind=text, severity=text, text=text, count=4)
    guess = Hypothesis(title=text, score=0.5, sentence=text, evidence=(Evidence(text=text, seqs=(1, 2)),))
    if_ = WhatIf(setting=text, recorded=text, replayed=text, difference=text)
    integrity = msgspec.structs.replace(parts.integrity(events), head_hash=text, verify=text)
    return assemble(incident, [line], [guess], events, what_if=[if_], integrity=integrity)


def with_text(event: Recorded, text: str) -> Recorded:
    data = {key: text if isinstance(value, str) and key not in KEPT else value for key, value in event.data.items()}
    named = {key: text if getattr(event, key) is not None else None for key in ("session", "model")}
    return msgspec.structs.replace(event, data=data, **named)


KEPT = {"from", "to"}
"""Of the guard's stages: words of our own."""


def more(text: str) -> list[Recorded]:
    book = parts.Book(90_000)
    named: dict[str, Any] = {"model": text}
    book.add("engine.exited", 5, **named, expected=False, signal=text, last_acts=[text], hung=False, stderr_tail=text)
    book.add("breaker.opened", 6, **named, name=text, failures=4, for_s=2.0, reason=text)
    book.add("model.load_failed", 7, **named, path=text, error=text)
    book.add("sensor.unavailable", 8, sensor=text, error=text)
    book.add("guard.threshold_breached", 9, name=text, reason=text, page_at=0.85)
    book.add("guard.model_shed", 10, **named, priority=0, bytes=1, primary=text)
    book.add("operator.commanded", 11, command=text, arguments={text: text}, via=text)
    book.add("request.rejected", 12, request=text, session=text, status=429, code=text, message=text, route=text)
    book.add("request.failed", 13, request=text + "x", session=text, code=text, message=text, wall_ms=9e9)
    return book.events


@pytest.fixture(scope="module", params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> tuple[str, Postmortem]:
    text = HOSTILE[request.param]
    return text, document_of(text)


def test_the_page_is_whole_and_has_no_element_of_theirs(hostile: tuple[str, Postmortem]) -> None:
    page = html(hostile[1])
    read, plain = Page(page), Page(html(document_of("name")))
    assert not read.open
    assert not read.wrong
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in plain.elements}
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
    assert "style" not in {key for _, attributes in read.elements for key in attributes}


def test_the_page_fetches_nothing_and_runs_nothing(hostile: tuple[str, Postmortem]) -> None:
    page = html(hostile[1])
    assert not Page(page).addresses
    assert "<script" not in page.lower()
    assert "@import" not in page
    assert {match.group(1)[0] for match in re.finditer(r"url\(([^)]+)\)", page)} <= {"#"}
    assert "default-src 'none'" in page


def test_nothing_invisible_is_in_any_form(hostile: tuple[str, Postmortem]) -> None:
    for form in (html(hostile[1]), markdown(hostile[1]), json_of(hostile[1]).decode()):
        assert all(c.isprintable() or c == "\n" for c in form)


def test_markdown_has_its_own_structure_and_no_other(hostile: tuple[str, Postmortem]) -> None:
    lines, usual = markdown(hostile[1]).split("\n"), markdown(document_of("name")).split("\n")
    headings = [line for line in lines if line.startswith("#")][1:]
    assert headings == [line for line in usual if line.startswith("#")][1:]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| ")]
    assert set(bars) <= {len(re.findall(r"(?<!\\)\|", line)) for line in usual if line.startswith("| ")}
    text = "\n".join(lines)
    assert not re.search(r"(?<!\\)(<|`|\]\()", text)
    assert not re.search(r"(?<!\\)://", text)


def test_long_texts_are_cut(hostile: tuple[str, Postmortem]) -> None:
    assert len(html(hostile[1])) < 600_000
    assert len(hostile[1].header.title) <= 400


@pytest.mark.parametrize("start", ["- a", "+ a", "1. a", "12) a", "=== a", "# a", "> a", "* a"])
def test_no_text_begins_a_block_of_markdown(start: str) -> None:
    assert not re.match(r"(-|\+|=|#|>|\*|\d+[.)]) ?", escaped(start))


def test_no_text_leaves_its_figure() -> None:
    page = Page(html(document_of("W" * 10_000)))
    wide = 0.0
    for tag, attributes in page.elements:
        if tag == "svg":
            wide = float((attributes["viewbox"] or "").split()[2])
        elif tag in {"rect", "text"} and (x := attributes.get("x")) is not None:
            assert -0.1 <= float(x) <= wide + 0.1
            assert float(x) + float(attributes.get("width") or 0) <= wide + 0.1
