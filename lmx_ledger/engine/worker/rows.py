"""Streams as the worker knows them: prompt, tokens so far, cache; and groups of them that take their steps together."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from lmx_ledger.engine.kv.chain import Chain
from lmx_ledger.engine.protocol import Insert, Logprob, first_room, growth_of_room
from lmx_ledger.engine.worker.sampling import Draw, LogitsProcessor, make_processors, read_logprob
from lmx_ledger.engine.worker.schedule import Mean
from lmx_ledger.engine.worker.slots import AT_ONCE, as_batch, copied, growth, joined, make_room, one_of, packed, settle


class Row:
    """One stream. `tokens` is all that it consists of (prompt, then what was told), of which the cache has `read`."""

    def __init__(self, insert: Insert, vocab: int) -> None:
        self.insert = insert
        self.tokens = list(insert.prompt)
        self.processors: list[LogitsProcessor] = make_processors(insert.sampling, vocab, insert.prompt_len)
        self.eos = frozenset(insert.eos)
        self.read = 0
        self.cache: list[Any] = []
        # The names of its tokens, where KV is kept.
        self.chain: Chain | None = None
        # Failed in company since its last token: it is tried alone until it gives one.
        self.suspect = False
        self.failed_alone = 0

    @property
    def told(self) -> int:
        """Tokens that the daemon has had from this worker."""
        return len(self.tokens) - len(self.insert.prompt)

    @property
    def left(self) -> int:
        """Tokens that it may still give."""
        return self.insert.max_tokens - self.told

    @property
    def unread(self) -> int:
        """Tokens that the cache lacks before the next one can be drawn; the last of all is not among them."""
        return len(self.tokens) - 1 - self.read

    @property
    def room(self) -> int:
        """Tokens that its cache is made for at once where that can be: growing it copies it each time."""
        return first_room(len(self.tokens), self.left)

    def begin_reading(self, module: nn.Module) -> None:
        """An empty cache."""
        self.cache, self.read = make_prompt_cache(module), 0
        for part in self.cache:
            if type(part) is KVCache:
                part.step = self.room

    def begin_behind(self, cache: list[Any], tokens: int) -> None:
        """A cache that has so many tokens, and room for the others."""
        self.cache, self.read = cache, tokens

    def end_reading(self) -> None:
        """From here on the cache grows by little: by a sixteenth of what it is, for that is what growing it copies."""
        for part in self.cache:
            if type(part) is KVCache:
                part.step = growth_of_room(self.room)

    def read_with(self, other: "Row") -> None:
        """Have what one of the same tokens has read; nothing is copied before one of them goes on."""
        self.cache, self.read = copy.deepcopy(other.cache), other.read

    def forget(self) -> None:
        """Let the cache go; it is read again from the first token."""
        self.cache, self.read = [], 0


class Told(NamedTuple):
    """One token of one row, with its log-probabilities where the row asked for them."""

    row: Row
    token: int
    logprob: Logprob | None


class Group:
    """Rows whose caches are one batch. A `step` begins the next one before it waits, so that the device is never idle;
    `take` and `launch` give the tokens before that.

    An exception leaves it unusable; the rows' own tokens are then what was told.
    """

    def __init__(
        self, module: nn.Module, vocab: int, row: Row, leaving: Callable[[Row, int, list[Any]], None] | None = None
    ) -> None:
        """Of one row that is read but for its last token: to be launched, or taken in by a group that was.

        `leaving` gets each row that leaves, its cache, whose arrays may not be kept, and of how many tokens that is.
        """
        self._module = module
        self._vocab = vocab
        self._leaving = leaving
        self.rows = [row]
        # Alone, a row keeps the cache that it was read into: no padding, no mask, no copy.
        self._cache, row.cache = row.cache, []
        self._alone = True
        # What a step of it takes, how many rounds it has let pass, and what it waits for (see `schedule.Queued`).
        self.step_s = Mean()
        self.rounds_waited = 0
        self.ticket = 0
        # What is put through next: of a fresh row its last token, of the others a draw that is under way.
        self._tokens = mx.array([row.tokens[-1]])
        self._fresh = [True]
        self._logprobs: mx.array | None = None
        self._draw = self._new_draw()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row.tokens) for row in self.rows]

    @property
    def can_share(self) -> bool:
        """Whether others may join it: not every kind of cache can be a batch, and a suspect is alone."""
        return not self.rows[0].suspect and (not self._alone or all(map(_can_share, self._cache)))

    @property
    def copies(self) -> int:
        """Bytes that it takes to make caches anew in the next step, as far as can be foretold."""
        leaving = len(self.rows) > 1 and any(row.left <= 1 for row in self.rows)
        grown, moved = growth(self._cache).bytes, copied(self._cache).bytes if leaving else 0
        # One is done with before the other begins, but for what is not large.
        return max(grown, moved, min(grown + moved, AT_ONCE))

    def copies_with(self, other: "Group") -> int:
        """Bytes that it takes to have the other's rows as well."""
        return joined(self._cache, other._cache).bytes

    def take_in(self, other: "Group") -> None:
        """Have the rows of another group from now on; that one is used up."""
        for group in (self, other):
            group._as_batch()
        large = joined(self._cache, other._cache).made > AT_ONCE
        for own in self._cache:
            # What the other has of a layer is to be gone before the next one is made anew.
            own.extend(other._cache.pop(0))
            settle(own, large=large)
        self.rows += other.rows
        self._fresh += other._fresh
        self._tokens = mx.concatenate([self._tokens, other._tokens])
        if self._logprobs is not None or other._logprobs is not None:
            self._logprobs = mx.concatenate([self._known_logprobs(), other._known_logprobs()])
        self._draw = self._new_draw()

    def drop(self, rows: Sequence[Row]) -> bool:
        """Go on without some rows; False when none is left."""
        keep = [number for number, row in enumerate(self.rows) if row not in rows]
        if len(keep) < len(self.rows):
            self._keep(keep)
        return bool(self.rows)

    def step(self) -> list[Told]:
        """The tokens that were under way; rows that are done have left. Waits for the device."""
        tokens, rows, logprobs, fresh = self._tokens, self.rows, self._logprobs, self._fresh
        # Whoever has its last token need not put it through.
        keep = [number for number, row in enumerate(rows) if fresh[number] or row.left > 1]
        if len(keep) < len(rows):
            self._keep(keep)
        if self.rows:
            self.launch()
        drawn: list[int] = np.array(tokens).tolist()
        told = [
            Told(row, token, self._logprob(row, token, logprobs, number))
            for number, (row, token) in enumerate(zip(rows, drawn, strict=True))
            if not fresh[number]
        ]
        # Nothing can fail from here on: a token that is a row's is told.
        for row, token, _ in told:
            row.tokens.append(token)
            row.suspect, row.failed_alone = False, 0
        ended = [row for row, token, _ in told if token in row.eos]
        if ended:
            self.drop(ended)
        return told

    @property
    def awaits_first(self) -> bool:
        """Whether the first token of one of its rows is under way."""
        return any(not row.told and not fresh for row, fresh in zip(self.rows, self._fresh, strict=True))

    def take(self) -> list[Told]:
        """The tokens that were under way; rows that are done have left, and nothing is under way until `launch`."""
        drawn: list[int] = np.array(self._tokens).tolist()
        told = [
            Told(row, token, self._logprob(row, token, self._logprobs, number))
            for number, (row, token) in enumerate(zip(self.rows, drawn, strict=True))
            if not self._fresh[number]
        ]
        for row, token, _ in told:
            row.tokens.append(token)
            row.suspect, row.failed_alone = False, 0
        self._fresh = [True] * len(self.rows)
        if ended := [row for row, token, _ in told if token in row.eos or row.left == 0]:
            self.drop(ended)
        return told

    def launch(self) -> None:
        """Put the tokens through and draw the next ones, without waiting."""
        make_room(self._cache)
        logits = self._module(self._tokens[:, None], cache=self._cache)[:, -1, :]
        if any(row.processors for row in self.rows):
            logits = mx.concatenate([self._processed(n, row, logits[n : n + 1]) for n, row in enumerate(self.rows)])
        drawn = self._draw(logits)
        self._logprobs = None
        if any(row.insert.sampling.logprobs for row in self.rows):
            self._logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            mx.async_eval(drawn, self._logprobs)  # type: ignore[no-untyped-call]
        else:
            mx.async_eval(drawn)  # type: ignore[no-untyped-call]
        self._tokens, self._fresh = drawn, [False] * len(self.rows)

    def _logprob(self, row: Row, token: int, logprobs: mx.array | None, number: int) -> Logprob | None:
        wanted = row.insert.sampling
        if logprobs is None or not wanted.logprobs:
            return None
        return read_logprob(logprobs[number], token, wanted.top_logprobs)

    def _processed(self, number: int, row: Row, logits: mx.array) -> mx.array:
        if row.processors:
            # One that is under way is not among the row's tokens yet.
            so_far = mx.array(row.tokens)
            if not self._fresh[number]:
                so_far = mx.concatenate([so_far, self._tokens[number : number + 1]])
            for process in row.processors:
                logits = process(so_far, logits)
        return logits

    def _keep(self, kept: list[int]) -> None:
        if self._leaving is not None:
            for number in set(range(len(self.rows))) - set(kept):
                row = self.rows[number]
                tokens = len(row.tokens) - self._fresh[number]
                # Views of the caches by a name of their own would have all of them copied when others move up.
                self._leaving(
                    row, tokens, self._cache if self._alone else [one_of(part, number) for part in self._cache]
                )
        keep = packed(len(self.rows), kept)
        self.rows = [self.rows[number] for number in keep]
        self._fresh = [self._fresh[number] for number in keep]
        if not keep:
            self._cache = []
            return
        if len(keep) < len(self._tokens):
            numbers = mx.array(keep)
            large = copied(self._cache).made > AT_ONCE
            for part in self._cache:
                part.filter(keep)
                settle(part, large=large)
            self._tokens = self._tokens[numbers]
            if self._logprobs is not None:
                self._logprobs = self._logprobs[numbers]
        self._draw = self._new_draw()

    def _new_draw(self) -> Draw:
        return Draw(
            [row.insert.sampling for row in self.rows],
            self._vocab,
            [
                len(row.tokens) - row.insert.prompt_len + (not fresh)
                for row, fresh in zip(self.rows, self._fresh, strict=True)
            ],
        )

    def _as_batch(self) -> None:
        if self._alone:
            self._cache = [as_batch(part) for part in self._cache]
            self._alone = False

    def _known_logprobs(self) -> mx.array:
        if self._logprobs is None:
            return mx.zeros((len(self.rows), self._vocab))
        return self._logprobs


def _can_share(part: Any) -> bool:
    # A batch of rotating caches forgets the first tokens that `keep` stands for.
    return hasattr(part, "merge") and not (isinstance(part, RotatingKVCache) and part.keep)
