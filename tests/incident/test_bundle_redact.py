"""What of an event gets out of the machine, and what never does."""

import gzip
import hashlib
import hmac
import json
import sqlite3
import typing
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.core.events import CATALOGUE, Recorded
from lmx_ledger.core.examples import EXAMPLES, example_of
from lmx_ledger.core.ids import new_request_id
from lmx_ledger.incident import rules
from lmx_ledger.incident.bundle.fields import CONFIG_TEXT, FIELDS, KEPT, PHRASES, RENAMED, Rule
from lmx_ledger.incident.bundle.redact import CHOICES, LEFT_OUT, Redactor, titles_of
from lmx_ledger.ledger.event_id import event_id
from lmx_ledger.ledger.filter import EventFilter
from tests.incident.bundles import Home, data_of, home_of, home_of_scenario, strings_in
from tests.incident.parts import NAMES, recorded, scenario

KEY: Final = bytes(range(32))
INCIDENT: Final = "inc_01KD3Y9A5S6D7F8G9H0J1K2L3M"
VERBATIM: Final = frozenset({Rule.WORD, Rule.MODEL, Rule.ROUTE, Rule.KEYS})
"""Rules by which a text that has the form stays as it is."""


def an_event(data: ev.EventData, **more: Any) -> Recorded:
    event = recorded(7, 1.0, ev.Event(data=data, stream=more.pop("stream", "s"), **more))
    return msgspec.structs.replace(event, id=event_id(event.time_us, b"0123456789"))


def shown(event: Recorded) -> Recorded:
    return Redactor(KEY, INCIDENT).event(event)


def holds_text(kind: Any) -> bool:
    """Whether a value of that type can be, or have in it, a text."""
    return kind in {str, Any, dict, list} or any(holds_text(part) for part in typing.get_args(kind))


def text_fields() -> list[tuple[str, str]]:
    return [
        (name, field.encode_name)
        for name, kind in CATALOGUE.items()
        for field in msgspec.structs.fields(kind.data)
        if holds_text(field.type) or field.name == "pid"
    ]


# --- the table -------------------------------------------------------------------------------------------------------


def test_every_field_that_can_hold_text_has_a_rule() -> None:
    assert len(text_fields()) > 100
    assert [one for one in text_fields() if one[1] not in FIELDS.get(one[0], {})] == []


def test_the_table_names_no_field_that_is_not_there() -> None:
    named = [(kind, field) for kind, rules_of in FIELDS.items() for field in rules_of]
    assert [one for one in named if one not in text_fields()] == []


def test_every_key_of_the_configuration_that_can_hold_any_text_has_a_rule() -> None:
    assert {key for key, annotation in config_keys(Config, "") if holds_free_text(annotation)} == set(CONFIG_TEXT)
    assert CHOICES["ledger.synchronous"] == {"NORMAL", "FULL"}
    assert CHOICES["slo.ttft.period"] == {"1d", "7d", "30d"}
    assert CHOICES["memory.limit"] == {"auto"}


