"""One model's memory as the daemon keeps account of it: what was granted to its worker, and for what."""

from typing import Any, Final

from lmx_ledger.engine.protocol import KvShape, Loaded
from lmx_ledger.memory.plan import Line

PIECE: Final = 32
"""Tokens of a prompt that can be read at once in what is reserved; where there is more room, more are."""
_LEAST_WORKING: Final = 1 << 20
_UNLOADED_SHARE: Final = 20
"""Before a model is loaded nobody knows what a pass takes: one part in so many of its weights."""
LEAST_KEPT: Final = 1 << 20
"""Room for KV on its way to the disk."""
LEARNED: Final = 1.25
"""A worker that lacked memory has more reserved for each pass from then on, but not without end."""
MOST_LEARNED: Final = 4.0


class Holding:
    """`granted` is what the arrays of its worker may take: weights in memory, KV, working memory, and what is to spare.

    `kv` has the bytes of each request that is admitted, `kept` the room for KV at rest.
    """

    def __init__(self, model: str, weights: int, kept: int) -> None:
        """Of a model that is about to be loaded."""
        self.model = model
        self.layers: list[int] = [weights]
        self.out = 0
        self.shape = KvShape(0)
        self.scale = 1.0
        self.kv: dict[object, int] = {}
        self.longest: dict[object, int] = {}
        self.kept = self.kept_most = kept
        self.granted = 0
        # What its arrays take, as the worker said last, and what its process takes beside them.
        self.active = self.overhead = 0
        self.came_s = self.used_s = float("-inf")
        self.took_s = 0.0
        self._pass_token = self._pass_pair = 0.0

    def loaded(self, loaded: Loaded, now_s: float) -> None:
        """Its worker has read it, and measured what it takes; its turn begins `now_s`."""
        self.layers, self.out, self.shape = list(loaded.layers), 0, loaded.shape
        self._pass_token, self._pass_pair = loaded.pass_token, loaded.pass_pair
        self.active, self.came_s, self.took_s = loaded.active_bytes, now_s, loaded.ms / 1e3

    @property
    def weights(self) -> int:
        """In memory, or on their way there."""
        return sum(self.layers) if not self.out else sum(self.layers[: -self.out])

    @property
    def out_bytes(self) -> int:
        """On disk only."""
        return sum(self.layers) - self.weights

    @property
    def allowed(self) -> int:
        """What it may take: by that others are held off. What its process takes beside it is nobody's choice."""
        return self.granted + self.kept

    @property
    def total(self) -> int:
        """All that is its own."""
        return self.allowed + self.overhead

    def kv_bytes(self, tokens: int) -> int:
        """Of one stream of so many tokens."""
        return self.shape.bytes(tokens)

    def working(self, longest: int = 0) -> int:
        """Of passes behind as many tokens as the longest stream has, or that one; nothing where there is none.

        Of a piece of a prompt, and of one layer's KV, which is made anew when it grows.
        """
        if not self.longest and not longest:
            return 0
        length = max([longest, *self.longest.values()])
        piece = PIECE * (self._pass_token + self._pass_pair * (length + PIECE)) * self.scale
        grown = (sum(self.kv.values()) + (self.kv_bytes(longest) if longest else 0)) // max(len(self.layers) - 1, 1)
        return int(piece) + grown + _LEAST_WORKING

    @staticmethod
    def working_of_load(weights: int) -> int:
        """While it is loaded: arrays that an architecture makes anew, and the first pass."""
        return max(weights // _UNLOADED_SHARE, _LEAST_WORKING)

    def needs(self, kv: int = 0, longest: int = 0) -> int:
        """What its arrays must be able to take, with one more request."""
        return self.weights + sum(self.kv.values()) + kv + self.working(longest)

    @property
    def spare(self) -> int:
        """Granted, neither needed nor taken."""
        return max(self.granted - max(self.needs(), self.active + self.working()), 0)

    def line(self, *, busy: bool, pinned: bool, priority: int) -> Line:
        """For the planner. What was granted in excess of the parts, and cannot be had back now, is working memory."""
        kv, spare = sum(self.kv.values()), self.spare
        in_memory = self.layers[: len(self.layers) - self.out]
        # Who does nothing has nothing on its way to the disk.
        on_the_way = min(self.kept, LEAST_KEPT) if busy else 0
        return Line(
            model=self.model,
            layers=tuple(reversed(in_memory)),
            kv=kv,
            kept=self.kept - on_the_way,
            working=max(self.granted - self.weights - kv - spare, 0) + on_the_way + self.overhead,
            spare=spare,
            busy=busy,
            pinned=pinned,
            priority=priority,
            used_s=self.used_s,
            came_s=self.came_s,
            took_s=self.took_s,
        )

    def public(self) -> dict[str, Any]:
        """A line of `/lmx/memory`."""
        kv, spare = sum(self.kv.values()), self.spare
        return {
            "model": self.model,
            "weights_bytes": self.weights,
            "paged_bytes": self.out_bytes,
            "kv_bytes": kv,
            "kept_bytes": self.kept,
            "working_bytes": max(self.granted - self.weights - kv - spare, 0),
            "spare_bytes": spare,
            "overhead_bytes": self.overhead,
            "total_bytes": self.total,
            "active_bytes": self.active,
            "requests": len(self.kv),
        }
