"""A real worker process: its tokens, its manners, its death."""

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from lmx_ledger.engine.client import Worker
from lmx_ledger.engine.exit import Exit
from lmx_ledger.engine.protocol import Sampling, Step, Token, ToolParsed
from lmx_ledger.engine.stream import EngineError, LoadTimedOut, WorkerDied
from lmx_ledger.engine.worker.sampling import Draw
from tests.conftest import eventually

PROMPT = [5, 60, 70, 80, 90, 100, 61, 71]
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
async def worker(random_model: Path) -> AsyncIterator[Worker]:
    running = await Worker.start("builtin")
    await running.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    yield running
    ended = await running.stop()
    assert (ended.code, ended.expected) == (0, True)


async def tokens(
    worker: Worker, prompt: list[int], count: int, sampling: Sampling, *, prompt_len: int | None = None
) -> list[Token]:
    stream = worker.insert(prompt, prompt_len=prompt_len or len(prompt), max_tokens=count, eos=[], sampling=sampling)
    return [item async for items in stream for item in items if isinstance(item, Token)]


async def ids(worker: Worker, prompt: list[int], count: int, sampling: Sampling) -> list[int]:
    return [token.id for token in await tokens(worker, prompt, count, sampling)]


async def test_greedy_tokens_are_those_of_the_model_itself(worker: Worker, random_model: Path) -> None:
    model, _ = load_model(random_model)
    cache = make_prompt_cache(model)
    expected, fed = [], PROMPT
    for _ in range(12):
        best = mx.argmax(model(mx.array([fed]), cache=cache)[0, -1]).item()
        assert isinstance(best, int)
        fed = [best]
        expected += fed
    assert await ids(worker, PROMPT, 12, GREEDY) == expected


async def test_the_last_token_says_why_it_is_the_last(worker: Worker) -> None:
    limited = await tokens(worker, PROMPT, 3, GREEDY)
    assert [token.finish for token in limited] == [None, None, "length"]
    stream = worker.insert(PROMPT, prompt_len=8, max_tokens=50, eos=[limited[1].id], sampling=GREEDY)
    stopped = [item async for items in stream for item in items if isinstance(item, Token)]
    assert [token.finish for token in stopped] == [None, "stop"]


async def test_seeded_tokens_do_not_depend_on_company(worker: Worker) -> None:
    drawn = Sampling(temperature=1.0, top_k=40, top_p=0.95, min_p=0.01, seed=99)
    alone = await ids(worker, PROMPT, 24, drawn)
    company = [ids(worker, PROMPT + [7] * i, 30, Sampling(temperature=1.0, seed=i)) for i in range(7)]
    together, *_ = await asyncio.gather(ids(worker, PROMPT, 24, drawn), *company)
    assert together == alone


async def test_a_stream_continued_from_what_it_had_goes_on_as_if_never_broken(worker: Worker) -> None:
    for sampling in (GREEDY, Sampling(seed=5, frequency_penalty=0.7, repetition_penalty=1.1)):
        whole = await ids(worker, PROMPT, 20, sampling)
        rest = await tokens(worker, PROMPT + whole[:8], 12, sampling, prompt_len=len(PROMPT))
        assert [token.id for token in rest] == whole[8:]


async def test_top_k_of_one_and_a_tiny_top_p_are_greedy(worker: Worker) -> None:
    greedy = await ids(worker, PROMPT, 10, GREEDY)
    assert await ids(worker, PROMPT, 10, Sampling(top_k=1, seed=1)) == greedy
    assert await ids(worker, PROMPT, 10, Sampling(top_p=1e-6, seed=2)) == greedy
    assert await ids(worker, PROMPT, 10, Sampling(min_p=1.0, seed=3)) == greedy


@pytest.mark.parametrize("top_p", [1e-6, 6e-8, 1e-9, 5e-324])
@pytest.mark.parametrize("temperature", [1.0, 0.02, 2.0])
async def test_a_top_p_too_small_for_float32_is_greedy(worker: Worker, top_p: float, temperature: float) -> None:
    drawn = Sampling(top_p=top_p, temperature=temperature, seed=4)
    assert await ids(worker, PROMPT, 10, drawn) == await ids(worker, PROMPT, 10, GREEDY)


@pytest.mark.parametrize("temperature", [1e-5, 1e-6, 1e-40, 5e-324])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
async def test_a_temperature_too_small_to_divide_by_is_greedy(worker: Worker, temperature: float, top_p: float) -> None:
    drawn = Sampling(temperature=temperature, top_p=top_p, seed=5)
    assert await ids(worker, PROMPT, 10, drawn) == await ids(worker, PROMPT, 10, GREEDY)


