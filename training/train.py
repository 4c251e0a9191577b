"""Trains `lmx-demo` from nothing, in PyTorch on CPU cores: `make demo-model`.

Prints its progress; writes the model's folder in one step every five minutes and at the end.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer

from training.batches import LENGTHS, Batch, Encoder, batches
from training.corpus import Dialogues, conversations
from training.learner import Learner
from training.llama_folder import Shape, byte_level_bpe, write_llama


class Phase(NamedTuple):
    """A part of the training: its share of the steps, that of lone questions, and how many of their answers are cut."""

    share: float
    lone: float
    cut: float


class Recipe(NamedTuple):
    """The learning rate rises to its peak and falls along a cosine, while the phases follow each other."""

    seed: int
    steps: int
    peak: float
    phases: tuple[Phase, ...]


SEED: Final = 20_260_314
WARM_UP: Final = 100
_KEPT_S: Final = 300.0
VOCAB: Final = 3072
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
RECIPE: Final = Recipe(
    seed=SEED,
    steps=16_000,
    peak=2e-3,
    phases=(Phase(0.5, lone=1.0, cut=1.0), Phase(0.25, lone=0.6, cut=0.8), Phase(0.25, lone=0.4, cut=0.3)),
)
"""First the topics, by as many questions as possible; then what depends on what was said before; then whole answers."""
SHAPE: Final = Shape(hidden=192, layers=4, heads=6, kv_heads=3, intermediate=384, context=8192)
TEMPLATE: Final = (
    "{%- set first = 1 if messages and messages[0].role in ('system', 'developer') else 0 %}"
    "{%- set asked = messages | length - first %}"
    "{%- set forgotten = (asked - 5) // 12 * 12 if asked > 16 else 0 %}"
    "{%- for message in messages %}"
    "{%- if message.role in ('system', 'developer') %}{{- '<|system|>' + (message.content or '') }}"
    "{%- elif loop.index0 < first + forgotten %}"
    "{%- elif message.role == 'assistant' %}{{- '<|assistant|>' + (message.content or '') + '<|im_end|>' }}"
    "{%- else %}{{- '<|user|>' + (message.content or '') }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"
)
"""As lean as can be, for every token is paid for in training; without tools, for the model could not call any.

It gives the model the last 5 to 16 messages: longer conversations are too rare in training to be understood. Twelve are
forgotten at once, so that from turn to turn the beginning mostly stays as it was.
"""
GREEDY: Final = {"do_sample": False}
"""What it learnt is said word for word, unless a client asks for another temperature."""
LONGEST: Final = LENGTHS[-1]
"""Tokens of the longest conversation that is trained."""
FOLDER: Final = Path(__file__).parents[1] / "lmx_ledger" / "store" / "lmx-demo"


def train_tokenizer(dialogues: Dialogues, conversations_read: int = 20_000) -> Tokenizer:
    """A byte-level BPE of the corpus itself: what is rare in it falls into small pieces, which marks it as foreign."""
    source = conversations(dialogues, SEED - 1, lone=0.75)
    read = (next(source) for _ in range(conversations_read))
    text = (part for c in read for turn in c.turns for part in (turn.question, turn.answer))
    every_answer = [answer for answers in dialogues.answers().values() for answer in answers]
    tokenizer = byte_level_bpe([*text, *every_answer * 5], vocab=VOCAB - len(ROLES), added=())
    tokenizer.add_special_tokens([AddedToken(role, special=True, normalized=False) for role in ROLES])
    return tokenizer


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak at the last step."""
    if step < WARM_UP:
        return recipe.peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(recipe.steps - WARM_UP, 1)
    return recipe.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def batches_of(recipe: Recipe, dialogues: Dialogues, tokenizer: Tokenizer) -> Iterator[Batch]:
    """The batches of all phases, one after the other; the last one goes on for as long as it is asked."""
    for number, phase in enumerate(recipe.phases):
        seed = recipe.seed + number
        encoder = Encoder(tokenizer, dialogues, random.Random(seed), phase.cut)
        stream = batches(conversations(dialogues, seed, phase.lone), encoder)
        yield from stream if phase is recipe.phases[-1] else islice(stream, round(recipe.steps * phase.share))


def train(
    folder: Path, *, recipe: Recipe = RECIPE, shape: Shape = SHAPE, threads: int = 1
) -> Iterator[tuple[int, float]]:
    """Train and write the folder, every five minutes and at the end; yields (step, loss) after each step.

    Sets PyTorch's number of threads; the same number gives the same weights.
    """
    torch.set_num_threads(threads)
    dialogues = Dialogues()
    tokenizer = train_tokenizer(dialogues, 20_000 if recipe.steps >= 1000 else 500)
    vocab, subjects, replies = tokenizer.get_vocab_size(), len(dialogues.subjects()), len(dialogues.replies())
    learner = Learner(shape, vocab, subjects, replies, recipe.seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    kept = time.monotonic()
    for step, batch in zip(range(recipe.steps), batches_of(recipe, dialogues, tokenizer), strict=False):
        yield step, learner.step(batch, learning_rate(recipe, step))
        if step + 1 == recipe.steps or time.monotonic() - kept > _KEPT_S:
            kept = time.monotonic()
            write_llama(
                folder,
                shape=shape,
                weights=learner.weights(),
                tokenizer=tokenizer,
                template=TEMPLATE,
                generation=GREEDY,
            )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train lmx-demo from training/dialogues.toml.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the model's folder (default: the package's own)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; other numbers round differently")
    arguments = parser.parse_args()
    began, recent = time.monotonic(), 0.0
    for step, loss in train(arguments.out, threads=arguments.threads):
        recent = loss if step == 0 else 0.98 * recent + 0.02 * loss
        if step % 100 == 0 or step + 1 == RECIPE.steps:
            minutes = (time.monotonic() - began) / 60
            print(f"step {step + 1:5} of {RECIPE.steps}  loss {recent:.4f}  {minutes:5.1f} min", flush=True)
    print(f"written: {arguments.out.name}; score it with: python -m training.score")


if __name__ == "__main__":
    main()
