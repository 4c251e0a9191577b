"""Whoever watches a pull."""

from typing import Protocol


class Progress(Protocol):
    """Hears how a pull goes on; counts are bytes."""

    def begin(self, total_bytes: int, have_bytes: int) -> None:
        """The files are known, and how much of them is here already."""

    def step(self, text: str) -> None:
        """What is being done now: `fetching NAME`, `checking NAME`."""

    def advance(self, count: int) -> None:
        """So many bytes more; fewer, where the hub cannot resume or sent what it should not."""

    def say(self, text: str) -> None:
        """A line worth telling: a try that failed."""


class Silent:
    """Nobody watches."""

    def begin(self, total_bytes: int, have_bytes: int) -> None: ...
    def step(self, text: str) -> None: ...
    def advance(self, count: int) -> None: ...
    def say(self, text: str) -> None: ...
