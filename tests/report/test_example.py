"""The example in reports/: who knows only it can say what happened, what it cost, what was done, and what to change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from lmx_ledger.report.answers import QUESTIONS
from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import markdown
from lmx_ledger.report.text import clock, lasted, moment
from lmx_ledger.report.write import json_of, read_json
from tests.report.reading import Page

REPORTS: Final = Path(__file__).parents[2] / "reports"
DATA: Final[dict[str, Any]] = json.loads((REPORTS / "example.json").read_text())
HEADER: Final = DATA["header"]
TOTAL: Final = DATA["total"]

WANTED: Final[dict[str, Callable[[], list[str]]]] = {
    "what": lambda: [HEADER["title"], f"{TOTAL['requests']:,} requests", f"{sum(TOTAL['refused'].values()):,} refused"],
    "when": lambda: [moment(HEADER["started"])],
    "noticed": lambda: [clock(HEADER["detected"]), str(HEADER["opened_by"][0]), lasted(HEADER["to_acknowledge_s"])],
    "who": lambda: [f"{DATA['sessions_affected']:,} of {DATA['sessions_in_all']:,} sessions", "lmx-demo"],
    "long": lambda: [lasted(HEADER["duration_s"]), lasted(HEADER["to_mitigate_s"]), moment(HEADER["until"])],
    "cost": lambda: [f"{sum(TOTAL['refused'].values()):,} refused", f"{TOTAL['slow']:,} late"],
    "done": lambda: [DATA["acts"][0]["what"][1:].partition(" (")[0]],
    "helped": lambda: [f"{len(DATA['acts'])} act", DATA["acts"][0]["text"]],
    "cause": lambda: [DATA["hypotheses"][0]["title"], f"{DATA['hypotheses'][0]['score']:.2f}"],
    "change": lambda: [DATA["actions"][0]["what"]],
}
"""What the answer to each of the ten questions must hold, from fields of the JSON alone."""


def test_it_is_a_rehearsal_that_hit_somebody_and_is_over() -> None:
    assert HEADER["drill"]
    assert not HEADER["open"]
    assert sum(TOTAL["refused"].values()) > 10
    assert DATA["acts"]
    assert DATA["hypotheses"][0]["title"] == "flood of new sessions"


@pytest.mark.parametrize("key", QUESTIONS)
def test_its_fields_answer_each_of_ten_questions_and_its_pages_say_the_same(key: str) -> None:
    (answer,) = (one["text"] for one in DATA["answers"] if one["key"] == key)
    wanted = WANTED[key]()
    assert wanted
    for words in wanted:
        assert words in answer, (words, answer)
    page = Page((REPORTS / "example.html").read_text()).text
    assert answer in " ".join(page.split())


def test_its_pages_are_made_of_its_json_and_of_nothing_else() -> None:
    document = read_json((REPORTS / "example.json").read_bytes())
    assert html(document) == (REPORTS / "example.html").read_text()
    assert markdown(document) == (REPORTS / "example.md").read_text()
    assert json_of(document) == (REPORTS / "example.json").read_bytes()


def test_it_names_no_machine() -> None:
    for form in ("html", "md", "json"):
        text = (REPORTS / f"example.{form}").read_text()
        for trace in ("/tmp/", "/root/", "/Users/"):
            assert trace not in text


def test_the_readme_quotes_it() -> None:
    readme = (REPORTS.parent / "README.md").read_text()
    quoted = " ".join(line.removeprefix("> ") for line in readme.splitlines() if line.startswith("> "))
    answers = " ".join(one["text"] for one in DATA["answers"])
    for part in quoted.split(" [...] "):
        assert part in answers
