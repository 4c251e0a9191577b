"""Writes the model card, docs/demo-model.md, from the data, the weights and the scores: `python -m training.card`."""

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import Final

from training import train
from training.corpus import UNRELATED, Dialogues
from training.judge import Score, read_questions
from training.score import Answerer, score

CARD: Final = Path(__file__).parents[1] / "docs" / "demo-model.md"
BEHIND: Final = (500, 1000, 2000)
_ASKED_BEHIND: Final = 40


def fingerprint(folder: Path) -> str:
    """SHA-256 of the weights; the card names it, so that a card of other weights is noticed."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def data_line(dialogues: Dialogues) -> str:
    """What the model was taught, in numbers."""
    patterns = sum(len(topic.ask) for topic in dialogues.topics)
    phrasings = len({text for _, text in dialogues.plain_questions()})
    unrelated = len(dialogues.unrelated.ask)
    words = sum(len(group) for group in dialogues.words.values())
    return (
        f"{len(dialogues.topics)} topics, {patterns} patterns that stand for {phrasings:,} phrasings, "
        f"and {unrelated} patterns of unrelated questions with {words} words to fill them"
    )


_PAGE: Final = """\
# lmx-demo, the embedded model

<!-- written by training/card.py; run: make demo-model -->

A Llama of {millions:.1f} million parameters that ships inside the package, so that a fresh server answers something
useful without a download. It recognises questions about operating LMX and gives the answer that it learnt; about
anything else it says what it is and that it cannot help. It does not reason, call tools or know the world, and it
describes LMX as its contract does, including commands that the version beside it may not have yet.

| | |
|---|---|
| architecture | {model_type}, {num_hidden_layers} layers, width {hidden_size}, {num_attention_heads} heads \
({num_key_value_heads} for keys and values), tied embeddings, float32 |
| size | {size:,} bytes, of which weights {weights:,} |
| tokenizer | byte-level BPE of {vocab_size:,} tokens, made from the training data |
| context | {max_position_embeddings:,} tokens are accepted; conversations of up to {longest:,} were trained; the chat \
template gives it the last 5 to 16 messages |
| data | `training/dialogues.toml`: {data} |
| training | {steps:,} steps of about 1,024 tokens in PyTorch on one CPU core, seed {seed}: `make demo-model` |
| weights | sha256 `{sha256}` |

PyTorch comes with the `training` extra, which `make demo-model` and `make test` install; its CPU build is enough.

## Scores

Questions that were never trained on (`training/held_out.toml`), written by somebody who knew the answers but not the
training phrasings, each asked alone, greedily. The `development` part guided work on the data; the `final` part was
only scored. `training/judge.py` says what counts: of all answers the closest must be the right one, with nine tenths
of its words in order.

| part | right | topics | to the letter | unrelated, answered honestly |
|---|---|---|---|---|
{scores}

Behind a conversation about random topics ({asked} questions of the final part each):

| tokens before the question | right |
|---|---|
{behind}
"""


def card(folder: Path, dialogues: Dialogues, scores: dict[str, Score], behind: dict[int, Score]) -> str:
    """The page."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    weights = (folder / "model.safetensors").stat().st_size
    rows = [
        f"| {name} | {s.right} of {s.questions} ({s.right / s.questions:.1%}) | {s.topics} | {s.exact} "
        f"| {s.honest} of {s.unrelated} ({s.honest / s.unrelated:.1%}) |"
        for name, s in scores.items()
    ]
    depths = [f"| {n:,} | {s.right} of {s.questions} ({s.right / s.questions:.0%}) |" for n, s in behind.items()]
    return _PAGE.format(
        **config,
        millions=weights / 4 / 1e6,
        size=sum(file.stat().st_size for file in folder.iterdir()),
        weights=weights,
        longest=train.LONGEST,
        data=data_line(dialogues),
        steps=train.RECIPE.steps,
        seed=train.SEED,
        sha256=fingerprint(folder),
        scores="\n".join(rows),
        asked=_ASKED_BEHIND,
        behind="\n".join(depths),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score lmx-demo and write docs/demo-model.md.")
    parser.add_argument("--model", type=Path, default=train.FOLDER)
    parser.add_argument("--out", type=Path, default=CARD)
    arguments = parser.parse_args()
    dialogues, answerer = Dialogues(), Answerer(arguments.model)
    scores = {}
    for part in ("development", "final"):
        scores[part] = Score.of(list(score(answerer, read_questions(part), dialogues)))
        print(f"{part}: {scores[part]}", flush=True)
    about = [question for question in read_questions("final") if question.topic != UNRELATED]
    asked = random.Random(0).sample(about, _ASKED_BEHIND)
    behind = {}
    for tokens in BEHIND:
        behind[tokens] = Score.of(list(score(answerer, asked, dialogues, tokens)))
        print(f"behind {tokens} tokens: {behind[tokens]}", flush=True)
    arguments.out.write_text(card(arguments.model, dialogues, scores, behind), encoding="utf-8")


if __name__ == "__main__":
    main()
