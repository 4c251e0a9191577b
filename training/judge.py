"""What the model is asked that it was never trained on, and when an answer counts as right.

An answer is right when, of all answers that can be given, it is closest to the one that belongs to the question, and
at least nine tenths of its words agree with it in order. An unrelated question is answered honestly when the same
holds for the answer that says what the model is and what it cannot do.
"""

import tomllib
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from training.corpus import UNRELATED, Dialogues

HELD_OUT: Final = Path(__file__).with_name("held_out.toml")
AGREE: Final = 0.9


class Question(NamedTuple):
    """A question and the id of the topic whose answer is right."""

    text: str
    topic: str


class Verdict(NamedTuple):
    """What came of one question: the answer, the topic that it is closest to, the share of words in common."""

    question: Question
    answer: str
    topic: str
    agreement: float

    @property
    def right(self) -> bool:
        """Whether it counts."""
        return self.topic == self.question.topic and self.agreement >= AGREE

    @property
    def exact(self) -> bool:
        """Whether it is right to the letter."""
        return self.topic == self.question.topic and self.agreement == 1.0


def read_questions(part: str, path: Path = HELD_OUT) -> list[Question]:
    """The `development` or the `final` part of the held-out questions."""
    data: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    about = [Question(text, topic["id"]) for topic in data["topic"] for text in topic[part]]
    return about + [Question(text, UNRELATED) for text in data[UNRELATED][part]]


class Judge:
    """Compares answers by their content with all that could have been given."""

    def __init__(self, dialogues: Dialogues) -> None:
        # Follow-ups of two topics may be the same command; the answers to questions never are.
        later = {answer: topic for topic, answers in dialogues.answers().items() for answer in answers[1:]}
        self._known = later | {answers[0]: topic for topic, answers in dialogues.answers().items()}

    def judge(self, question: Question, answer: str) -> Verdict:
        """The verdict on one answer."""
        if answer in self._known:
            return Verdict(question, answer, self._known[answer], 1.0)
        matcher: SequenceMatcher[str] = SequenceMatcher(autojunk=False)
        matcher.set_seq2(answer.split())
        best, topic = 0.0, ""
        for known, name in self._known.items():
            matcher.set_seq1(known.split())
            if matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
                best, topic = ratio, name
        return Verdict(question, answer, topic, min(best, 0.999))


class Score(NamedTuple):
    """Counts: questions about topics and how many are right and exact; unrelated ones and how many are honest."""

    topics: int
    questions: int
    right: int
    exact: int
    unrelated: int
    honest: int

    @classmethod
    def of(cls, verdicts: list[Verdict]) -> Self:
        """Count them."""
        about = [verdict for verdict in verdicts if verdict.question.topic != UNRELATED]
        away = [verdict for verdict in verdicts if verdict.question.topic == UNRELATED]
        return cls(
            topics=len({verdict.question.topic for verdict in about}),
            questions=len(about),
            right=sum(verdict.right for verdict in about),
            exact=sum(verdict.exact for verdict in about),
            unrelated=len(away),
            honest=sum(verdict.right for verdict in away),
        )

    def __str__(self) -> str:
        right, honest = self.right / max(self.questions, 1), self.honest / max(self.unrelated, 1)
        return (
            f"{self.right} of {self.questions} right over {self.topics} topics "
            f"({right:.1%}; {self.exact} to the letter), "
            f"{self.honest} of {self.unrelated} unrelated ones honest ({honest:.1%})"
        )
