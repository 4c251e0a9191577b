"""Streams that begin behind KV that was kept are the streams that they would have been without."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.kv.chain import LEAST_TOKENS
from tests.conftest import eventually
from tests.engine.parts import Engine, fail_when, prompt
from tests.engine.shapes import SHAPES, write_shape

BLOCK = 16
GREEDY = wire.Sampling(temperature=0.0)


def kept_in(folder: Path, **more: Any) -> wire.Kv:
    given = {"folder": str(folder), "fingerprint": "weights", "block": BLOCK, "ram": 10**8, "disk": 10**8} | more
    return msgspec.convert(given, wire.Kv)


@pytest.fixture
def plain(random_model: Path) -> Iterator[Engine]:
    engine = Engine(random_model)
    yield engine
    engine.stop()


@pytest.fixture
def keeping(random_model: Path, tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(random_model, kept_in(tmp_path / "kv"))
    yield engine
    engine.stop()


def answer(engine: Engine, tokens: list[int], length: int = 12, **sampling: Any) -> tuple[int, list[int]]:
    """Tokens that were restored, and the answer."""
    stream = engine.insert(tokens, length, **sampling)
    outcome = engine.until_done([stream])
    restored = [report.tokens for report in outcome.of(wire.Restored) if report.stream == stream]
    return sum(restored), outcome.tokens[stream]


def saved(engine: Engine, label: str | None = None) -> wire.Saved:
    """The next report of something kept, of that stream."""
    while True:
        report = engine.report()
        if isinstance(report, wire.Saved) and label in {None, *(kept.label for kept in report.kept)}:
            return report


def test_a_conversation_reads_only_what_is_new(keeping: Engine, plain: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    history = prompt(1, 50)
    for turn in range(5):
        sampling: dict[str, Any] = {"temperature": 1.0, "seed": 7} if turn % 2 else {}
        expected = answer(plain, history, **sampling)[1]
        restored, told = answer(keeping, history, **sampling)
        assert told == expected
        # All but what the answer's last token and the user's new ones are.
        assert restored == (0 if turn == 0 else len(history) - 6)
        history = [*history, *told, *prompt(10 + turn, 5)]
    read: list[int] = []

    def counted(inputs: np.ndarray[Any, Any]) -> bool:
        read.append(inputs.size)
        return False

    fail_when(monkeypatch, counted)
    answer(keeping, history, length=1)
    assert sum(read) == 6


@pytest.mark.parametrize("cut_at", [5, BLOCK, 17, 40, 49])
def test_a_prompt_that_leaves_what_was_kept_uses_what_comes_before(keeping: Engine, plain: Engine, cut_at: int) -> None:
    answer(keeping, prompt(1, 50))
    other = [*prompt(1, 50)[:cut_at], *prompt(2, 30)]
    restored, told = answer(keeping, other)
    # Of five tokens, nothing is made.
    assert restored == (cut_at if cut_at >= LEAST_TOKENS else 0)
    assert told == answer(plain, other)[1]


@pytest.mark.parametrize("ram", [10**8, 20_000])
def test_what_is_on_disk_is_there_for_the_next_worker(
    random_model: Path, tmp_path: Path, plain: Engine, ram: int
) -> None:
    first = Engine(random_model, kept_in(tmp_path / "kv", ram=10**8))
    told = answer(first, prompt(1, 80))[1]
    while saved(first).ram_bytes < 1:
        pass
    first.stop()
    second = Engine(random_model, kept_in(tmp_path / "kv", ram=ram))
    history = [*prompt(1, 80), *told, 101, 102]
    restored, again = answer(second, history)
    assert restored >= 80 // BLOCK * BLOCK
    assert again == answer(plain, history)[1]
    second.stop()


def test_a_prompt_is_kept_as_soon_as_it_is_read_and_a_cancelled_one_as_far_as_it_was(
    keeping: Engine, plain: Engine
) -> None:
    stream = keeping.insert(prompt(3, 1_500), 500)
    while not any(token.stream == stream for token in getattr(keeping.report(), "tokens", []) or []):
        pass
    keeping.cancel(stream)
    time.sleep(0.2)
    history = [*prompt(3, 1_500), 100, 101]
    restored, told = answer(keeping, history)
    assert restored >= 1_499
    assert told == answer(plain, history)[1]


def lost(engine: Engine, tokens: list[int], known: int) -> wire.Lost | None:
    """What the worker says of KV that should have been there."""
    stream = engine.insert(tokens, 1, known=known)
    (restored,) = engine.until_done([stream]).of(wire.Restored)
    assert isinstance(restored, wire.Restored)
    return restored.lost


def test_the_worker_says_what_became_of_what_was_kept(random_model: Path, tmp_path: Path) -> None:
    engine = Engine(random_model, kept_in(tmp_path / "kv", ram=200_000, disk=0))
    assert lost(engine, prompt(1, 60), 59) is None
    for other in range(2, 12):
        answer(engine, prompt(other, 60))
    told = lost(engine, prompt(1, 60), 59)
    assert told is not None
    assert told.reason == "evicted"
    engine.stop()


def test_what_is_kept_of_a_stream_is_told_with_its_label_measured_and_erased(
    random_model: Path, tmp_path: Path
) -> None:
    engine = Engine(random_model, kept_in(tmp_path / "kv"))
    ends = {}
    for label, tokens in {"one": prompt(1, 60), "other": [*prompt(1, 40), *prompt(2, 30)]}.items():
        engine.until_done([engine.insert(tokens, 8, label=label)])
        (kept,) = saved(engine, label).kept
        assert (kept.label, kept.tokens, kept.on_disk) == (label, len(tokens) + 7, True)
        ends[label] = kept.end

    lists = [[ends["one"]], [ends["one"], ends["other"]]]
    one, both = engine.ask(lambda call: wire.MeasureKv(call, lists)).extents
    assert one < both
    assert 0 < engine.ask(lambda call: wire.EraseKv(call, [ends["one"]])).bytes < one[1]
    assert answer(engine, [*prompt(1, 60), 100])[0] == 40
    assert answer(engine, [*prompt(1, 40), *prompt(2, 30), 100])[0] == 70
    engine.stop()


def test_kv_of_another_form_is_deleted_when_nobody_has_it(random_model: Path, tmp_path: Path) -> None:
    first = Engine(random_model, kept_in(tmp_path / "kv"))
    answer(first, prompt(1, 60))
    saved(first)
    beside = Engine(random_model, kept_in(tmp_path / "kv", block=2 * BLOCK))
    first.stop()
    behind = Engine(random_model, kept_in(tmp_path / "kv", block=4 * BLOCK))
    assert beside.kv.dropped_bytes == 0
    assert behind.kv.dropped_bytes > 0
    assert answer(behind, [*prompt(1, 60), 100])[0] == 0
    for engine in (beside, behind):
        engine.stop()


def test_rows_that_are_restored_join_those_that_run(keeping: Engine, plain: Engine) -> None:
    prompts = [prompt(n, 20 + 13 * n) for n in range(4)]
    for tokens in prompts:
        answer(keeping, tokens)
    longer = [[*tokens, 100 + n, 101] for n, tokens in enumerate(prompts)]
    streams = [keeping.insert(tokens, 30) for tokens in longer]
    together = keeping.until_done(streams)
    apart = [answer(plain, tokens, length=30)[1] for tokens in longer]
    assert [together.tokens[stream] for stream in streams] == apart
    assert all(report.tokens for report in together.of(wire.Restored))


def test_a_folder_that_cannot_be_used_is_said_and_costs_nothing_else(
    random_model: Path, tmp_path: Path, plain: Engine
) -> None:
    (tmp_path / "kv").write_text("a file")
    engine = Engine(random_model, kept_in(tmp_path / "kv"))
    assert "kv" in (engine.kv.error or "")
    assert not engine.kv.borrowed
    assert answer(engine, prompt(1, 20))[1] == answer(plain, prompt(1, 20))[1]
    engine.stop()


def test_any_damage_on_disk_is_the_right_answer_all_the_same(random_model: Path, tmp_path: Path, plain: Engine) -> None:
    first = Engine(random_model, kept_in(tmp_path / "kv"))
    told = answer(first, prompt(1, 80))[1]
    saved(first)
    first.stop()
    history = [*prompt(1, 80), *told, 101, 102]
    expected = answer(plain, history)[1]
    (path,) = (tmp_path / "kv").rglob("*.kv")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(6):
        broken = bytearray(whole)
        broken[int(rng.integers(len(broken)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        engine = Engine(random_model, kept_in(tmp_path / "kv"))
        assert answer(engine, history)[1] == expected
        engine.stop()


@pytest.mark.parametrize("kind", list(SHAPES))
def test_every_kind_of_cache_goes_on_as_if_it_had_been_computed(tmp_path: Path, kind: str) -> None:
    model = write_shape(tmp_path / "model", kind)
    plain, first = Engine(model), Engine(model, kept_in(tmp_path / "kv"))
    history = prompt(1, 50)
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    for turn in range(3):
        expected = answer(plain, history, **sampling)[1]
        restored, told = answer(first, history, **sampling)
        assert told == expected
        assert len(set(told)) > 3
        assert restored >= (0 if turn == 0 else len(history) - 6)
        history = [*history, *told, *prompt(10 + turn, 5)]
    company = [first.insert([*history, n], 20) for n in range(100, 103)]
    together = first.until_done(company)
    for n, stream in enumerate(company, 100):
        assert together.tokens[stream] == answer(plain, [*history, n], length=20)[1]
    first.stop()
    second = Engine(model, kept_in(tmp_path / "kv"))
    restored, told = answer(second, history, **sampling)
    assert restored >= len(history) - 6
    assert told == answer(plain, history, **sampling)[1]
    for engine in (plain, second):
        engine.stop()


async def test_what_a_killed_worker_said_to_be_saved_is_there(
    random_model: Path, tmp_path: Path, plain: Engine
) -> None:
    rng = np.random.default_rng(0)
    history, told_saved = prompt(1, 120), 0
    for _ in range(3):
        worker = await Worker.start("builtin")
        saves: list[wire.Saved] = []
        worker.on_saved = saves.append
        kv = kept_in(tmp_path / "kv")
        await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60, kv=kv)
        stream = worker.insert(
            history, prompt_len=len(history), max_tokens=400, eos=[], sampling=wire.Sampling(temperature=0.0)
        )
        restored, told, until = 0, [], int(rng.integers(1, 200))
        async for items in stream:
            restored += sum(item.tokens for item in items if isinstance(item, wire.Restored))
            told += [item.id for item in items if isinstance(item, wire.Token)]
            if len(told) >= until:
                break
        assert restored >= told_saved
        assert told == answer(plain, history, length=len(told))[1]
        # The prompt's pieces are; what the worker was at when it was killed need not be.
        blocks = (len(history) - 1) // BLOCK
        await eventually(partial(_are_saved, saves, blocks - restored // BLOCK))
        told_saved = blocks * BLOCK
        await worker.kill()
        history = [*history, *told]


async def test_a_disk_that_is_slow_is_no_worker_that_hangs(random_model: Path, tmp_path: Path, plain: Engine) -> None:
    history = prompt(1, 300)
    first = Engine(random_model, kept_in(tmp_path / "kv"))
    told = answer(first, history)[1]
    first.stop()
    worker = await Worker.start("builtin")
    kv = kept_in(tmp_path / "kv", ram=0)
    loaded = await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60, kv=kv)
    assert loaded.kv is not None
    # What is kept takes a multiple of the patience to come.
    worker.slow_disk(loaded.kv.disk_bytes // 5)
    worker.hang_timeout_s = 2.0
    stream = worker.insert(
        [*history, *told, 101], prompt_len=len(history) + len(told) + 1, max_tokens=3, eos=[], sampling=GREEDY
    )
    restored, again = [], []
    async for items in stream:
        restored += [item for item in items if isinstance(item, wire.Restored)]
        again += [item.id for item in items if isinstance(item, wire.Token)]
    assert restored[0].tokens >= len(history)
    assert restored[0].ms > 2 * worker.hang_timeout_s * 1e3 - 1e3
    assert again == answer(plain, [*history, *told, 101], 3)[1]
    await worker.stop()


def test_a_cache_that_cannot_be_cut_is_kept_where_the_next_prompt_may_leave_this_one(tmp_path: Path) -> None:
    model = write_shape(tmp_path / "model", "hybrid")
    plain, engine = Engine(model), Engine(model, kept_in(tmp_path / "kv"))
    engine.until_done([engine.insert(prompt(1, 90), 4, boundary=70)])
    other = [*prompt(1, 70), *prompt(2, 20)]
    restored, told = answer(engine, other)
    assert restored == 70
    assert told == answer(plain, other)[1]
    for one in (plain, engine):
        one.stop()


def _are_saved(saves: list[wire.Saved], pieces: int) -> bool:
    return sum(report.pieces for report in saves) >= pieces
