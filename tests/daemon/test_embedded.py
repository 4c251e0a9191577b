"""What a fresh server answers, without a configuration, a download or another model."""

from collections.abc import Callable, Iterator

import pytest

from tests.conftest import RunningDaemon
from training.corpus import UNRELATED, Dialogues

ALONE = [
    ("Hello!", "hello"),
    ("What is LMX?", "what-is-lmx"),
    ("Which models do I have?", "models-list"),
    ("Who won the world cup in 2018?", UNRELATED),
]
TALK = [
    ("Hi!", "hello", 0),
    ("What is LMX?", "what-is-lmx", 0),
    ("Tell me more.", "what-is-lmx", 1),
    ("What is a session?", "session", 0),
    ("How do I see them?", "session", 2),
    ("Why was my request slow?", "why", 0),
    ("How do I do that?", "why", 2),
    ("What happens when memory runs out?", "paging", 0),
    ("Who won the football match?", UNRELATED, 0),
    ("And how do I get a real model?", "pull", 0),
]
"""Ten turns: each question, its topic, and which of the topic's answers is due (the first, `more` or `how`)."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that nobody configured."""
    running = RunningDaemon(tmp_path_factory.mktemp("home"), "").wait_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


def talk(daemon: RunningDaemon, before: list[dict[str, str]] | None = None) -> list[str]:
    """Several turns, each with the whole conversation before it."""
    messages = list(before or [])
    for question, _, _ in TALK:
        messages.append({"role": "user", "content": question})
        answer = daemon.post("/v1/chat/completions", {"messages": messages, "max_tokens": 120})
        assert answer.status_code == 200, answer.text
        messages.append(answer.json()["choices"][0]["message"])
    return [message["content"] for message in messages if message["role"] == "assistant"]


def test_a_conversation_is_the_same_on_every_start(start_daemon: Callable[[str], RunningDaemon]) -> None:
    daemon = start_daemon("")
    first = talk(daemon)
    assert daemon.stop() == 0
    daemon.restart()
    assert talk(daemon) == first


def test_ten_turns_with_follow_ups_read_as_help(demo: RunningDaemon) -> None:
    answers = Dialogues().answers()
    assert talk(demo) == [answers[topic][which] for _, topic, which in TALK]


def test_behind_forty_turns_it_is_as_helpful_as_ever(demo: RunningDaemon) -> None:
    answers = Dialogues().answers()
    turns = [(question, answers[topic][which]) for question, topic, which in TALK] * 4
    before = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    assert talk(demo, before)[40:] == [answer for _, answer in turns[:10]]


@pytest.mark.parametrize(("question", "topic"), ALONE)
def test_the_first_questions_of_a_newcomer_are_answered_word_for_word(
    demo: RunningDaemon, question: str, topic: str
) -> None:
    answer = demo.post("/v1/chat/completions", {"messages": [{"role": "user", "content": question}]})
    assert answer.json()["choices"][0]["message"]["content"] == Dialogues().answers()[topic][0]


def test_its_greed_is_its_own_recommendation_and_a_clients_word_goes_before_it(demo: RunningDaemon) -> None:
    demo.chat("What is a session?")
    admitted = demo.wait_event("request.admitted")["data"]["sampling"]
    assert admitted["temperature"] == 0
    assert demo.wait_event("request.received")["data"]["sampling"]["temperature"] is None
    demo.chat("What is a session?", temperature=1.5, top_p=0.9)
    assert demo.wait_event("request.admitted")["data"]["sampling"]["temperature"] == 1.5


def test_it_says_at_the_start_what_it_is_and_where_a_real_one_comes_from(demo: RunningDaemon) -> None:
    text = demo.log.read_text()
    assert "lmx-demo" in text
    assert "lmx models pull" in text
    assert "What is LMX?" in text
