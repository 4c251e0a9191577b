"""Drawing tokens: keyed by (seed, position), so that a stream is the same alone, in a batch and after a resume."""

from collections.abc import Callable
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from lmx_ledger.engine.protocol import Logprob, Sampling

Sampler: TypeAlias = Callable[[mx.array], mx.array]
LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]

_SEED_MASK = 0xFFFFFFFF
_GREEDY_BELOW = 1e-5
"""Temperatures under this are 0, as in vLLM: 1/temperature leaves float32 long before the draw could differ."""
_LEAST_TOP_P = 1e-6
"""Sums of probabilities in float32 are not exact to less: a smaller top_p could leave no token at all."""


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token of each row, `[B, V] -> [B]`. One object for all, so that the batch draws in one call."""
    return mx.argmax(logprobs, axis=-1)


def make_sampler(sampling: Sampling, vocab: int, position: int) -> Sampler:
    """A sampler `[1, V] -> [1]` for one stream whose next token is at `position` of its answer.

    Order as in vLLM: temperature, then top-k, top-p, min-p on what it left.
    """
    if sampling.temperature < _GREEDY_BELOW:
        return greedy
    top_p = max(sampling.top_p, _LEAST_TOP_P)
    seed = (sampling.seed ^ (sampling.seed >> 32)) & _SEED_MASK
    next_position = position

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal next_position
        key = mx.random.key((seed << 32) | next_position)
        next_position += 1
        likeliest = logprobs.max(axis=-1, keepdims=True)
        # From the likeliest down: divided by a small temperature, every exp() in apply_top_p would be 0 otherwise, and
        # with all of them cut off the draw is noise.
        scaled = (logprobs - likeliest).astype(mx.float32) * (1.0 / sampling.temperature)
        if 0 < sampling.top_k < vocab:
            scaled = apply_top_k(scaled, sampling.top_k)
        if top_p < 1:
            scaled = apply_top_p(scaled, top_p)
        if sampling.min_p > 0:
            scaled = apply_min_p(scaled, sampling.min_p)
        return mx.random.categorical(scaled, key=key)

    return draw


def make_processors(sampling: Sampling, vocab: int, prompt_len: int) -> list[LogitsProcessor]:
    """What changes the logits `[1, V]` of one stream before it draws, given all its tokens so far `[T]`.

    Repetition looks at prompt and answer (https://arxiv.org/abs/1909.05858), presence and frequency at the answer
    only, as in OpenAI's API; `prompt_len` is where the answer begins.
    """
    processors: list[LogitsProcessor] = []
    if sampling.logit_bias:
        ids = mx.array(list(sampling.logit_bias))
        values = mx.array(list(sampling.logit_bias.values()), dtype=mx.float32)

        def bias(_: mx.array, logits: mx.array) -> mx.array:
            return logits.at[:, ids].add(values.astype(logits.dtype))

        processors.append(bias)

    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty

        def repetition(tokens: mx.array, logits: mx.array) -> mx.array:
            seen = _counts(tokens, vocab) > 0
            return mx.where(seen, mx.where(logits < 0, logits * penalty, logits / penalty), logits)

        processors.append(repetition)

    if sampling.presence_penalty or sampling.frequency_penalty:
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty

        def presence_and_frequency(tokens: mx.array, logits: mx.array) -> mx.array:
            counts = _counts(tokens[prompt_len:], vocab).astype(logits.dtype)
            return logits - presence * (counts > 0) - frequency * counts

        processors.append(presence_and_frequency)
    return processors


def _counts(tokens: mx.array, vocab: int) -> mx.array:
    if tokens.size == 0:
        return mx.zeros(vocab)
    return mx.zeros(vocab).at[tokens].add(1)


def read_logprob(logprobs: mx.array, drawn: int, top: int) -> Logprob:
    """The drawn token's log-probability and the `top` likeliest of a row `[V]`, best first."""
    row = np.array(logprobs.astype(mx.float32))
    best: list[tuple[int, float]] = []
    if top:
        top = min(top, row.size)
        ids = np.argpartition(-row, top - 1)[:top]
        # Ties by id: the same row always gives the same list.
        best = [(int(i), float(row[i])) for i in sorted(ids, key=lambda i: (-row[i], i))]
    return Logprob(drawn=float(row[drawn]), top=best)
