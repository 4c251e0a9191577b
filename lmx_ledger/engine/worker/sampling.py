"""Drawing tokens: keyed by (seed, position), so that a stream is the same alone, in a batch and after a resume."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from lmx_ledger.engine.protocol import Logprob, Sampling

LogitsProcessor: TypeAlias = Callable[[mx.array, mx.array], mx.array]

_SEED_MASK = 0xFFFFFFFF
_GREEDY_BELOW = 1e-5
"""Temperatures under this are 0, as in vLLM: 1/temperature leaves float32 long before the draw could differ."""
_LEAST_TOP_P = 1e-6
"""Sums of probabilities in float32 are not exact to less: a smaller top_p could leave no token at all."""


class _Way(NamedTuple):
    """How a row is drawn; rows of one way are drawn in one call. None of it is used at temperature 0."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


class Draw:
    """Draws the next token of each of some rows, any mixture of greedy and seeded ones, with few calls for all.

    Built anew whenever the rows change; `positions` then goes on by itself.
    """

    def __init__(self, samplings: Sequence[Sampling], vocab: int, positions: Sequence[int]) -> None:
        """`positions[i]` is the place in its answer of what row i draws next."""
        self._vocab = vocab
        self._keys = np.array([[_folded(s.seed), p] for s, p in zip(samplings, positions, strict=True)], np.uint32)
        ways: dict[_Way, list[int]] = {}
        for row, sampling in enumerate(samplings):
            ways.setdefault(_way(sampling), []).append(row)
        self._ways = [(way, np.array(rows)) for way, rows in ways.items()]
        order = np.concatenate([rows for _, rows in self._ways])
        self._back = mx.array(np.argsort(order)) if len(self._ways) > 1 else None

    def __call__(self, logits: mx.array) -> mx.array:
        """`[B, V] -> [B]`, lazily."""
        if self._back is None:
            (way, _), *_ = self._ways
            drawn = self._drawn(way, logits, self._keys)
        else:
            parts = [self._drawn(way, logits[mx.array(rows)], self._keys[rows]) for way, rows in self._ways]
            drawn = mx.concatenate(parts)[self._back]
        self._keys[:, 1] += 1
        return drawn

    def _drawn(self, way: _Way, logits: mx.array, keys: "np.ndarray[tuple[int, int], np.dtype[np.uint32]]") -> mx.array:
        """Order as in vLLM: temperature, then top-k, top-p, min-p on what it left."""
        if way.temperature == 0:
            return mx.argmax(logits, axis=-1)
        likeliest = logits.max(axis=-1, keepdims=True)
        # From the likeliest down: divided by a small temperature, every exp() in apply_top_p would be 0 otherwise, and
        # with all of them cut off the draw is noise.
        scaled = (logits - likeliest).astype(mx.float32) * (1.0 / way.temperature)
        if 0 < way.top_k < self._vocab:
            scaled = apply_top_k(scaled, way.top_k)
        if way.top_p < 1:
            scaled = apply_top_p(scaled, way.top_p)
        if way.min_p > 0:
            scaled = apply_min_p(scaled, way.min_p)
        # The Gumbel trick: https://arxiv.org/abs/1611.00712. One key per row, so no row's draw depends on its company.
        return mx.argmax(scaled + _gumbel(mx.array(keys), scaled.shape[-1]), axis=-1)


def _gumbel(keys: mx.array, width: int) -> mx.array:
    noise: mx.array = mx.vmap(lambda key: mx.random.gumbel((width,), key=key))(keys)
    return noise


def _folded(seed: int) -> int:
    return (seed ^ (seed >> 32)) & _SEED_MASK


def _way(sampling: Sampling) -> _Way:
    if sampling.temperature < _GREEDY_BELOW:
        return _Way(0.0)
    return _Way(sampling.temperature, max(sampling.top_p, _LEAST_TOP_P), sampling.top_k, sampling.min_p)


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
