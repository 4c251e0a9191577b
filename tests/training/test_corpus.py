"""What the embedded model is taught, and what it is asked."""

import itertools
import re

import pytest

from training.corpus import UNRELATED, Dialogues, conversations
from training.judge import HELD_OUT, Judge, Question, read_questions


@pytest.fixture(scope="module")
def dialogues() -> Dialogues:
    return Dialogues()


def plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9_./']+", text.lower()))


def test_no_phrasing_belongs_to_two_topics(dialogues: Dialogues) -> None:
    owner: dict[str, str] = {}
    for topic, text in dialogues.plain_questions():
        assert owner.setdefault(plain(text), topic) == topic, text


def test_the_answers_to_questions_differ_from_their_first_words_on(dialogues: Dialogues) -> None:
    heads = [" ".join(answers[0].split()[:6]) for answers in dialogues.answers().values()]
    assert not [head for head in heads if heads.count(head) > 1]


def test_answers_are_short_plain_text(dialogues: Dialogues) -> None:
    for answers in dialogues.answers().values():
        for answer in answers:
            assert answer.isascii()
            assert answer == " ".join(answer.split())
            assert len(answer) < 420
            assert answer.count("`") % 2 == 0


def test_the_same_seed_draws_the_same_conversations(dialogues: Dialogues) -> None:
    first, second = (list(itertools.islice(conversations(dialogues, 5, 0.5), 200)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(conversations(dialogues, 6, 0.5), 200))


def test_conversations_hold_every_topic_follow_ups_and_a_third_of_unrelated_questions(dialogues: Dialogues) -> None:
    drawn = itertools.islice(conversations(dialogues, 1, 0.7), 4000)
    turns = [turn for conversation in drawn for turn in conversation.turns]
    topics = [turn.topic for turn in turns]
    assert set(topics) == {topic.id for topic in dialogues.topics} | {UNRELATED, "nothing-before", "no-more"}
    assert 0.2 < topics.count(UNRELATED) / len(topics) < 0.6
    assert all(turn.question.strip() and turn.answer for turn in turns)


def test_slots_of_unrelated_questions_are_always_filled(dialogues: Dialogues) -> None:
    drawn = itertools.islice(conversations(dialogues, 2, 1.0), 3000)
    assert not [c for c in drawn if any("{" in t.question and t.topic == UNRELATED for t in c.turns)]


@pytest.mark.parametrize("part", ["development", "final"])
def test_held_out_questions_are_enough_and_never_trained_on(dialogues: Dialogues, part: str) -> None:
    questions = read_questions(part)
    trained = {plain(text) for _, text in dialogues.plain_questions()}
    about = [question for question in questions if question.topic != UNRELATED]
    asked = {question.topic for question in about}
    assert asked <= {topic.id for topic in dialogues.topics}
    assert len(asked) >= 60
    assert len(about) >= (200 if part == "final" else 150)
    assert len(questions) - len(about) >= 40
    assert not [question.text for question in about if plain(question.text) in trained]


def test_the_two_held_out_parts_share_no_question() -> None:
    parts = [{plain(question.text) for question in read_questions(part)} for part in ("development", "final")]
    assert not parts[0] & parts[1]
    assert HELD_OUT.exists()


def test_the_judge_goes_by_content(dialogues: Dialogues) -> None:
    judge = Judge(dialogues)
    topic = dialogues.topics[0]
    question = Question("?", topic.id)
    assert judge.judge(question, topic.answer).exact
    nearly = judge.judge(question, topic.answer.replace(" the ", " a ", 1))
    assert nearly.right
    assert not nearly.exact
    assert not judge.judge(question, dialogues.topics[1].answer).right
    assert not judge.judge(question, topic.answer.split()[0]).right
    assert not judge.judge(question, "").right
