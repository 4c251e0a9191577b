"""Conversations as token ids, in batches of a few fixed shapes."""

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from training.corpus import Conversation, Dialogues, Turn

LENGTHS: Final = (12, 16, 20, 24, 32, 48, 64, 96, 160, 256, 448, 768, 1152)
"""Every row is padded to the first of these that holds it; a longer conversation is cut at its last whole turn."""
_TOKENS_PER_BATCH: Final = 1024
_MASKED: Final = 0.03
_SPLIT: Final = 0.04
_HEAD: Final = 4
_SPECIALS: Final = 3


class Batch(NamedTuple):
    """Rows of one length.

    `tokens` is (rows, length + 1); `positions` are the flat places (in rows x length) whose next token is learnt,
    padded to a multiple of 256 with weight 0. For each question of the batch: `question_of` (rows x length) numbers its
    tokens from 1 on, `answered_at` is the flat place of the mark behind it, `subjects` and `replies` are what it is
    about and what is to be answered, by their numbers in `Dialogues`.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    question_of: npt.NDArray[np.int32]
    answered_at: npt.NDArray[np.int32]
    subjects: npt.NDArray[np.int32]
    replies: npt.NDArray[np.int32]


class Question(NamedTuple):
    """Where a question's own tokens begin and end in a row (the mark for the answer is at `end`), and its labels."""

    begin: int
    end: int
    subject: int
    reply: int


class Row(NamedTuple):
    """A conversation as token ids, which of them are learnt, and its questions."""

    ids: list[int]
    learnt: list[bool]
    questions: list[Question]


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the tokenizer was made with."""
    number = tokenizer.token_to_id(token)
    assert number is not None  # noqa: S101 - byte_level_bpe puts all of SPECIALS in
    return number


class Encoder:
    """Writes a conversation as the chat template does, and marks what the model has to learn: its own answers."""

    def __init__(self, tokenizer: Tokenizer, dialogues: Dialogues, rng: random.Random, cut: float) -> None:
        self._cut = cut
        self._subjects = {subject: number for number, subject in enumerate(dialogues.subjects())}
        self._replies = {reply: number for number, reply in enumerate(dialogues.replies())}
        self._tokenizer = tokenizer
        self._rng = rng
        self._system, self._user, self._assistant, self._end = (
            special_id(tokenizer, token) for token in ("<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>")
        )
        self._known: dict[str, list[int]] = {}

    def encode(self, conversation: Conversation) -> Row:
        """The row of a conversation.

        In a share of `cut` only the heads of answers are learnt, where the topic is decided; the last one ends there.
        """
        ids: list[int] = []
        learnt: list[bool] = []
        questions: list[Question] = []

        def add(tokens: list[int], learn: bool) -> None:
            ids.extend(tokens)
            learnt.extend([learn] * len(tokens))

        if conversation.system is not None:
            add([self._system, *self._ids(conversation.system)], learn=False)
        heads_only = self._rng.random() < self._cut
        for turn in conversation.turns:
            answer = [*self._ids(turn.answer), self._end]
            words = self._words(turn)
            if len(ids) + len(words) + len(answer) + 2 > LENGTHS[-1]:
                break
            subject = self._subjects[turn.topic if turn.kind == "ask" else turn.kind]
            begin = len(ids) + 1
            questions.append(Question(begin, begin + len(words), subject, self._replies[turn.topic, turn.kind]))
            add([self._user, *words, self._assistant], learn=False)
            add(answer[:_HEAD] if heads_only else answer, learn=True)
            if heads_only and turn is not conversation.turns[-1]:
                add(answer[_HEAD:], learn=False)
        return Row(ids, learnt, questions)

    def _words(self, turn: Turn) -> list[int]:
        words = [word for part in self._parts(turn.question) for word in self._encoded(part)]
        size = self._tokenizer.get_vocab_size()
        # A word that the model cannot read must not decide alone.
        masked = (self._rng.random() < _MASKED for _ in words)
        return [
            self._rng.randrange(_SPECIALS, size - _SPECIALS) if mask else w
            for w, mask in zip(words, masked, strict=True)
        ]

    def _parts(self, question: str) -> Iterator[str]:
        # A word that is read in other pieces now and then makes known what unheard ones consist of (BPE dropout).
        begin = 0
        for at, (before, after) in enumerate(pairwise(question), 1):
            if before.isalpha() and after.isalpha() and self._rng.random() < _SPLIT:
                yield question[begin:at]
                begin = at
        yield question[begin:]

    def _encoded(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._encoded(text)
        return self._known[text]


def batches(source: Iterable[Conversation], encoder: Encoder) -> Iterator[Batch]:
    """Batches of about 1,024 tokens as the source fills them, each of rows of one padded length."""
    waiting: dict[int, list[Row]] = {length: [] for length in LENGTHS}
    for conversation in source:
        row = encoder.encode(conversation)
        length = next(size for size in LENGTHS if len(row.ids) <= size + 1)
        rows = waiting[length]
        rows.append(row)
        if len(rows) == max(_TOKENS_PER_BATCH // length, 1):
            yield _batch(rows, length)
            rows.clear()


def _batch(rows: list[Row], length: int) -> Batch:
    tokens = np.zeros((len(rows), length + 1), np.int32)
    wanted = np.zeros((len(rows), length), bool)
    question_of = np.zeros((len(rows), length), np.int32)
    asked = [(number, question) for number, row in enumerate(rows) for question in row.questions]
    for number, row in enumerate(rows):
        tokens[number, : len(row.ids)] = row.ids
        wanted[number, : len(row.learnt) - 1] = row.learnt[1:]
    for index, (number, question) in enumerate(asked, 1):
        question_of[number, question.begin : question.end] = index
    places = np.flatnonzero(wanted).astype(np.int32)
    size = -(-len(places) // 256) * 256
    positions, weights = np.zeros(size, np.int32), np.zeros(size, np.float32)
    positions[: len(places)], weights[: len(places)] = places, 1.0
    return Batch(
        tokens,
        positions,
        weights,
        question_of,
        np.array([number * length + question.end for number, question in asked], np.int32),
        np.array([question.subject for _, question in asked], np.int32),
        np.array([question.reply for _, question in asked], np.int32),
    )
