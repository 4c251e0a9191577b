"""Every type of event has an example, and every example is one that the ledger can keep."""

import msgspec
import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import CATALOGUE
from lmx_ledger.core.examples import EXAMPLES, example_of
from lmx_ledger.ledger.append import draft
from lmx_ledger.ledger.ticket import Place


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_type_has_an_example_that_can_be_kept_and_read_back(name: str) -> None:
    example = example_of(name)
    kept = draft(Place(), ev.Event(data=example, stream="x"), 1)
    assert kept.type == name
    assert msgspec.json.decode(kept.data, type=type(example)) == example


def test_there_is_one_example_of_each() -> None:
    assert len(EXAMPLES) == len(CATALOGUE)
