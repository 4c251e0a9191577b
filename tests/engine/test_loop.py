"""The step loop in this process, with a real model that fails when it is told to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmx_ledger.engine import protocol as wire
from tests.engine.parts import Engine, fail_when, prompt

POISON = 77


@pytest.fixture(params=[False, True], ids=["first at once", "ahead"])
def engine(random_model: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One that gives first tokens before it begins the next step, as on a CPU, and one that is always a step ahead."""
    running = Engine(random_model, ahead=request.param)
    yield running
    running.stop()


def test_the_tokens_are_the_same_whether_first_ones_are_given_at_once_or_not(random_model: Path) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 9},
        {"temperature": 0.8, "top_p": 0.9, "seed": 4, "frequency_penalty": 0.5, "logprobs": True, "top_logprobs": 2},
        {"repetition_penalty": 1.3},
    ]
    outcomes = []
    for ahead in (False, True):
        running = Engine(random_model, ahead=ahead)
        outcomes.append(
            running.until_done([running.insert(prompt(n, 20 + n), 8 + 7 * n, **asked[n]) for n in range(4)])
        )
        running.stop()
    at_once, ahead_of_them = outcomes
    assert at_once.tokens == ahead_of_them.tokens
    assert [len(at_once.tokens[n]) for n in sorted(at_once.tokens)] == [8, 15, 22, 29]


def test_after_an_exception_every_stream_of_the_step_goes_on_as_if_nothing_had_been(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 9},
        {"temperature": 0.8, "top_p": 0.9, "seed": 4, "frequency_penalty": 0.5},
        {"repetition_penalty": 1.3},
    ]
    undisturbed = engine.until_done([engine.insert(prompt(n, 20 + n), 40, **asked[n]) for n in range(4)])
    steps = 0

    def wrong(inputs: np.ndarray[Any, Any]) -> bool:
        nonlocal steps
        steps += inputs.shape == (4, 1)
        return inputs.shape == (4, 1) and steps in {10, 25}

    fail_when(monkeypatch, wrong)
    again = engine.until_done([engine.insert(prompt(n, 20 + n), 40, **asked[n]) for n in range(4)])
    assert [again.tokens[n] for n in range(5, 9)] == [undisturbed.tokens[n] for n in range(1, 5)]
    assert [sorted(report.streams) for report in again.of(wire.Recovered)] == [[5, 6, 7, 8]] * 2
    assert again.of(wire.Failed) == []
    assert any("failed with 4 rows" in note for note in engine.recorder.last(64))


def test_only_the_stream_that_fails_alone_twice_is_failed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [engine.insert(prompt(n, 30), 60) for n in range(3)]
    undisturbed = engine.until_done(good)
    fail_when(monkeypatch, lambda inputs: bool((inputs == POISON).any()))
    again = [engine.insert(prompt(n, 30), 60) for n in range(3)]
    bad = engine.insert([*prompt(9, 30), POISON], 60)
    outcome = engine.until_done([*again, bad])
    assert [outcome.tokens[n] for n in again] == [undisturbed.tokens[n] for n in good]
    (failed,) = outcome.of(wire.Failed)
    assert failed.stream == bad
    assert "a kernel fails" in failed.error
    assert bad not in outcome.tokens
    recovered = [report.streams for report in outcome.of(wire.Recovered)]
    assert recovered[-1] == [bad]
    assert all(bad in streams for streams in recovered)


def test_a_prompt_that_several_choices_have_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = [{"temperature": 1.0, "seed": seed} for seed in range(3)]
    apart = [engine.until_done([engine.insert(prompt(1, 150), 20, **one)]) for one in asked]
    read: list[int] = []

    def counted(inputs: np.ndarray[Any, Any]) -> bool:
        read.append(inputs.shape[1] if inputs.shape[1] > 1 else 0)
        return False

    fail_when(monkeypatch, counted)
    streams = [engine.insert(prompt(1, 150), 20, owner=77, **one) for one in asked]
    together = engine.until_done(streams)
    assert [together.tokens[n] for n in streams] == [one.tokens[n] for n, one in enumerate(apart, 1)]
    assert sum(read) == 149


def test_a_long_prompt_and_short_ones_do_not_wait_for_each_other(engine: Engine) -> None:
    long = engine.insert(prompt(1, 1_900), 4)
    short = [engine.insert(prompt(n, 12), 6) for n in range(2, 6)]
    outcome = engine.until_done([long, *short])
    ended = [token.stream for report in outcome.of(wire.Step) for token in report.tokens if token.finish is not None]
    assert ended[-1] == long
    read = [(p.stream, p.done) for report in outcome.of(wire.Step) for p in report.prefill]
    first_of_long = next(at for at, (stream, _) in enumerate(read) if stream == long)
    assert first_of_long < len(short) + 1
    assert len([stream for stream, _ in read if stream == long]) > 5


def test_short_prompts_that_come_together_are_read_without_a_step_in_between(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Engine(random_model, prefill_gap=1_000)
    shapes: list[tuple[int, ...]] = []
    short: list[int] = []

    def watched(inputs: np.ndarray[Any, Any]) -> bool:
        shapes.append(inputs.shape)
        if len(shapes) == 20:
            short.extend(patient.insert(prompt(n, 12), 3) for n in range(2, 7))
        return False

    fail_when(monkeypatch, watched)
    decodes = patient.insert(prompt(1, 12), 80)
    outcome = patient.until_done([decodes])
    patient.stop()
    assert [len(outcome.tokens[n]) for n in short] == [3] * 5
    reads = [at for at, shape in enumerate(shapes) if shape == (1, 11)][1:]
    assert reads == list(range(reads[0], reads[0] + 5))


def test_a_stream_that_is_cancelled_while_its_prompt_is_read_gives_nothing_more(engine: Engine) -> None:
    stays = engine.insert(prompt(3, 10), 200)
    goes = engine.insert(prompt(4, 2_000), 5)
    while not any(isinstance(r, wire.Step) and r.prefill and r.prefill[0].stream == goes for r in [engine.report()]):
        pass
    engine.cancel(goes)
    outcome = engine.until_done([stays])
    assert goes not in outcome.tokens
    assert sum(p.stream == goes for report in outcome.of(wire.Step) for p in report.prefill) <= 2


def test_the_memory_of_a_cancelled_stream_is_free_at_once(engine: Engine) -> None:
    engine.until_done([engine.insert(prompt(1, 4), 2)])
    goes = engine.insert(prompt(4, 2_000), 5_000)
    while not (isinstance(report := engine.report(), wire.Step) and report.tokens):
        pass
    held = report.active_bytes
    engine.cancel(goes)
    while not (isinstance(report := engine.report(), wire.Step) and not report.tokens):
        pass
    kv_bytes = 2 * 2 * 2 * 16 * 4 * 2_000
    assert held - report.active_bytes > 0.9 * kv_bytes


def test_rows_of_unlike_length_give_what_they_give_alone(engine: Engine) -> None:
    lengths = (5, 40, 700, 1_500)
    alone = [engine.until_done([engine.insert(prompt(n, n), 12)]).tokens for n in lengths]
    together = engine.until_done([engine.insert(prompt(n, n), 12) for n in lengths])
    assert [together.tokens[5 + at] for at in range(4)] == [next(iter(one.values())) for one in alone]
