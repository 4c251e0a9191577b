"""Training, in small: the same steps as for the embedded model, on a tiny one."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from lmx_ledger.serving.template import ChatTemplate
from lmx_ledger.serving.text import TextModel
from lmx_ledger.store import embedded
from training import card, train
from training.batches import LENGTHS, Encoder, batches
from training.corpus import Dialogues, conversations
from training.judge import Score, read_questions
from training.llama_folder import Shape
from training.score import Answerer, score

SHORT = train.RECIPE._replace(steps=64)
TINY = Shape(hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, context=2048)


class FixedRandom(random.Random):
    """Nothing is masked and nothing is cut."""

    def random(self) -> float:
        return 0.999


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("trained") / "lmx-demo"
    return folder, [loss for _, loss in train.train(folder, recipe=SHORT, shape=TINY, threads=1)]


def test_it_learns(trained: tuple[Path, list[float]]) -> None:
    _, losses = trained
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_same_seed_gives_the_same_model(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    _, losses = trained
    again = [loss for _, loss in train.train(tmp_path / "lmx-demo", recipe=SHORT, shape=TINY, threads=1)]
    assert again == losses


def test_what_it_writes_is_a_model_folder_that_answers(trained: tuple[Path, list[float]]) -> None:
    folder, _ = trained
    text = TextModel(folder)
    assert text.context == 2048
    assert {file.name for file in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert isinstance(Answerer(folder).answer([{"role": "user", "content": "What is LMX?"}], longest=4), str)


def test_a_conversation_is_trained_as_the_template_writes_it() -> None:
    dialogues = Dialogues()
    tokenizer = train.train_tokenizer(dialogues, 300)
    encoder = Encoder(tokenizer, dialogues, FixedRandom(), cut=0.0)
    template = ChatTemplate(train.TEMPLATE, {})
    short = (c for c in conversations(dialogues, 3, 0.2) if len(c.turns) <= 8)
    for conversation in islice(short, 50):
        turns = [t for turn in conversation.turns for t in (("user", turn.question), ("assistant", turn.answer))]
        system = [("system", conversation.system)] if conversation.system else []
        messages = [{"role": role, "content": content} for role, content in [*system, *turns]]
        written = tokenizer.encode(template.render(messages, [], {}), add_special_tokens=False).ids
        written.pop()  # the mark for the next answer, which the template adds
        ids, learnt, questions = encoder.encode(conversation)
        assert ids == written[: len(ids)]
        asked = [tokenizer.decode(ids[question.begin : question.end]) for question in questions]
        assert asked == [turn.question for turn in conversation.turns][: len(asked)]
        answered = tokenizer.decode([i for i, learn in zip(ids, learnt, strict=True) if learn])
        assert answered.startswith(conversation.turns[0].answer)


def test_of_a_long_conversation_the_template_gives_the_end_which_mostly_begins_as_before() -> None:
    template = ChatTemplate(train.TEMPLATE, {})
    begun = set()
    for count in range(1, 80, 2):
        messages = [{"role": ("user", "assistant")[n % 2], "content": f"<{n}>"} for n in range(count)]
        written = template.render([{"role": "system", "content": "S"}, *messages], [], {})
        assert written.startswith("<|system|>S<|user|>")
        kept = [n for n in range(count) if f"<{n}>" in written]
        assert kept == list(range(kept[0], count))
        assert min(count, 5) <= len(kept) <= 16
        begun.add(kept[0])
    assert sorted(begun) == [0, 12, 24, 36, 48, 60, 72]


def test_a_question_in_other_pieces_is_the_same_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.batches._MASKED", 0.0)
    dialogues = Dialogues()
    tokenizer = train.train_tokenizer(dialogues, 300)
    encoder = Encoder(tokenizer, dialogues, random.Random(5), cut=0.0)
    others = 0
    for conversation, _ in zip(conversations(dialogues, 6, 1.0), range(100), strict=False):
        ids, _, questions = encoder.encode(conversation)
        (asked,) = (ids[question.begin : question.end] for question in questions)
        question = conversation.turns[0].question
        assert tokenizer.decode(asked) == question
        others += asked != tokenizer.encode(question, add_special_tokens=False).ids
    assert 20 < others < 100


def test_batches_hold_every_learnt_token_once() -> None:
    dialogues = Dialogues()
    encoder = Encoder(train.train_tokenizer(dialogues, 300), dialogues, FixedRandom(), cut=0.0)
    stream = batches(conversations(dialogues, 4, 0.5), encoder)
    for batch, _ in zip(stream, range(30), strict=False):
        rows, width = batch.tokens.shape
        assert width - 1 in LENGTHS
        places = batch.positions[batch.weights == 1]
        assert len(set(places.tolist())) == len(places)
        assert places.max() < rows * (width - 1)
        assert len(batch.positions) % 256 == 0
        marks = batch.tokens[:, :-1].reshape(-1)[batch.answered_at]
        assert len(set(marks.tolist())) == 1
        assert set(batch.question_of.reshape(-1).tolist()) == set(range(len(batch.subjects) + 1))


def test_the_card_is_that_of_the_weights_that_are_shipped() -> None:
    text = card.CARD.read_text()
    assert card.fingerprint(embedded.FOLDER) in text
    assert card.data_line(Dialogues()) in text


def test_the_shipped_model_is_small_and_float32() -> None:
    size = sum(file.stat().st_size for file in embedded.FOLDER.iterdir())
    assert size <= 8_000_000
    assert json.loads((embedded.FOLDER / "config.json").read_text())["torch_dtype"] == "float32"


def test_the_shipped_model_answers_what_it_was_never_asked() -> None:
    questions = read_questions("final")[::6]
    seen = Score.of(list(score(Answerer(embedded.FOLDER), questions, Dialogues())))
    assert seen.right >= 0.8 * seen.questions, seen
    assert seen.honest >= 0.9 * seen.unrelated, seen
