"""The load is what a daemon writes for the requests that it serves."""

from collections import defaultdict
from itertools import islice

from lmx_ledger.bench.served import served_requests
from lmx_ledger.core import events as ev


def test_every_request_is_told_from_its_arrival_to_its_end() -> None:
    told: dict[str | None, list[ev.Event]] = defaultdict(list)
    for event in islice(served_requests(), 2_000):
        told[event.request].append(event)
    *whole, _ = told.values()
    for events in whole:
        kinds = [event.kind.name for event in events if event.kind.name != "request.queued"]
        assert kinds == ["request.received", "request.admitted", "request.first_token", "request.finished"]
        assert len({(event.session, event.model, event.stream) for event in events}) == 1
    sessions = {events[0].session for events in whole}
    assert 5 < len(sessions) < len(whole) / 5
