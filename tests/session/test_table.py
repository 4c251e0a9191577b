"""A request finds the conversation that it goes on with, by its name or by what it says."""

from typing import Any

import pytest

from lmx_ledger.session import table as room
from lmx_ledger.session.explain import Place
from lmx_ledger.session.table import Beginning, Kept, KeptTurn, SessionTable, Turn, beginning

HERE = Place("weights", "0" * 32, "template", 7)
BLOCK = 16


class Written:
    seq = 1


def said(*texts: str, system: str = "You are kind.") -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * len(texts)
    return [
        {"role": "system", "content": system},
        *({"role": role, "content": text} for role, text in zip(roles, texts, strict=False)),
    ]


def begun(
    table: SessionTable, request: str, messages: list[dict[str, Any]], *, name: str | None = None, model: str = "m"
) -> Turn:
    return table.begin(request, name, model, list(range(40)), beginning(messages, []))


def done(turn: Turn, ids: list[int]) -> None:
    turn.left(0, ids, HERE, BLOCK, Written())
    turn.end()


def test_a_chat_is_known_again_by_what_was_said_before() -> None:
    table = SessionTable()
    first = begun(table, "req_1", said("Hi"))
    done(first, list(range(50)))
    assert begun(table, "req_2", said("Hi", "Hello!", "Who are you?")).session == first.session
    assert begun(table, "req_3", said("Good morning")).session != first.session
    assert begun(table, "req_4", said("Hi"), model="other").session != first.session


def test_a_chat_whose_system_message_changes_is_the_same_once_enough_was_said() -> None:
    table = SessionTable()
    talk = ["Hi", "Hello!", "Who are you?"]
    first = begun(table, "req_1", said(*talk, system="It is 9:41."))
    done(first, list(range(50)))
    assert begun(table, "req_2", said(*talk, "LMX.", "Ah.", system="It is 9:42.")).session == first.session
    assert begun(table, "req_3", said("Hi", system="It is 9:43.")).session != first.session


def test_a_raw_prompt_is_known_again_by_its_tokens() -> None:
    table = SessionTable()
    first = table.begin("req_1", None, "m", list(range(100)), Beginning())
    done(first, list(range(110)))
    assert table.begin("req_2", None, "m", list(range(150)), Beginning()).session == first.session
    assert table.begin("req_3", None, "m", [5, *range(150)], Beginning()).session != first.session


def test_a_name_is_a_conversation_whatever_it_says_and_each_model_has_its_own_states_of_it() -> None:
    table = SessionTable()
    done(begun(table, "req_1", said("Hi"), name="work"), list(range(50)))
    turn = begun(table, "req_2", said("Something else"), name="work")
    assert turn.session == "work"
    found = turn.nearest(HERE, BLOCK)
    assert found is not None
    assert (found[0].tokens, found[0].shared) == (50, 40)
    other = begun(table, "req_3", said("Hi"), name="work", model="other")
    there = HERE._replace(fingerprint="others")
    found = other.nearest(there, BLOCK)
    assert found is not None
    assert (found[0].place.fingerprint, found[0].shared) == ("weights", None)


def test_the_nearest_state_is_the_branch_that_has_most_in_common() -> None:
    table = SessionTable()
    done(begun(table, "req_1", said("Hi"), name="work"), [*range(30), 77, 78])
    done(begun(table, "req_2", said("Hi"), name="work"), [*range(20), 99])
    found = begun(table, "req_3", said("Hi"), name="work").nearest(HERE, BLOCK)
    assert found is not None
    assert found[0].shared == 30


def test_who_is_in_flight_is_seen_by_who_comes_beside() -> None:
    table = SessionTable()
    first = begun(table, "req_1", said("Hi"), name="work")
    assert (first.beside, table.busy("work")) == (0, True)
    assert begun(table, "req_2", said("Hi"), name="work").beside == 40
    first.end()


def test_what_the_worker_has_kept_is_told_whose_it_is_once() -> None:
    table = SessionTable()
    turn = begun(table, "req_1", said("Hi"))
    done(turn, list(range(50)))
    told: list[KeptTurn] = []
    table.kept(turn.label(0), Kept(48, b"end", on_disk=True), told.append)
    # The worker may be the quicker one.
    other = begun(table, "req_2", said("Hi"))
    table.kept(other.label(0), Kept(20, b"other", on_disk=False), told.append)
    assert len(told) == 1
    done(other, list(range(30)))
    assert [(kept.session, kept.request) for kept in told] == [(turn.session, "req_1"), (turn.session, "req_2")]
    assert [(kept.head.end, kept.head.on_disk) for kept in told] == [(b"end", True), (b"other", False)]
    table.forget(turn.session)
    assert table.heads(turn.session) == []


def test_the_oldest_are_forgotten_and_what_they_consisted_of_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SESSIONS", 5)
    monkeypatch.setattr(room, "_IDS_BYTES", 1_000)
    table = SessionTable()
    turns = [begun(table, f"req_{n}", said(f"Question {n}")) for n in range(9)]
    for turn in turns:
        done(turn, list(range(100)))
    left = [turn for turn in turns if table.heads(turn.session)]
    assert left == turns[-5:]
    known = [head.ids is not None for turn in left for _, head in table.heads(turn.session)]
    assert known == sorted(known)
    assert known[0] is False
    assert known[-1] is True
    assert begun(table, "req_9", said("Question 0")).session != turns[0].session


def test_a_conversation_is_known_by_kv_that_is_kept_or_while_one_of_its_requests_goes_on() -> None:
    table = SessionTable()
    first = begun(table, "req_1", said("Hi"), name="a name")
    ids, what = list(range(40)), beginning(said("Hi", "Hello!", "Who are you?"), [])
    assert table.knows("a name", "m", ids, what)
    assert not table.knows("another", "m", ids, what)
    assert not table.knows(None, "m", ids, beginning(said("Good morning"), []))
    done(first, list(range(50)))
    # Its tokens are remembered, and nothing of it is kept.
    assert not table.knows("a name", "m", ids, what)
    assert not table.knows(None, "m", ids, what)
    table.kept(first.label(0), Kept(48, b"end", True), lambda _: None)
    assert table.knows(None, "m", ids, what)
    assert table.knows("a name", "m", ids, what)
    assert not table.knows(None, "other", ids, what)
