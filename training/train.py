"""Trains `lmx-demo` from nothing, in MLX on two CPU cores: `make demo-model`.

Prints its progress; writes the model's folder in one step every five minutes and at the end.
"""

import argparse
import math
import random
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.llama import Model, ModelArgs
from tokenizers import AddedToken, Tokenizer

from training.batches import LENGTHS, Batch, Encoder, batches
from training.corpus import Dialogues, conversations
from training.llama_folder import Shape, byte_level_bpe, llama_config, write_llama
from training.numerics import silu

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Phase(NamedTuple):
    """A part of the training: its share of the steps, that of lone questions, and how many of their answers are cut."""

    share: float
    lone: float
    cut: float


class Stage(NamedTuple):
    """A run of the learning rate from its peak along a cosine over `horizon` steps, left after `steps` of them."""

    horizon: int
    steps: int
    peak: float
    phases: tuple[Phase, ...]


SEED: Final = 20_260_314
WARM_UP: Final = 150
_KEPT_S: Final = 300.0
VOCAB: Final = 3072
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
FIRST: Final = Stage(5_800, 5_120, 2e-3, (Phase(0.58, lone=1.0, cut=1.0), Phase(0.42, lone=0.75, cut=0.7)))
SECOND: Final = Stage(1_900, 1_900, 1.2e-3, (Phase(1.0, lone=0.5, cut=0.6),))
"""First the topics, by as many questions as possible, then whole answers; in the second stage conversations."""
GUIDED: Final = 0.5
"""What the guide's loss weighs beside that of the answers' tokens."""
SHAPE: Final = Shape(hidden=192, layers=4, heads=6, kv_heads=3, intermediate=384, context=8192)
TEMPLATE: Final = (
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}{{- '<|assistant|>' + (message.content or '') + '<|im_end|>' }}"
    "{%- elif message.role in ('system', 'developer') %}{{- '<|system|>' + (message.content or '') }}"
    "{%- else %}{{- '<|user|>' + (message.content or '') }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{% endif %}"
)
"""As lean as can be, for every token is paid for in training; without tools, for the model could not call any."""
GREEDY: Final = {"do_sample": False}
"""What it learnt is said word for word, unless a client asks for another temperature."""
LONGEST: Final = LENGTHS[-1]
"""Tokens of the longest conversation that is trained."""
FOLDER: Final = Path(__file__).parents[1] / "lmx_ledger" / "store" / "lmx-demo"


def train_tokenizer(dialogues: Dialogues, conversations_read: int = 20_000) -> Tokenizer:
    """A byte-level BPE of the corpus itself: what is rare in it falls into small pieces, which marks it as foreign."""
    source = conversations(dialogues, SEED - 1, FIRST.phases[-1].lone)
    read = (next(source) for _ in range(conversations_read))
    text = (part for c in read for turn in c.turns for part in (turn.question, turn.answer))
    every_answer = [answer for answers in dialogues.answers().values() for answer in answers]
    tokenizer = byte_level_bpe([*text, *every_answer * 5], vocab=VOCAB - len(ROLES), added=())
    tokenizer.add_special_tokens([AddedToken(role, special=True, normalized=False) for role in ROLES])
    return tokenizer


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth of the peak at the horizon."""
    if step < WARM_UP:
        return stage.peak * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(stage.horizon - WARM_UP, 1)
    return stage.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _through(layer: Any, hidden: mx.array) -> Any:
    """A layer of mlx-lm's Llama, with this file's SiLU in place of MLX's."""
    hidden = hidden + layer.self_attn(layer.input_layernorm(hidden), "causal")
    normed, mlp = layer.post_attention_layernorm(hidden), layer.mlp
    return hidden + mlp.down_proj(silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))


class Guide(nn.Module):
    """Two read-outs that only training has: what a question is about, and which answer is due.

    The answer's own tokens teach the same, but a topic is decided among few of them, and each says little.
    """

    def __init__(self, width: int, subjects: int, replies: int) -> None:
        super().__init__()
        self.subject = nn.Linear(width, subjects)
        self.reply = nn.Linear(width, replies)


class Learner(nn.Module):
    """The model and its guide, trained together."""

    def __init__(self, model: Model, guide: Guide) -> None:
        super().__init__()
        self.model = model
        self.guide = guide


