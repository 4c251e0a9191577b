"""What-if rows of a postmortem, from recorded faults: which settings, what they say, the same bytes every time."""

import re
from pathlib import Path

import pytest

from lmx_ledger.ledger.query import Reader
from lmx_ledger.report.from_ledger import FORMS, as_form, postmortem
from lmx_ledger.report.model import Postmortem
from tests.incident.parts import NAMES, Replayed, load, observed, scenario
from tests.report.reading import Page

SETTINGS = {
    "paging-storm": ["memory.limit", "memory.page_at"],
    "flood": ["queue.max_running", "guard.queue_wait"],
    "thermal": ["context.safe_mode_tokens"] * 2,
    "swap": ["context.safe_mode_tokens", "context.safe_mode_tokens", "guard.exit_after"],
    "bad-config": ["queue.max_waiting"],
    "long-prompts": ["context.max_tokens"],
    "engine-hang": [],
    "crash-loop": [],
    "broken-prefix": [],
}


def report_of(name: str, folder: Path) -> Postmortem:
    events, _ = scenario(name)
    path = folder / "ledger.db"
    load(path, events)
    reader = Reader.open(path)
    (incident,) = Replayed().feed(observed(events)).state.all()
    try:
        once, again = (postmortem(path, reader, incident, events[-1].time_us + 1) for _ in range(2))
    finally:
        reader.close()
    assert [as_form(once, form) for form in FORMS] == [as_form(again, form) for form in FORMS]
    return once


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_bear_on_the_trouble_are_tried(name: str, tmp_path: Path) -> None:
    document = report_of(name, tmp_path)
    tried = [one.setting.partition(" = ")[0] for one in document.what_if]
    # Those of the likeliest kind come first.
    assert tried[: len(SETTINGS.get(name, ()))] == SETTINGS.get(name, [])
    for one in document.what_if:
        assert " requests answered" in one.recorded
        assert " requests answered" in one.replayed
        # Either figures with the model's error, or that nobody can tell, or that nothing changes, with the error.
        assert "\N{PLUS-MINUS SIGN}" in one.difference or "Too rough to tell" in one.difference


def test_a_storm_names_the_limit_that_would_have_prevented_it_in_every_form(tmp_path: Path) -> None:
    document = report_of("paging-storm", tmp_path)
    limit, later = document.what_if
    assert re.fullmatch(r"memory\.limit = \d+ MB", limit.setting)
    assert "page-in" in limit.recorded
    assert limit.replayed.endswith(("0 page-ins", "1 page-in"))
    assert "page-ins" in limit.difference.partition("Estimated: ")[2]
    assert later.setting == "memory.page_at = 0.95, memory.page_to = 0.9"
    page = Page(as_form(document, "html").decode())
    text = as_form(document, "md").decode()
    for form in (page.text, text):
        assert "What if" in form
        assert "how far that model is off under the settings that were" in " ".join(form.split())
        assert limit.setting in form


def test_where_no_setting_bears_on_it_nothing_is_made_up(tmp_path: Path) -> None:
    document = report_of("engine-hang", tmp_path)
    assert document.what_if == []
    assert "## What if" not in as_form(document, "md").decode()
