"""What the page for operators says of each rule is what a replay does."""

import re
from pathlib import Path

from lmx_ledger.incident.rules import BEARS_ON

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_page_says_of_each_rule_which_part_it_bears_on() -> None:
    told: dict[str, tuple[str, ...]] = {}
    for keys, parts in re.findall(r"^\| (`[^|]+`) \| ((?:exact|estimated)[^|]*) \|", PAGE.read_text(), re.M):
        told |= dict.fromkeys(re.findall(r"`([a-z_.]+)`", keys), tuple(parts.strip().split(", ")))
    assert told == dict(BEARS_ON)
