"""Scores `lmx-demo` on questions that it was never trained on: `python -m training.score`."""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from lmx_ledger.serving.text import TextModel
from training import train
from training.corpus import Dialogues, topic_question
from training.judge import AGREE, Judge, Question, Score, Verdict, read_questions

_LONGEST: Final = 160


class Answerer:
    """The model as it is served: mlx-lm's own module, the folder's own template and tokenizer, greedy."""

    def __init__(self, folder: Path) -> None:
        self._module, _ = load_model(folder)
        self._text = TextModel(folder)
        assert self._text.template is not None  # noqa: S101 - train.py writes one
        self._template = self._text.template

    def count(self, messages: list[dict[str, str]]) -> int:
        """Tokens of the prompt for the next turn."""
        return len(self._prompt(messages))

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        return self._text.encode(self._template.render(messages, [], {}), special=False)

    def answer(self, messages: list[dict[str, str]], longest: int = _LONGEST) -> str:
        """The answer to a conversation, up to so many tokens."""
        prompt = self._prompt(messages)
        cache = make_prompt_cache(self._module)
        logits = self._module(mx.array([prompt]), cache=cache)
        tokens: list[int] = []
        while len(tokens) < longest:
            token = int(str(mx.argmax(logits[0, -1]).item()))
            if token in self._text.eos:
                break
            tokens.append(token)
            logits = self._module(mx.array([[token]]), cache=cache)
        return self._text.tokenizer.decode(tokens)


def score(answerer: Answerer, questions: list[Question], dialogues: Dialogues, behind: int = 0) -> Iterator[Verdict]:
    """A verdict for each question, asked behind a conversation of at least so many tokens (0: alone)."""
    judge, rng = Judge(dialogues), random.Random(behind)
    for question in questions:
        messages = history(answerer, dialogues, rng, behind) if behind else []
        answer = answerer.answer([*messages, {"role": "user", "content": question.text}])
        yield judge.judge(question, answer)


def history(answerer: Answerer, dialogues: Dialogues, rng: random.Random, tokens: int) -> list[dict[str, str]]:
    """Whole turns about random topics, at least so many tokens of them (what the template leaves out included)."""
    messages: list[dict[str, str]] = []
    counted = 0
    while counted < tokens:
        topic = rng.choice(dialogues.topics)
        messages.append({"role": "user", "content": topic_question(dialogues, topic, rng)})
        messages.append({"role": "assistant", "content": topic.answer})
        counted += answerer.count(messages[-2:])
    return messages


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score lmx-demo on questions that it was never trained on.")
    parser.add_argument("--model", type=Path, default=train.FOLDER)
    parser.add_argument("--part", choices=("development", "final"), default="final")
    parser.add_argument(
        "--behind", type=int, default=0, metavar="TOKENS", help="ask behind a conversation of that length"
    )
    parser.add_argument("--failures", action="store_true", help="print what was answered wrongly")
    arguments = parser.parse_args()
    answerer = Answerer(arguments.model)
    verdicts = list(score(answerer, read_questions(arguments.part), Dialogues(), arguments.behind))
    for verdict in verdicts:
        if arguments.failures and not verdict.right:
            print(f"{verdict.question.topic} -> {verdict.topic} {verdict.agreement:.2f}: {verdict.question.text}")
            if verdict.agreement < AGREE:
                print(f"    {verdict.answer}")
    print(f"{arguments.part}: {Score.of(verdicts)}")


if __name__ == "__main__":
    main()
