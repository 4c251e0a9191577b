"""An event's place in the ledger, and those who wait for it on an event loop."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple, Self

import msgspec


class Waiter(NamedTuple):
    """A future, and the loop on whose thread alone it may be touched."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[int | None]

    @classmethod
    def here(cls) -> Self:
        """One for the running loop."""
        loop = asyncio.get_running_loop()
        return cls(loop, loop.create_future())


class Place(msgspec.Struct, eq=False, gc=False):
    """The ticket of an emitted event. All but `seq` belongs to the ledger, under its lock.

    `seq` is None until the event is durable; `planned` is the seq that it has in the group being written, by which
    later events of the same group name it as their cause. `late`: somebody acted without waiting any longer.
    """

    seq: int | None = None
    planned: int | None = None
    late: bool = False
    lost: bool = False
    waiters: list[Waiter] | None = None

    def wait(self, waiter: Waiter) -> None:
        """One more that is to be told."""
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(waiter)

    def told(self) -> list[Waiter]:
        """Those who waited; nobody does any longer."""
        waiters, self.waiters = self.waiters or [], None
        return waiters


def wake(waiters: Iterable[tuple[Waiter, int | None]]) -> None:
    """Give each waiter its seq (None: lost), with one call into each loop. From any thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int | None], int | None]]] = defaultdict(list)
    for waiter, seq in waiters:
        by_loop[waiter.loop].append((waiter.future, seq))
    for loop, results in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set, results)
        except RuntimeError:
            # The loop is closed: whoever waited there is gone, and the event is written all the same.
            continue


def _set(results: list[tuple[asyncio.Future[int | None], int | None]]) -> None:
    for future, seq in results:
        if not future.done():
            future.set_result(seq)
