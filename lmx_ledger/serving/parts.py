"""Where a request's time goes: every moment of it is in one part, so that the parts add up to the whole."""

from collections.abc import Mapping
from typing import Final

from lmx_ledger.engine.stream import Share, Spent

ADMISSION: Final = "admission"
QUEUE: Final = "queue"
MEMORY: Final = "memory"
LOAD: Final = "load"
PAGE_IN: Final = "page_in"
RESTORE: Final = "restore"
PREFILL: Final = "prefill"
STALLS: Final = "stalls"
DECODE: Final = "decode"
RESUME: Final = "resume"
TOOLS: Final = "tools"
CLIENT: Final = "client"

PARTS: Final[dict[str, str]] = {
    ADMISSION: "checks, template and tokens",
    LOAD: "its model was loading",
    MEMORY: "waiting for memory or its turn",
    PAGE_IN: "its weights came back from disk",
    QUEUE: "waiting for a free slot",
    RESTORE: "kept KV was fetched",
    PREFILL: "its prompt was read",
    STALLS: "the worker did others' work",
    DECODE: "its answer was drawn",
    RESUME: "starting over after a break",
    TOOLS: "its tool calls were parsed",
    CLIENT: "the rest went to its client",
}
"""Every part, in the order in which a request comes through them, and what it means."""


class Parts:
    """One request's. A cursor goes through its time; whoever knows what the time up to now went to says so.

    `rest` is what time goes to of which nobody says more. While the worker has the request, what it did for others is
    in `stalls`: the reading of their prompts and, before the first token, their steps as well. All in nanoseconds.
    """

    def __init__(self, began_ns: int) -> None:
        self.rest = ADMISSION
        self.share = Share()
        self.began_ns = self._at = began_ns
        self._ns: dict[str, int] = {}
        self._spent: Spent | None = None
        self._read = self._stepped = self._own = self._own_steps = 0

    def begin_in(self, spent: Spent) -> None:
        """A worker has it from now on, of whose time that is the account."""
        if self._spent is not spent:
            share = self.share
            self._spent = spent
            self._read, self._stepped, self._own, self._own_steps = spent.read, spent.stepped, share.read, share.stepped

    def charge(self, part: str, until: int) -> None:
        """All time up to then was that part's."""
        if until > self._at:
            self._ns[part] = self._ns.get(part, 0) + until - self._at
            self._at = until

    def divide(self, until: int, waited: Mapping[str, int]) -> None:
        """Up to then it went to these parts, as much to each; what is left over goes to `rest`."""
        for part, ns in waited.items():
            self.charge(part, min(self._at + ns, until))
        self.charge(self.rest, until)

    def look(self, until: int) -> None:
        """Up to then the worker had it, as far as it had."""
        spent, share, rest = self._spent, self.share, self.rest
        if spent is not None:
            # Each token comes by here: no tuple, no loop.
            own = share.read - self._own
            others = spent.read - self._read - own
            if rest is PREFILL:
                others += spent.stepped - self._stepped - share.stepped + self._own_steps
            self._read, self._stepped, self._own, self._own_steps = spent.read, spent.stepped, share.read, share.stepped
            if rest is PREFILL or rest is DECODE:
                if share.restored:
                    self.charge(RESTORE, min(self._at + share.restored, until))
                    share.restored = 0
                if others > 0:
                    self.charge(STALLS, min(self._at + others, until))
                if own:
                    # Also that of another choice's prompt, read while this one is answered.
                    self.charge(PREFILL, min(self._at + own, until))
        self.charge(rest, until)

    def told(self) -> dict[str, float]:
        """In milliseconds, up to where it was charged; what took no time is left out."""
        known = ((part, round(self._ns.get(part, 0) / 1e6, 3)) for part in PARTS)
        return {part: ms for part, ms in known if ms}
