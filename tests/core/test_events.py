"""The catalogue is what the contract says, and an event is public in the contract's form."""

import re

import msgspec
import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import CATALOGUE, EventType, Recorded, Severity

CONTRACT_ROOMS = {
    *("daemon", "engine", "model", "paging", "kv", "request", "guard", "sensor", "breaker", "slo", "incident"),
    *("warmup", "rollout", "drill", "operator", "config", "ledger"),
}


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_each_type_is_named_documented_and_versioned(kind: EventType) -> None:
    room, _, act = kind.name.partition(".")
    assert room in CONTRACT_ROOMS
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", act)
    assert kind.v >= 1
    assert kind.doc.endswith(".")
    assert CATALOGUE[kind.name] is kind


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=lambda kind: kind.name)
def test_the_data_of_each_type_can_be_described_as_json(kind: EventType) -> None:
    (schema,), _ = msgspec.json.schema_components([kind.data])
    assert schema


def test_what_the_contract_promises_of_finished_requests_is_there() -> None:
    assert set(ev.RequestFinished.__struct_fields__) >= {
        *("status", "finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens"),
        *("queue_ms", "ttft_ms", "itl_p95_ms", "wall_ms"),
    }
    assert set(ev.EngineExited.__struct_fields__) >= {"code", "signal", "stderr_tail", "last_acts"}


def test_an_event_knows_its_row_of_the_catalogue() -> None:
    event = ev.Event(data=ev.ModelUnloaded(reason="idle"), stream="model:m0", model="m0")
    assert event.kind is CATALOGUE["model.unloaded"]
    assert event.kind.durable


def test_severities_are_ordered_and_read_by_their_label() -> None:
    assert [s.label for s in sorted(Severity)] == ["debug", "info", "warning", "error", "critical"]
    assert all(Severity.parse(s.label) is s for s in Severity)
    with pytest.raises(ValueError, match="there are debug, info, warning, error, critical"):
        Severity.parse("loud")


def test_the_public_form_has_the_keys_of_the_contract_in_their_order() -> None:
    recorded = Recorded(
        seq=7,
        id="evt_0",
        time_us=1_769_851_800_000_000,
        boot="b",
        type="model.unloaded",
        v=1,
        severity=Severity.INFO,
        stream="model:m0",
        request=None,
        session=None,
        model="m0",
        incident=None,
        cause=3,
        data={"reason": "idle"},
    )
    public = recorded.public()
    assert [*public] == [
        *("seq", "id", "time", "boot", "type", "v", "severity", "stream"),
        *("request", "session", "model", "incident", "cause", "data"),
    ]
    assert (public["time"], public["severity"]) == ("2026-01-31T09:30:00.000000Z", "info")
    assert Recorded.of_public(public) == recorded