def test_of_many_tokens_about_as_likely_as_each_other_a_low_temperature_still_draws_the_likeliest() -> None:
    logits = mx.random.normal((1, 32_000), key=mx.random.key(1)) * 0.5
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    best = mx.argmax(logprobs, axis=-1).item()
    for temperature in (0.03, 0.01, 0.001):
        draw = Draw([Sampling(temperature=temperature, top_p=0.9, seed=6)], 32_000, [0])
        drawn = {draw(logprobs).item() for _ in range(20)}
        likely = {token.item() for token in mx.argsort(logprobs, axis=-1)[0, -20:]}
        assert drawn <= likely
        assert best in drawn


async def test_a_bias_of_a_hundred_decides_and_of_minus_a_hundred_forbids(worker: Worker) -> None:
    (first,) = await ids(worker, PROMPT, 1, GREEDY)
    other = (first + 1) % 250
    assert await ids(worker, PROMPT, 1, Sampling(temperature=0.0, logit_bias={other: 100.0})) == [other]
    assert await ids(worker, PROMPT, 1, Sampling(temperature=0.0, logit_bias={first: -100.0})) != [first]


async def test_a_frequency_penalty_looks_at_the_answer_and_not_at_the_prompt(worker: Worker) -> None:
    (first,) = await ids(worker, PROMPT, 1, GREEDY)
    prompt = [first] * 30 + PROMPT
    punished = Sampling(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0)
    assert (await ids(worker, prompt, 1, punished)) == (await ids(worker, prompt, 1, GREEDY))
    answer = await ids(worker, PROMPT, 40, punished)
    plain = await ids(worker, PROMPT, 40, GREEDY)
    assert len(set(answer)) > len(set(plain))


async def test_logprobs_add_up_and_the_drawn_one_is_among_them(worker: Worker) -> None:
    (token,) = await tokens(worker, PROMPT, 1, Sampling(temperature=0.0, logprobs=True, top_logprobs=5))
    assert token.logprob is not None
    best = token.logprob.top
    assert best[0] == (token.id, token.logprob.drawn)
    assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)


async def test_a_cancelled_stream_leaves_the_others_alone(worker: Worker) -> None:
    keep = asyncio.create_task(ids(worker, PROMPT, 40, GREEDY))
    gone = worker.insert(PROMPT * 40, prompt_len=320, max_tokens=1000, eos=[], sampling=GREEDY)
    await gone.take()
    worker.cancel(gone)
    worker.cancel(gone)
    assert await keep == await ids(worker, PROMPT, 40, GREEDY)
    assert worker.in_flight == 0


async def test_a_token_outside_the_vocabulary_is_refused_and_nothing_else_suffers(worker: Worker) -> None:
    with pytest.raises(EngineError, match="outside the vocabulary"):
        await ids(worker, [10**6], 1, GREEDY)
    with pytest.raises(EngineError, match="empty"):
        await ids(worker, [], 1, GREEDY)
    assert len(await ids(worker, PROMPT, 2, GREEDY)) == 2


async def test_tool_calls_are_parsed_by_mlx_lm(worker: Worker) -> None:
    good = await worker.parse_tool('{"name": "f", "arguments": {"a": 1}}', "[]")
    assert (good.calls_json, good.error) == ('[{"name":"f","arguments":{"a":1}}]', None)
    for bad in (
        "no json",
        "[]x",
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": NaN}',
    ):
        report: ToolParsed = await worker.parse_tool(bad, "[]")
        assert report.calls_json is None
        assert report.error


@pytest.mark.parametrize(
    ("change", "says"),
    [('"model_type": "llama"', "not supported"), ('"num_hidden_layers": 2', "not in model|Missing|parameters")],
)
async def test_a_folder_that_mlx_lm_cannot_run_is_refused_with_its_reason(
    random_model: Path, tmp_path: Path, change: str, says: str
) -> None:
    folder = Path(shutil.copytree(random_model, tmp_path / "odd"))
    config = (folder / "config.json").read_text()
    assert change in config
    other = '"model_type": "wizard9"' if "model_type" in change else '"num_hidden_layers": 3'
    (folder / "config.json").write_text(config.replace(change, other).replace("LlamaForCausalLM", "WizardForCausalLM"))
    worker = await Worker.start("builtin")
    with pytest.raises(EngineError, match=says):
        await worker.load(str(folder), prefill_step=64, prefill_gap=9, timeout_s=60)
    assert worker.alive
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    await worker.stop()