def config_keys(section: type[BaseModel], at: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, field in section.model_fields.items():
        inner = next(
            (
                one
                for one in (field.annotation, *typing.get_args(field.annotation))
                if isinstance(one, type) and issubclass(one, BaseModel)
            ),
            None,
        )
        found += config_keys(inner, f"{at}{name}.") if inner else [(f"{at}{name}", field.annotation)]
    return found


def holds_free_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Literal:
        return False
    return annotation is str or any(holds_free_text(part) for part in typing.get_args(annotation))


# --- what never gets out ---------------------------------------------------------------------------------------------

SECRETS = st.one_of(
    st.from_regex(r"[a-z0-9]{12,30}", fullmatch=True),
    st.text(min_size=12, max_size=60),
    st.from_regex(r"/(home|Users)/[a-z]{3,9}/[a-z]{4,9}", fullmatch=True),
)


def planted(value: Any, secret: str) -> Any:
    """A value of that form with the secret in every place where a text is or can be."""
    if isinstance(value, dict):
        return {**{key: planted(inner, secret) for key, inner in value.items()}, "note": secret, "of": [secret]}
    if isinstance(value, list):
        return [*(planted(inner, secret) for inner in value), secret]
    return secret if value is None or isinstance(value, str) else value


@given(example=st.sampled_from(EXAMPLES), secret=SECRETS)
def test_no_secret_in_a_field_that_is_not_kept_gets_out(example: ev.EventData, secret: str) -> None:
    event = an_event(example)
    rules_of = FIELDS.get(event.type, {})
    data = {
        name: value if rules_of.get(name) in KEPT else planted(value, secret)
        for name, value in msgspec.to_builtins(example).items()
    }
    event = msgspec.structs.replace(event, data={**data, "added_later": planted({}, secret)})
    assert [text for text in strings_in(shown(event).public()) if secret in text] == []


@given(example=st.sampled_from(EXAMPLES), secret=SECRETS)
def test_even_a_field_that_is_kept_keeps_only_what_has_its_form(example: ev.EventData, secret: str) -> None:
    event = an_event(example)
    rules_of, told = FIELDS.get(event.type, {}), msgspec.to_builtins(example)
    data = {name: told[name] if rule in VERBATIM else planted(told[name], secret) for name, rule in rules_of.items()}
    assert [text for text in strings_in(shown(data_of(event, **data)).public()) if secret in text] == []
    spaced = f"{secret} and more"
    data = {name: told[name] if rule is Rule.MODEL else planted(told[name], spaced) for name, rule in rules_of.items()}
    assert [text for text in strings_in(shown(data_of(event, **data)).public()) if spaced in text] == []


@given(secret=SECRETS, kind=st.sampled_from(["session", "request", "stream", "boot", "incident", "type"]))
def test_what_an_event_is_about_is_renamed(secret: str, kind: str) -> None:
    spaced = secret if kind in {"session", "request"} else f"{secret} "
    event = msgspec.structs.replace(an_event(example_of("kv.hit")), **{kind: spaced})
    if kind == "session":
        event = msgspec.structs.replace(event, stream=f"session:{spaced}")
    public = shown(event).public()
    assert [text for text in strings_in(public) if secret in text] == []
    if kind == "session":
        assert public["stream"] == f"session:{public['session']}"


def test_text_that_is_recorded_never_gets_out() -> None:
    event = data_of(an_event(example_of("request.received")), prompt="Dear diary", answer={"text": ["Dear reader"]})
    assert shown(event).data["prompt"] == LEFT_OUT
    assert shown(event).data["answer"] == {"text": [LEFT_OUT]}
    unknown = msgspec.structs.replace(event, type="request.recorded", data={"text": "Dear diary", "pid": 4711, "n": 3})
    assert shown(unknown).data["text"] == LEFT_OUT
    assert shown(unknown).data["n"] == 3
    assert shown(unknown).data["pid"] >= 1_000_000_000


def test_no_secret_is_in_the_file_of_a_ledger_that_has_one_in_every_such_field(tmp_path: Path) -> None:
    opener = ev.Event(data=ev.SensorSwapThrash(bytes_per_s=9, window_s=1.0), stream="sensor")
    about = ev.IncidentOpened(
        title="hunter2title",
        severity="warning",
        models=[],
        symptom="swap",
        events=[1],
        started_at="2026-03-08T09:20:00Z",
    )
    story = [recorded(1, 0.0, opener), recorded(2, 0.1, ev.Event(data=about, stream="i", incident=INCIDENT))]
    for number, example in enumerate(EXAMPLES):
        event = an_event(example, session="hunter2session", stream="session:hunter2session")
        if event.type.startswith("incident."):
            continue
        rules_of = FIELDS.get(event.type, {})
        data = {
            name: value if rules_of.get(name) in KEPT else planted(value, f"hunter2{name}")
            for name, value in event.data.items()
        }
        story.append(msgspec.structs.replace(event, seq=number + 3, time_us=event.time_us + number, data=data))
    home = home_of(tmp_path, story)
    text = gzip.decompress(home.file.read_bytes()).decode()
    assert len(text.splitlines()) >= len(story) + 2
    assert str(home.reader.events(EventFilter(limit=1_000))).count("hunter2") > 100
    assert "hunter2" not in text
    home.reader.close()


# --- names -----------------------------------------------------------------------------------------------------------


@given(one=st.text(min_size=1), other=st.text(min_size=1), kind=st.sampled_from(sorted(r.value for r in RENAMED)))
def test_a_name_is_the_same_all_over_a_bundle_and_another_one_elsewhere(one: str, other: str, kind: str) -> None:
    redactor = Redactor(KEY, INCIDENT)
    assert redactor.name(kind, one) == Redactor(KEY, INCIDENT).name(kind, one)
    assert (redactor.name(kind, one) == redactor.name(kind, other)) == (one == other)
    assert redactor.name(kind, one) != Redactor(KEY, INCIDENT[:-1]).name(kind, one)
    assert redactor.name(kind, one) != Redactor(bytes(32), INCIDENT).name(kind, one)
    assert redactor.name(kind, one) not in {
        redactor.name(another.value, one) for another in Rule if another.value != kind
    }


def test_process_numbers_are_none_of_this_machine_and_the_same_process_has_the_same() -> None:
    started, exited = shown(an_event(example_of("engine.started"))), shown(an_event(example_of("engine.exited")))
    assert started.data["pid"] == exited.data["pid"] >= 1_000_000_000
    assert shown(an_event(example_of("engine.restarted"))).data["pid"] != started.data["pid"]


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return home_of_scenario(tmp_path_factory.mktemp("hung"), "engine-hang")


def test_a_guess_at_a_name_cannot_be_held_against_anything_in_the_file(hung: Home) -> None:
    """With a hash of the chain it could: all of an event but a session's name is there to be tried."""
    text = gzip.decompress(hung.file.read_bytes()).decode()
    manifest, *lines, _ = map(json.loads, text.splitlines())
    mine = {event.seq: event for event in hung.reader.events(EventFilter(limit=10_000))}
    assert {line["seq"] for line in lines} <= mine.keys()
    for line in lines:
        true = mine[line["seq"]]
        # An id is made of the hash: the one of the ledger must not be there.
        assert line["id"] != true.id
        assert true.id not in text
        if true.session is not None:
            assert true.session not in text
            unkeyed = hashlib.sha256(true.session.encode()).hexdigest()[:12]
            wrong_key = hmac.new(b"", true.session.encode(), "sha256").hexdigest()[:12]
            assert line["session"].removeprefix("session-") not in {unkeyed, wrong_key}
    with closing(sqlite3.connect(hung.ledger)) as connection:
        hashes = [digest.hex() for (digest,) in connection.execute("SELECT hash FROM event ORDER BY seq")]
    assert [digest for digest in hashes if digest in text] == [hashes[-1]] == [manifest["head_hash"]]


# --- what stays, because reports and replays need it -----------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        "importing mlx_lm",
        "insert 7: 512 tokens, at most 64 more",
        "step 812: 4 rows of up to 1731 tokens",
        "join 1 rows and 3",
        "read 256 tokens of 7, 512 of 2048 are read",
        "go on with 7 behind 256 tokens that were kept",
        "page out all bytes",
        "page out 1024 bytes",
        "page in a layer",
        "loaded llama, 14300000 bytes",
    ],
)
def test_what_a_worker_was_about_to_do_stays(act: str) -> None:
    assert shown(an_event(ev.EngineExited(**exited(act)))).data["last_acts"] == [act]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("load /home/ada/models/m", "load [redacted]"),
        ("failed with 3 rows: RuntimeError: /home/ada is full", "failed with 3 rows: [redacted]"),
        ("step 812: 4 rows of up to 1731 tokens of ada's", "[redacted]"),
        ("whatever", "[redacted]"),
    ],
)
def test_but_not_what_it_says_of_files_and_errors(act: str, said: str) -> None:
    assert shown(an_event(ev.EngineExited(**exited(act)))).data["last_acts"] == [said]


