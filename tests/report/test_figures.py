"""Figures: whatever the data, ticks are round, nothing lies on anything else, and each says what it is."""

import re
from itertools import pairwise
from xml.etree import ElementTree as Xml

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.report.assemble import assemble
from lmx_ledger.report.chart import Bar, BarChart, Level, Point, Series, TimeChart, ValueChart
from lmx_ledger.report.figures import drawn
from lmx_ledger.report.svg import fitted, width_of
from lmx_ledger.report.ticks import scale_of, time_ticks
from tests.report import parts

NOON = parse_rfc3339("2026-03-14T11:59:57Z")
SPANS = {"seconds": 9, "minutes": 600, "an hour": 3_600, "a day": 86_400, "a week": 604_800, "months": 9_000_000}


def chart(span_s: int, values: list[float | None], **changed: object) -> TimeChart:
    points = [(NOON + n * span_s * 1_000_000 // max(len(values), 1), value) for n, value in enumerate(values)]
    fields = {
        "key": "k",
        "title": "Title",
        "about": "About it.",
        "unit": "ms",
        "from_us": NOON,
        "until_us": NOON + span_s * 1_000_000,
        "series": [Series(label="p95", points=points)],
        **changed,
    }
    return TimeChart(**fields)  # type: ignore[arg-type]


def texts(svg: str) -> list[tuple[float, float, str, str]]:
    """Left, right, line and text of each."""
    found = []
    for one in Xml.fromstring(svg).iter("text"):
        x, wide = float(one.attrib["x"]), width_of(one.text or "")
        left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[one.attrib.get("text-anchor", "start")]
        found.append((left, left + wide, one.attrib["y"], one.text or ""))
    return found


@pytest.mark.parametrize("span", SPANS)
def test_times_are_round_and_few_whatever_the_span(span: str) -> None:
    ticks = time_ticks(NOON, NOON + SPANS[span] * 1_000_000)
    assert 1 <= len(ticks) <= 9
    assert any(tick.date for tick in ticks)
    if SPANS[span] < 86_400:
        assert all(re.fullmatch(r"\d\d:\d\d(:\d\d)?", tick.label) for tick in ticks)


@given(some.integers(1, 40_000_000), some.integers(0, 10**10))
def test_ticks_of_any_span_are_within_it_and_in_order(span_s: int, shift_s: int) -> None:
    from_us = shift_s * 1_000_000
    ticks = time_ticks(from_us, from_us + span_s * 1_000_000)
    assert [tick.at_us for tick in ticks] == sorted({tick.at_us for tick in ticks})
    assert all(from_us <= tick.at_us <= from_us + span_s * 1_000_000 for tick in ticks)
    assert len(ticks) <= 9


@given(some.floats(0, 1e15), some.sampled_from(["ms", "bytes", "x", ""]))
def test_an_axis_has_room_for_its_highest_value(highest: float, unit: str) -> None:
    scale = scale_of(highest, unit)
    assert scale.top >= highest * (1 - 1e-6)
    labels = [text for _, text in scale.ticks]
    assert len(labels) == len(set(labels)) <= 8


def held(svg: str) -> None:
    """No text lies on another of its line, and none leaves the figure."""
    wide, high = map(float, Xml.fromstring(svg).attrib["viewBox"].split()[2:])
    found = sorted(texts(svg), key=lambda one: (one[2], one[0]))
    for left, right, y, text in found:
        assert left >= -0.5, text
        assert right <= wide + 0.5, text
        assert 8 <= float(y) <= high, text
    for one, other in pairwise(found):
        assert one[2] != other[2] or one[1] <= other[0] + 0.5, (one, other)


@pytest.mark.parametrize("span", SPANS)
def test_no_label_lies_on_another_or_leaves_the_figure(span: str) -> None:
    values: list[float | None] = [5.0, 40.0, None, 12.0, 90.0]
    held(drawn(chart(SPANS[span], values, levels=[Level(label="objective", value=60.0)])))


@pytest.mark.parametrize("stretched", [1, 60, 3_000], ids=["minutes", "hours", "weeks"])
@pytest.mark.parametrize("model", ["m", "qwen3-coder-30b", "W" * 300, "模型" * 80], ids=["short", "usual", "W", "wide"])
def test_every_figure_of_a_storm_has_its_texts_apart(stretched: int, model: str) -> None:
    events = [
        msgspec.structs.replace(
            event,
            time_us=parts.START_US + (event.time_us - parts.START_US) * stretched,
            model=event.model and f"{model}{event.model[:1]}",
        )
        for event in parts.paging_storm()
    ]
    until_us = parts.START_US + 900 * parts.SECOND * stretched
    for one in assemble(parts.incident(resolved_us=until_us, mitigated_us=None), [], [], events).figures:
        held(drawn(one))


def test_every_figure_has_a_title_and_a_description_that_it_names() -> None:
    events = parts.paging_storm()
    document = assemble(parts.incident(), [], [], events)
    for one in document.figures:
        svg = Xml.fromstring(drawn(one))
        assert svg.attrib["role"] == "img"
        ids = {child.attrib["id"]: child.text for child in svg if child.tag in {"title", "desc"}}
        assert svg.attrib["aria-labelledby"].split() == list(ids)
        assert all(ids.values())


def test_all_seven_figures_of_a_storm_have_data() -> None:
    document = assemble(parts.incident(), [], [], parts.paging_storm())
    assert [one.key for one in document.figures] == ["ttft", "itl", "queue", "memory", "burn", "lanes", "worst"]
    assert not [one.key for one in document.figures if one.empty]


def test_the_memory_figure_has_the_account_and_the_page_outs() -> None:
    document = assemble(parts.incident(), [], [], parts.paging_storm())
    memory = next(one for one in document.figures if one.key == "memory")
    assert isinstance(memory, TimeChart)
    assert [one.label for one in memory.series][:3] == ["used", "limit", "weights"]
    assert memory.marks
    assert memory.levels[0].value == 0.85 * 32 * parts.GB


def test_a_figure_without_data_says_so() -> None:
    svg = drawn(chart(60, [], empty="Nothing was measured."))
    assert "Nothing was measured." in [text for *_, text in texts(svg)]
    assert "Nothing was measured." in drawn(
        BarChart(key="b", title="t", about="a", parts=[], bars=[], empty="Nothing was measured.")
    )


def test_a_value_without_neighbours_is_a_dot_and_a_gap_is_no_line() -> None:
    svg = drawn(chart(60, [5.0, None, 7.0, None, 9.0]))
    assert svg.count("<circle") - svg.count('class="pd"') == 3


def test_an_objective_far_above_everything_does_not_flatten_the_figure() -> None:
    svg = drawn(chart(60, [20.0, 25.0], levels=[Level(label="objective 30 s", value=30_000.0)]))
    assert "objective 30 s (above this figure)" in [text for *_, text in texts(svg)]
    assert "25" in [text for *_, text in texts(svg)]


def test_a_bar_is_as_long_as_its_parts() -> None:
    bars = [Bar(label="a", values=[10.0, 20.0, 30.0]), Bar(label="b", values=[0.0, 0.0, 0.0])]
    svg = Xml.fromstring(drawn(BarChart(key="b", title="t", about="a", parts=["q", "p", "d"], bars=bars)))
    wide = [float(one.attrib["width"]) for one in svg.iter("rect") if one.attrib["class"] in {"f0", "f1", "f2"}]
    assert wide[3:] == pytest.approx([wide[3], 2 * wide[3], 3 * wide[3]], abs=0.2)


@given(some.text(max_size=60), some.floats(0, 400))
def test_a_text_that_is_fitted_fits(text: str, room: float) -> None:
    assert width_of(fitted(text, room)) <= room or fitted(text, room) == ""
    if width_of(text) <= room:
        assert fitted(text, room) == text


def swept(values: list[float | None], **changed: object) -> ValueChart:
    points = [Point(x=float(n), label=f"{n * 20} MB", value=value) for n, value in enumerate(values)]
    fields = {"key": "v", "title": "Title", "about": "About.", "unit": "", "setting": "memory.limit", "points": points}
    return ValueChart(**{**fields, **changed})  # type: ignore[arg-type]


@given(
    some.lists(some.none() | some.floats(0, 1e7), min_size=1, max_size=32),
    some.floats(0, 1e7),
    some.none() | some.floats(0, 1e7),
    some.none() | some.floats(-5, 40),
    some.sampled_from(["", "ms"]),
)
def test_a_figure_over_values_has_a_dot_for_each_and_nothing_outside_or_over_another_text(
    values: list[float | None], error: float, recorded: float | None, in_force: float | None, unit: str
) -> None:
    svg = drawn(swept(values, error=error, recorded=recorded, in_force=in_force, unit=unit))
    root = Xml.fromstring(svg)
    wide, high = map(float, root.attrib["viewBox"].split()[2:])
    known = [value for value in values if value is not None]
    dots = list(root.iter("circle"))
    assert len(dots) == len(known)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= wide
        assert 0 <= float(dot.attrib["cy"]) <= high
    for one in root.iter("polygon"):
        for pair in one.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert -1 <= x <= wide + 1
            assert -1 <= y <= high + 1
    lines: dict[str, list[tuple[float, float]]] = {}
    for left, right, line, _ in texts(svg):
        assert right <= wide + 1
        lines.setdefault(line, []).append((left, right))
    if known:
        for found in lines.values():
            assert all(a[1] <= b[0] + 1 for a, b in pairwise(sorted(found)))


def test_a_figure_over_values_says_what_was_and_how_far_off_it_may_be() -> None:
    svg = drawn(swept([24, 8, 0], error=2.0, recorded=23.0, in_force=0.5))
    words = " ".join(text for _, _, _, text in texts(svg))
    assert "recorded: 23" in words
    assert "how far the model is off: 2" in words
    assert "memory.limit" in words
    assert "memory.limit = 20 MB: 8" in svg
    assert "Nothing was estimated." in drawn(swept([None]))