async def test_a_killed_worker_leaves_its_evidence_and_fails_what_it_had(random_model: Path) -> None:
    exits: list[Exit] = []
    worker = await Worker.start("builtin", lambda _, died: exits.append(died))
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    stream = worker.insert(PROMPT, prompt_len=8, max_tokens=100_000, eos=[], sampling=GREEDY)
    while not any(isinstance(item, Token) for item in await stream.take()):
        pass
    worker.process.kill()
    with pytest.raises(WorkerDied, match="SIGKILL while: step"):
        async for _ in stream:
            pass
    (died,) = exits
    assert (died.signal, died.code, died.expected) == ("SIGKILL", None, False)
    assert died.last_acts[-1].startswith("step ")
    with pytest.raises(WorkerDied):
        worker.insert(PROMPT, prompt_len=8, max_tokens=1, eos=[], sampling=GREEDY)


async def test_a_tool_call_to_a_dead_worker_is_an_error_and_not_a_wait(random_model: Path) -> None:
    worker = await Worker.start("builtin")
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    worker.process.kill()
    async with asyncio.timeout(20):
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await worker.parse_tool("{}", "[]")
        await worker.exited
        with pytest.raises(WorkerDied, match="SIGKILL"):
            await worker.parse_tool("{}", "[]")


async def test_a_load_that_takes_too_long_is_told_from_any_other_death(random_model: Path) -> None:
    worker = await Worker.start("builtin")
    with pytest.raises(LoadTimedOut, match=r"longer than 0.001 s; raise \[engine\] load_timeout"):
        await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=0.001)
    assert not worker.alive


def open_descriptors() -> set[int]:
    """Those of this process."""
    found = set()
    for number in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.add(number)
    return found


def same(before: set[int]) -> bool:
    return open_descriptors() == before


async def test_a_start_that_finds_no_descriptor_to_be_had_leaves_none_behind() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(9):
        before = open_descriptors()
        closed = partial(same, before)
        free = [number for number in range(soft) if number not in before][: spare + 1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
        try:
            with pytest.raises(OSError, match=r"Too many open files|No usable temporary directory"):
                await Worker.start("builtin")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await eventually(closed)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX brings its BLAS along")
async def test_openblas_is_used_where_it_is_and_missed_by_name_where_it_is_not(random_model: Path) -> None:
    try:
        ctypes.CDLL("libopenblas.so.0")
        there = True
    except OSError:
        there = False
    worker = await Worker.start("auto")
    assert worker.hello is not None
    assert worker.hello.blas == ("openblas" if there else "builtin")
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    assert len(await ids(worker, PROMPT, 4, GREEDY)) == 4
    await worker.stop()
    if not there:
        with pytest.raises(EngineError, match="install libopenblas0"):
            await Worker.start("openblas")


async def test_a_worker_that_says_much_and_gives_nothing_hangs_too(random_model: Path) -> None:
    exits: list[Exit] = []
    silent: list[float] = []

    async def on_hung(silent_s: float) -> None:
        silent.append(silent_s)

    worker = await Worker.start("builtin", lambda _, died: exits.append(died))
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    worker.hang_timeout_s, worker.on_hung = 0.5, on_hung
    stream = worker.insert(PROMPT, prompt_len=len(PROMPT), max_tokens=100_000, eos=[], sampling=Sampling())
    while not any(isinstance(item, Token) for item in await stream.take()):
        pass
    worker.process.send_signal(signal.SIGSTOP)
    while not worker.exited.done():
        # As a loop would report that spins.
        worker._on_step(Step(tokens=[], prefill=[], active_bytes=0, peak_bytes=0))
        await asyncio.sleep(0.02)
    died = worker.exited.result()
    assert died.hung
    assert not died.expected
    assert exits == [died]
    assert silent[0] >= 0.5


async def test_a_worker_that_is_replaced_fails_its_streams_as_one_that_died(random_model: Path) -> None:
    worker = await Worker.start("builtin")
    await worker.load(str(random_model), prefill_step=64, prefill_gap=9, timeout_s=60)
    stream = worker.insert(PROMPT, prompt_len=len(PROMPT), max_tokens=100_000, eos=[], sampling=Sampling())
    while not any(isinstance(item, Token) for item in await stream.take()):
        pass
    died = await worker.recycle()
    assert (died.code, died.expected, died.recycled) == (0, True, True)
    with pytest.raises(WorkerDied) as failed:
        async for _ in stream:
            pass
    assert not failed.value.suspect
