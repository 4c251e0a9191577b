"""A disk that is to seem slow."""

import threading

from lmx_ledger.engine.worker.pace import Pace


def test_a_rehearsal_that_ends_lets_go_whoever_waits_for_its_disk() -> None:
    pace = Pace()
    pace.bytes_per_s = 1
    reader = threading.Thread(target=pace.spend, args=(10**9,), daemon=True)
    reader.start()
    reader.join(0.2)
    assert reader.is_alive()
    pace.bytes_per_s = 0
    reader.join(60)
    assert not reader.is_alive()


def test_a_disk_that_is_as_it_is_costs_nobody_any_time() -> None:
    Pace().spend(10**18)
