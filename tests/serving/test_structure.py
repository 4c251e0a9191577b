"""Reasoning, content and tool calls are told apart however the text is cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.engine.protocol import Dialect
from lmx_ledger.serving.structure import Part, Stretch, StructureSplitter

QWEN = Dialect("json_tools", "<tool_call>", "</tool_call>", "<think>", "</think>")
MISTRAL = Dialect("mistral", "[TOOL_CALLS]", "", None, None)

ANSWER = "<think>let me see</think>\n\nI call <tool_call>{1}</tool_call>\n<tool_call>{2}</tool_call> done"


def split(
    pieces: list[str], dialect: Dialect = QWEN, *, tools: bool = True, begin: Part = Part.CONTENT
) -> list[Stretch]:
    splitter = StructureSplitter(dialect, tools=tools, begin=begin)
    out = [stretch for piece in pieces for stretch in splitter.feed(piece)]
    out += splitter.finish()
    merged: list[Stretch] = []
    for stretch in out:
        if merged and stretch.part is merged[-1].part is not Part.TOOL:
            merged[-1] = merged[-1]._replace(text=merged[-1].text + stretch.text)
        else:
            merged.append(stretch)
    return merged


def test_an_answer_comes_apart_at_its_markers() -> None:
    assert split([ANSWER]) == [
        Stretch(Part.REASONING, "let me see"),
        Stretch(Part.CONTENT, "I call "),
        Stretch(Part.TOOL, "{1}"),
        Stretch(Part.TOOL, "{2}"),
        Stretch(Part.CONTENT, "done"),
    ]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=20))
def test_where_the_pieces_are_cut_does_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(ANSWER)]
    pieces = [ANSWER[a:b] for a, b in itertools.pairwise(edges)]
    assert split(pieces) == split([ANSWER])


@given(st.lists(st.text(max_size=5), max_size=8))
def test_without_markers_the_text_is_the_content(pieces: list[str]) -> None:
    plain = Dialect(None, None, None, None, None)
    assert "".join(stretch.text for stretch in split(pieces, plain)) == "".join(pieces)


def test_tool_markers_are_ordinary_text_when_no_tools_were_offered() -> None:
    assert split(["<tool_call>x</tool_call>"], tools=False) == [Stretch(Part.CONTENT, "<tool_call>x</tool_call>")]


def test_an_answer_may_begin_inside_its_reasoning() -> None:
    assert split(["hm</think>yes"], begin=Part.REASONING) == [
        Stretch(Part.REASONING, "hm"),
        Stretch(Part.CONTENT, "yes"),
    ]


def test_a_call_without_its_end_is_marked_as_open() -> None:
    assert split(["<tool_call>{1"]) == [Stretch(Part.TOOL, "{1", closed=False)]


def test_a_dialect_without_an_end_marker_closes_with_the_answer() -> None:
    assert split(["[TOOL_CALLS][{}]"], MISTRAL) == [Stretch(Part.TOOL, "[{}]", closed=True)]


def test_what_could_begin_a_marker_is_withheld() -> None:
    splitter = StructureSplitter(QWEN, tools=True)
    assert splitter.feed("a <tool") == [Stretch(Part.CONTENT, "a ")]
    assert splitter.withheld == 5
    assert splitter.feed("box>") == [Stretch(Part.CONTENT, "<toolbox>")]