def exited(act: str) -> dict[str, Any]:
    return {
        "pid": 1,
        "code": 1,
        "signal": None,
        "stderr_tail": "",
        "last_acts": [act],
        "expected": False,
        "in_flight": [],
    }


def test_the_last_acts_of_a_run_keep_number_and_type() -> None:
    request = new_request_id()
    crashed = ev.DaemonCrashDetected(
        boot="01BOOT",
        pid=1,
        last_seq=9,
        last_time="2026-03-14T09:26:53.589793Z",
        last_acts=[
            f"7 request.admitted request:{request}",
            "8 kv.saved session:ada",
            "9 engine.exited model:m0",
            "ada",
        ],
    )
    redactor = Redactor(KEY, INCIDENT)
    assert redactor.event(an_event(crashed)).data["last_acts"] == [
        f"7 request.admitted request:{request}",
        f"8 kv.saved session:{redactor.name('session', 'ada')}",
        "9 engine.exited model:m0",
        LEFT_OUT,
    ]


def test_a_refusal_in_safe_mode_is_still_one() -> None:
    told = ev.RequestRejected(status=400, code="context_length_exceeded", message="at most 9 (safe mode)", route="/x")
    assert shown(an_event(told)).data["message"] == "[redacted] (safe mode)"
    assert shown(an_event(told)).data["route"] == LEFT_OUT
    other = msgspec.structs.replace(told, code="invalid_request")
    assert shown(an_event(other)).data["message"] == LEFT_OUT


