"""Which models are resident, per run, and what the next start finds of the run before."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmx_ledger.core import events as ev
from lmx_ledger.ledger.fold import PerBoot, Runs, state_at
from lmx_ledger.ledger.query import Reader
from lmx_ledger.memory.residency import Residency, ResidencyFold
from tests.ledger.parts import started, stopped, write

Fold = Callable[[], Runs[Residency]]


def of(model: str, data: ev.EventData) -> ev.Event:
    return ev.Event(data=data, stream=f"model:{model}", model=model)


def loaded(model: str, weights_bytes: int = 100) -> ev.Event:
    return of(model, ev.ModelLoaded(weights_bytes=weights_bytes, context=1, vocab=1, architecture="a", ms=1.0))


def unloaded(model: str, reason: str = "asked") -> ev.Event:
    return of(model, ev.ModelUnloaded(reason=reason))


def exited(model: str, *, expected: bool) -> ev.Event:
    data = ev.EngineExited(pid=1, code=0, signal=None, stderr_tail="", last_acts=[], expected=expected, in_flight=[])
    return of(model, data)


def crashed(boot: str) -> ev.Event:
    data = ev.DaemonCrashDetected(boot=boot, pid=1, last_seq=1, last_time="", last_acts=[])
    return ev.Event(data=data, stream="daemon")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def fold(path: Path, tmp_path: Path) -> Fold:
    def folded() -> Runs[Residency]:
        reader = Reader.open(path)
        try:
            return state_at(PerBoot(ResidencyFold()), reader, tmp_path / "none.db", reader.head())
        finally:
            reader.close()

    return folded


def test_a_model_is_resident_from_its_load_until_it_is_unloaded_or_its_worker_dies(path: Path, fold: Fold) -> None:
    write(path, started(), loaded("m0", 100), loaded("m1", 200), loaded("m2", 300))
    now = fold().running["boot-a"]
    assert now.weights_bytes == 600
    assert (now.resident["m1"].weights_bytes, now.resident["m1"].seq) == (200, 3)
    write(path, unloaded("m0"), exited("m1", expected=False))
    assert set(fold().running["boot-a"].resident) == {"m2"}
    write(path, of("m2", ev.ModelLoadFailed(path="/m", error="gone")), loaded("m1", 50))
    now = fold().running["boot-a"]
    assert (set(now.resident), now.weights_bytes) == ({"m1"}, 50)


def test_a_start_knows_what_the_run_that_stopped_had(path: Path, fold: Fold) -> None:
    ends = [
        event for model in ("m0", "m1") for event in (exited(model, expected=True), unloaded(model, "daemon_stopped"))
    ]
    write(path, started(), loaded("m0"), loaded("m1"), loaded("m2"), unloaded("m2"), *ends, stopped())
    write(path, started(), boot="boot-b")
    now = fold().running["boot-b"]
    assert (now.resident, set(now.before)) == ({}, {"m0", "m1"})


def test_a_start_knows_what_the_run_that_crashed_had(path: Path, fold: Fold) -> None:
    write(path, started(), loaded("m0"))
    write(path, crashed("boot-a"), started(), loaded("m1"), boot="boot-b")
    runs = fold()
    assert list(runs.running) == ["boot-b"]
    assert set(runs.running["boot-b"].before) == {"m0"}
    assert set(runs.running["boot-b"].resident) == {"m1"}


def test_two_daemons_side_by_side_are_no_business_of_each_other(path: Path, fold: Fold) -> None:
    write(path, started(), loaded("m0"))
    write(path, started(), loaded("m0"), boot="boot-b")
    write(path, unloaded("m0"))
    runs = fold().running
    assert runs["boot-a"].resident == {}
    assert set(runs["boot-b"].resident) == {"m0"}
    assert runs["boot-b"].before == {}
