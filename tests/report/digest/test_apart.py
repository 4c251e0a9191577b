"""A digest from a process of its own: the same bytes, trouble as one line, and an end when nobody waits any more."""

import asyncio
from pathlib import Path

import psutil
import pytest

from lmx_ledger.report.apart import NotMade
from lmx_ledger.report.digest.apart import digest_apart
from lmx_ledger.report.digest.from_ledger import as_form
from tests.conftest import eventually
from tests.report.digest import parts
from tests.report.digest.parts import WEEK


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.write(tmp_path_factory.mktemp("home"), parts.two_weeks())


@pytest.mark.parametrize("form", ["json", "md", "html"])
async def test_it_gives_the_bytes_that_are_made_here(ledger: Path, form: str) -> None:
    assert await digest_apart(ledger, WEEK, form, nice=19) == as_form(parts.made(ledger), form)


async def test_what_is_wrong_with_the_ledger_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("no ledger at all, and long enough to be taken for one" * 20)
    for path in (tmp_path / "nowhere.db", tmp_path / "ledger.db"):
        with pytest.raises(NotMade) as caught:
            await digest_apart(path, WEEK, "md")
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)


async def test_it_ends_with_whoever_waits_for_it(ledger: Path) -> None:
    before = children()
    making = asyncio.create_task(digest_apart(ledger, WEEK, "md"))
    await eventually(lambda: children() != before)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert set(children()) <= set(before)


def children() -> list[int]:
    return [one.pid for one in psutil.Process().children() if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
