"""A daemon keeps its projections up, says once when it cannot, and serves on."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from lmx_ledger.core.clock import utc_us
from lmx_ledger.daemon.main import projections
from lmx_ledger.daemon.projector import Projector
from lmx_ledger.ledger.projection import FILE, Projections, open_to_read
from lmx_ledger.ledger.query import Reader
from lmx_ledger.slo.rollup import MINUTE_US, rollups
from tests.conftest import RunningDaemon, eventually
from tests.ledger.parts import queued, write


def answered(home: Path) -> int:
    now = utc_us()
    return rollups(home / FILE, now - 60 * MINUTE_US, now + MINUTE_US, "chain", "outcome.ok").count


async def test_requests_are_rolled_up_while_the_daemon_runs_and_a_restart_goes_on(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    own = start_daemon(model_config)
    await eventually((own.home / FILE).is_file)
    assert own.chat(model="chain").status_code == 200
    await eventually(lambda: answered(own.home) == 1)
    assert rollups(own.home / FILE, 0, utc_us() + MINUTE_US, None, "cold_start_ms").count == 2
    own.kill()
    own.restart()
    assert own.chat(model="chain").status_code == 200
    await eventually(lambda: answered(own.home) == 2)
    assert own.stop() == 0
    assert "projections" not in own.log.read_text()


async def test_a_file_that_cannot_be_used_is_said_once_and_made_anew(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    own = start_daemon(model_config)
    assert own.chat(model="chain").status_code == 200
    await eventually(lambda: (own.home / FILE).is_file() and answered(own.home) == 1)

    def said(words: str) -> int:
        return own.log.read_text().count(words)

    junk = own.home / "junk"
    junk.write_bytes(b"no database at all" * 1000)
    for beside in own.home.glob(f"{FILE}-*"):
        beside.unlink()
    junk.replace(own.home / FILE)
    await eventually(lambda: said("was corrupt (file is not a database) and is folded anew") == 1)
    await eventually(lambda: said(f"{FILE} is folded again") == 1)
    assert answered(own.home) == 1

    for file in own.home.glob(f"{FILE}*"):
        file.unlink()
    (own.home / FILE).mkdir()
    await eventually(lambda: said("cannot be folded") == 2)
    assert own.chat(model="chain").status_code == 200
    # Who judges objectives by it may have said so of its own.
    assert said("serving goes on, and it is tried again") >= 2
    (own.home / FILE).rmdir()
    await eventually(lambda: said(f"{FILE} is folded again") == 2)
    await eventually(lambda: answered(own.home) == 2)
    (own.home / FILE).unlink()
    (own.home / FILE).mkdir()
    assert own.stop() == 0
    assert said("Traceback") == 0


def test_one_that_is_stopped_in_the_middle_of_a_long_history_has_folded_whole_pages(tmp_path: Path) -> None:
    path, file = tmp_path / "ledger.db", tmp_path / FILE
    write(path, *(queued() for _ in range(30_000)))
    reader = Reader.open(path)
    said: list[str] = []
    projector = Projector(Projections(file, projections(), reader), said.append)
    projector.start()
    while not file.exists():
        pass
    projector.ask_to_stop()
    projector.join()
    rest = Projections(file, projections(), reader)
    while rest.advance():
        pass
    rest.close()
    reader.close()
    with closing(open_to_read(file)) as connection:
        assert {seq for (seq,) in connection.execute("SELECT reached_seq FROM projection")} == {30_000}
    assert said == []
