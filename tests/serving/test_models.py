"""The table of models: one bound for every line, whenever its model came."""

import pytest

from lmx_ledger.core.errors import QueueFull
from lmx_ledger.serving.models import ModelTable, ServedModel
from lmx_ledger.serving.queue import AdmissionQueue


def model(name: str) -> ServedModel:
    return ServedModel(name, "nowhere", [], AdmissionQueue(1, 8))


@pytest.mark.parametrize("name", ["early", "late"])
async def test_a_new_bound_holds_for_lines_of_models_that_are_there_and_that_come_later(name: str) -> None:
    table = ModelTable([model("early")])
    standing = table.find("early").queue
    first = standing.enter(1)
    standing.enter(1)
    table.hold_waiting(1)
    table.add(model("late"))
    queue = table.find(name).queue
    if name == "late":
        queue.enter(1)
    with pytest.raises(QueueFull):
        queue.enter(1)
    assert standing.waiting == 2, "who stood in line stays"
    first.leave()
    assert standing.waiting == 1