def test_a_title_is_that_of_its_redacted_symptom() -> None:
    failed = an_event(ev.ModelLoadFailed(path="/home/ada/m", error="/home/ada/m is torn"), model="m1")
    hung = an_event(ev.EngineExited(**{**exited("ready"), "hung": True}), model="m0")
    titles = titles_of([failed, hung], Redactor(KEY, INCIDENT))
    redactor = Redactor(KEY, INCIDENT, titles)

    def title(text: str) -> str:
        opened = ev.IncidentOpened(
            title=text,
            severity="error",
            models=[],
            symptom="load",
            events=[7],
            started_at="2026-03-14T09:26:49.000000Z",
        )
        return str(redactor.event(an_event(opened)).data["title"])

    assert title("m1 cannot be loaded: /home/ada/m is torn") == "m1 cannot be loaded: [redacted]"
    assert title("drill: The worker of m0 hung") == "drill: The worker of m0 hung"
    assert title("ada's own words") == LEFT_OUT


def test_the_program_s_own_words_stay_and_nobody_else_s() -> None:
    for phrase in PHRASES:
        assert shown(an_event(ev.DaemonStopped(reason=phrase, uptime_s=1.0))).data["reason"] == phrase
    assert shown(an_event(ev.DaemonStopped(reason="ada", uptime_s=1.0))).data["reason"] == LEFT_OUT


def test_orders_keep_what_they_are_about() -> None:
    told = ev.OperatorCommanded(
        command="x",
        arguments={"model": "m0", "session": "ada", "incident": INCIDENT, "for_s": 3.0, "n": None},
        via="http",
    )
    redactor = Redactor(KEY, INCIDENT)
    assert redactor.event(an_event(told)).data["arguments"] == {
        "model": "m0",
        "session": redactor.name("session", "ada"),
        "incident": INCIDENT,
        "for_s": LEFT_OUT,
        "n": None,
    }


def test_configuration_keeps_numbers_and_choices_and_still_is_one() -> None:
    config = Config.model_validate(
        {
            "storage": {"home": "/home/ada/.lmx"},
            "ledger": {"retention": "30d, 2GB", "synchronous": "FULL"},
            "memory": {"limit": 24 * 10**9, "page_at": 0.9},
            "sensors": {"script": "/home/ada/script"},
            "server": {"host": "10.1.2.3", "api_keys": ["hunter2hunter2"], "allowed_origins": ["https://ada.example"]},
            "slo": {"ttft": {"period": "1d", "threshold": 3.0}},
            "models": [{"id": "m0", "path": "/home/ada/m", "aliases": ["ada-*"], "priority": 3}],
        }
    )
    event = shown(an_event(ev.ConfigLoaded(source="/home/ada/c.toml", changed=config.changed())))
    changed = event.data["changed"]
    assert "ada" not in json.dumps(event.public())
    assert "10.1.2.3" not in json.dumps(event.public())
    assert changed["ledger"] == {"retention": "30d, 2GB", "synchronous": "FULL"}
    assert changed["memory"] == {"limit": 24 * 10**9, "page_at": 0.9}
    assert changed["models"][0]["id"] == "m0"
    assert changed["models"][0]["priority"] == 3
    assert changed["models"][0]["aliases"] == []
    read = rules.course([event], {}).first.config
    assert (read.slo, read.memory) == (config.slo, config.memory)


@pytest.mark.parametrize("name", NAMES)
def test_of_recorded_faults_every_event_is_still_of_its_type(name: str) -> None:
    for event in scenario(name)[0]:
        found = shown(event)
        msgspec.convert(found.data, CATALOGUE[event.type].data)
        assert (found.seq, found.time_us, found.type, found.model, found.cause) == (
            event.seq,
            event.time_us,
            event.type,
            event.model,
            event.cause,
        )
        numbers = {name: value for name, value in event.data.items() if type(value) in {int, float} and name != "pid"}
        assert numbers.items() <= found.data.items()