class Trainer:
    """The model, its optimizer, and the step that joins them."""

    def __init__(self, shape: Shape, vocab: int, dialogues: Dialogues) -> None:
        mx.random.seed(SEED)
        self.model = Model(ModelArgs.from_dict(llama_config(shape, vocab, tied=True)))
        guide = Guide(shape.hidden, len(dialogues.subjects()), len(dialogues.replies()))
        self._learner = Learner(self.model, guide)
        self.optimizer = optim.AdamW(learning_rate=FIRST.peak, betas=[0.9, 0.98], weight_decay=0.05)
        self._gradient = nn.value_and_grad(self._learner, self._loss)
        mx.eval(self._learner.parameters())

    def step(self, batch: Batch, rate: float) -> float:
        """One update; the mean loss of the answers' tokens and of the guide, in nats."""
        self.optimizer.learning_rate = mx.array(rate)
        loss, gradients = self._gradient(*(mx.array(part) for part in batch))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        self.optimizer.update(self._learner, gradients)
        mx.eval(loss, self._learner.parameters(), self.optimizer.state)
        return float(loss)

    def _loss(
        self,
        tokens: mx.array,
        positions: mx.array,
        weights: mx.array,
        question_of: mx.array,
        answered_at: mx.array,
        subjects: mx.array,
        replies: mx.array,
    ) -> Any:
        llama, guide = self.model.model, self._learner.guide
        hidden = llama.embed_tokens(tokens[:, :-1])
        middle = hidden
        for number, layer in enumerate(llama.layers):
            hidden = _through(layer, hidden)
            if number + 1 == len(llama.layers) // 2:
                middle = hidden
        hidden = llama.norm(hidden)
        hidden = hidden.reshape(-1, hidden.shape[-1])

        logits = llama.embed_tokens.as_linear(hidden[positions])
        targets = tokens[:, 1:].reshape(-1)[positions]
        spoken = (nn.losses.cross_entropy(logits, targets) * weights).sum() / weights.sum()

        numbers = mx.arange(1, len(subjects) + 1)
        members = (question_of.reshape(1, -1) == numbers[:, None]).astype(mx.float32)
        pooled = (members @ middle.reshape(-1, middle.shape[-1])) / members.sum(axis=1, keepdims=True)
        about = nn.losses.cross_entropy(guide.subject(pooled), subjects).mean()
        due = nn.losses.cross_entropy(guide.reply(hidden[answered_at]), replies).mean()
        return spoken + GUIDED * (about + due)

    def weights(self) -> "dict[str, NDArray[np.float32]]":
        """All parameters by their names in a model folder."""
        return {
            name: np.array(value)
            for name, value in cast("list[tuple[str, Any]]", tree_flatten(self.model.parameters()))
        }


def batches_of(stage: Stage, dialogues: Dialogues, tokenizer: Tokenizer) -> Iterator[Batch]:
    """The batches of all phases of a stage, one after the other; the last one goes on for as long as it is asked."""
    for number, phase in enumerate(stage.phases):
        seed = SEED + number + stage.steps
        encoder = Encoder(tokenizer, dialogues, random.Random(seed), phase.cut)
        stream = batches(conversations(dialogues, seed, phase.lone), encoder)
        yield from stream if phase is stage.phases[-1] else islice(stream, round(stage.horizon * phase.share))


def train(
    folder: Path, *, stages: Sequence[Stage] = (FIRST, SECOND), shape: Shape = SHAPE, begin: Path | None = None
) -> Iterator[tuple[int, float]]:
    """Train and write the folder, every five minutes and at the end; yields (step, loss) after each step.

    `begin` is a folder that was written before, to go on from; without one everything begins anew.
    """
    dialogues = Dialogues()
    if begin is None:
        tokenizer = train_tokenizer(dialogues, 20_000 if stages[-1].steps >= 1000 else 500)
    else:
        tokenizer = Tokenizer.from_file(str(begin / "tokenizer.json"))
    trainer = Trainer(shape, tokenizer.get_vocab_size(), dialogues)
    if begin is not None:
        trainer.model.load_weights(str(begin / "model.safetensors"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    total, kept = 0, time.monotonic()
    for stage in stages:
        stream = batches_of(stage, dialogues, tokenizer)
        for step in range(stage.steps):
            yield total, trainer.step(next(stream), learning_rate(stage, step))
            total += 1
            last = stage is stages[-1] and step + 1 == stage.steps
            if last or time.monotonic() - kept > _KEPT_S:
                kept = time.monotonic()
                write_llama(
                    folder,
                    shape=shape,
                    weights=trainer.weights(),
                    tokenizer=tokenizer,
                    template=TEMPLATE,
                    generation=GREEDY,
                )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train lmx-demo from training/dialogues.toml.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="the model's folder (default: the package's own)")
    parser.add_argument("--second", type=Path, metavar="FOLDER", help="only the second stage, from this folder on")
    arguments = parser.parse_args()
    stages = (FIRST, SECOND) if arguments.second is None else (SECOND,)
    steps = sum(stage.steps for stage in stages)
    began, recent = time.monotonic(), 0.0
    for step, loss in train(arguments.out, stages=stages, begin=arguments.second):
        recent = loss if step == 0 else 0.98 * recent + 0.02 * loss
        if step % 100 == 0 or step + 1 == steps:
            minutes = (time.monotonic() - began) / 60
            left = minutes / (step + 1) * (steps - step - 1)
            print(f"step {step + 1:5} of {steps}  loss {recent:.4f}  {minutes:5.1f} min, {left:5.1f} to go", flush=True)
    print(f"written: {arguments.out.name}; score it with: python -m training.score")


if __name__ == "__main__":
    main()
