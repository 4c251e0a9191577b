"""The progress of a pull, for a person at a terminal; nothing for anybody else."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from lmx_ledger.cli.display import harmless, terminal
from lmx_ledger.store.progress import Progress as PullProgress
from lmx_ledger.store.progress import Silent

_WIDE: Final = 70


class _Bar(Progress):
    """What is being done now on a line of its own, above the bar: names of shards are long and terminals narrow."""

    now = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The line, and the bar once there is one."""
        yield Text(self.now, style="dim", no_wrap=True, overflow="ellipsis")
        if self.tasks:
            table = self.make_tasks_table(self.tasks)
            # Room for the ^C that a terminal writes: on a full line it would wrap, and a line would be left behind.
            table.width = max(self.console.width - 3, 1)
            yield table


class _Watched:
    """A pull's progress on such a bar."""

    def __init__(self, bar: _Bar) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, total_bytes: int, have_bytes: int) -> None:
        # What was here from before is no speed.
        self._task = self._bar.add_task("", total=total_bytes, completed=have_bytes)

    def step(self, text: str) -> None:
        self._bar.now = harmless(text)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)

    def say(self, text: str) -> None:
        self._bar.console.print(Text(f"lmx: {harmless(text)}", style="yellow"))


@contextmanager
def watched(*, quiet: bool) -> Iterator[PullProgress]:
    """A progress on stderr where that is a terminal; it is gone when the block ends."""
    console = terminal(stderr=True)
    if quiet or not console.is_terminal:
        yield Silent()
        return
    with _Bar(*_columns(console), console=console, transient=True, expand=True) as bar:
        yield _Watched(bar)


def _columns(console: Console) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    ]
    return [*columns, TimeRemainingColumn(compact=True)] if console.width >= _WIDE else columns
