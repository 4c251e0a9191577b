"""Whatever is in names, codes and titles: no form of a digest becomes anything but text of it."""

import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import msgspec
import pytest

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.digest.from_ledger import as_form
from lmx_ledger.report.digest.html import html
from lmx_ledger.report.digest.markdown import markdown
from lmx_ledger.report.digest.model import Digest, Figure, WhatIf
from lmx_ledger.report.figures import drawn
from lmx_ledger.report.write import json_of
from tests.report.digest import parts
from tests.report.reading import Page
from tests.report.test_figures import held
from tests.report.test_hostile import HOSTILE

TEXTS = {name: text for name, text in HOSTILE.items() if name != "surrogate"}
"""A lone surrogate reaches no ledger: its JSON cannot hold one."""


def with_text(event: Recorded, text: str) -> Recorded:
    """Wherever a stranger's words may stand, these do."""
    theirs = {"client", "code", "message", "title", "breaker", "reason", "error", "victims", "models", "signal"}
    data = {
        key: ([text] if isinstance(value, list) else text) if key in theirs and value is not None else value
        for key, value in event.data.items()
    }
    if event.type.startswith("kv."):
        # Of these the first one has to stay what rules go by, so that they speak of the others.
        data["reason"] = event.data["reason"]
    named = {key: text if getattr(event, key) is not None else None for key in ("session", "model")}
    return msgspec.structs.replace(event, data=data, **named)


def written(folder: Path, text: str) -> Digest:
    events = [with_text(event, text) for event in parts.two_weeks()]
    events += [with_text(parts.at(3.0, "request.failed", model="m", code="x", status=500), text)]
    document = parts.made(parts.write(folder, events))
    row = Figure(key=text, name=text, unit="ms", recorded=1.0, modelled=2.0, estimated=3.0, error=0.5, too_rough=False)
    guess = WhatIf(setting=text, since=document.header.since, until=document.header.until, share=0.5, figures=[row])
    changes = [
        msgspec.structs.replace(one, what_if=guess, what=text, why=text, config=text) for one in document.changes
    ]
    incidents = [msgspec.structs.replace(one, cause=text, report=one.id) for one in document.incidents]
    return msgspec.structs.replace(document, changes=changes, incidents=incidents)


@pytest.fixture(scope="module", params=TEXTS)
def hostile(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Digest:
    return written(tmp_path_factory.mktemp("home"), TEXTS[request.param])


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Digest:
    return written(tmp_path_factory.mktemp("home"), "name")


def test_the_page_is_whole_has_no_element_of_theirs_and_links_to_its_folder_alone(
    hostile: Digest, usual: Digest
) -> None:
    page = html(hostile)
    read, plain = Page(page), Page(html(usual))
    assert not read.open
    assert not read.wrong
    assert {tag for tag, _ in read.elements} <= {tag for tag, _ in plain.elements}
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on") or key == "style"]
    assert read.addresses
    assert all(address.startswith("./inc_") for address in read.addresses)
    assert "<script" not in page.lower()
    assert {match.group(1)[0] for match in re.finditer(r"url\(([^)]+)\)", page)} <= {"#"}
    assert "default-src 'none'" in page


def test_nothing_invisible_is_in_any_form(hostile: Digest) -> None:
    for form in (html(hostile), markdown(hostile), json_of(hostile).decode()):
        assert all(c.isprintable() or c == "\n" for c in form)


def test_markdown_has_its_own_structure_and_no_other(hostile: Digest, usual: Digest) -> None:
    lines, plain = markdown(hostile).split("\n"), markdown(usual).split("\n")
    assert [line for line in lines if line.startswith("#")] == [line for line in plain if line.startswith("#")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in plain if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| ")} <= set(widths)
    text = "\n".join(lines)
    assert not re.search(r"(?<!\\)(<|`|\]\()", text)
    assert not re.search(r"(?<!\\)://", text)


def test_long_texts_are_cut(hostile: Digest) -> None:
    assert len(html(hostile)) < 400_000
    assert len(json_of(hostile)) < 400_000


def test_no_label_lies_on_another_or_leaves_its_figure(hostile: Digest) -> None:
    for chart in hostile.figures:
        held(drawn(chart))


def test_every_figure_has_a_title_and_a_description_that_it_names(usual: Digest) -> None:
    assert [one.key for one in usual.figures] == ["budgets", "incidents", "costs", "requests", "ttft", "itl"]
    for one in usual.figures:
        svg = Xml.fromstring(drawn(one))
        assert svg.attrib["role"] == "img"
        ids = {child.attrib["id"]: child.text for child in svg if child.tag in {"title", "desc"}}
        assert svg.attrib["aria-labelledby"].split() == list(ids)
        assert all(ids.values())


def test_the_json_is_read_back_as_it_was(usual: Digest) -> None:
    from lmx_ledger.report.digest.write import read_json  # noqa: PLC0415

    assert read_json(as_form(usual, "json")) == usual
