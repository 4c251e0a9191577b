"""Weights that go and come back: all or some layers, without writing what the files have, and the same answers."""

from pathlib import Path
from typing import Any

import pytest

from lmx_ledger.engine import protocol as wire
from tests.engine.parts import Engine, prompt
from tests.engine.shapes import SHAPES, write_shape


def answer(engine: Engine, tokens: list[int], length: int = 12) -> list[int]:
    stream = engine.insert(tokens, length)
    return engine.until_done([stream]).tokens[stream]


def page_out(engine: Engine, need: int = 0) -> Any:
    return engine.ask(lambda call: wire.PageOut(call=call, bytes=need))


def page_in(engine: Engine) -> Any:
    return engine.ask(lambda call: wire.PageIn(call=call))


def active_bytes(engine: Engine) -> int:
    """As of the report behind an answer."""
    while not isinstance(report := engine.report(), wire.Step):
        pass
    return report.active_bytes


def test_all_weights_go_without_a_byte_written_and_come_back_as_they_were(random_model: Path) -> None:
    engine = Engine(random_model)
    weights = engine.loaded.weights_bytes
    expected = answer(engine, prompt(1, 40))
    out = page_out(engine)
    assert (out.error, out.bytes, out.written_bytes, out.resident_bytes) == (None, weights, 0, 0)
    assert out.layers == out.layers_out >= 3
    assert active_bytes(engine) < engine.loaded.active_bytes - 0.9 * weights
    again = page_out(engine)
    assert (again.layers, again.bytes) == (0, 0)
    back = page_in(engine)
    assert (back.error, back.layers, back.bytes) == (None, out.layers, weights)
    assert (back.resident_bytes, back.layers_out) == (weights, 0)
    assert answer(engine, prompt(1, 40)) == expected
    assert page_in(engine).layers == 0
    engine.stop()


def test_no_more_layers_go_than_it_takes(random_model: Path) -> None:
    engine = Engine(random_model)
    expected = answer(engine, prompt(1, 40))
    one = page_out(engine, 1)
    assert (one.layers, one.layers_out) == (1, 1)
    two = page_out(engine, one.bytes + 1)
    assert (two.layers, two.layers_out) == (2, 3)
    assert page_in(engine).layers == 3
    assert answer(engine, prompt(1, 40)) == expected
    engine.stop()


def test_nothing_runs_while_a_layer_is_out_and_nothing_goes_while_something_runs(random_model: Path) -> None:
    engine = Engine(random_model)
    expected = answer(engine, prompt(1, 40), 200)
    stream = engine.insert(prompt(1, 40), 200)
    busy = page_out(engine)
    assert (busy.error, busy.layers_out) == ("it has streams", 0)
    assert engine.until_done([stream]).tokens[stream][-20:] == expected[-20:]
    page_out(engine, 1)
    refused = engine.insert(prompt(1, 40), 4)
    while not isinstance(report := engine.report(), wire.Refused):
        pass
    assert (report.stream, report.error) == (refused, "its weights are paged out")
    page_in(engine)
    assert answer(engine, prompt(1, 40), 200) == expected
    engine.stop()


@pytest.mark.parametrize("kind", list(SHAPES))
def test_what_an_architecture_makes_of_its_files_is_written_once(tmp_path: Path, kind: str) -> None:
    model, derived = write_shape(tmp_path / "model", kind), tmp_path / "derived"
    written = []
    expected: list[int] = []
    for _ in range(2):
        engine = Engine(model, derived=derived)
        expected = expected or answer(engine, prompt(1, 40))
        for _ in range(2):
            out = page_out(engine)
            assert (out.error, out.resident_bytes) == (None, 0)
            written.append(out.written_bytes)
            page_in(engine)
            assert answer(engine, prompt(1, 40)) == expected
        engine.stop()
    assert written[1:] == [0, 0, 0]
    assert sum(path.stat().st_size for path in derived.glob("*")) >= written[0] if derived.exists() else written[0] == 0


def test_what_has_no_file_stays_where_none_may_be_written(tmp_path: Path) -> None:
    model = write_shape(tmp_path / "model", "hybrid")
    engine = Engine(model)
    expected = answer(engine, prompt(1, 40))
    out = page_out(engine)
    assert out.error is None
    assert out.written_bytes == 0
    page_in(engine)
    assert answer(engine, prompt(1, 40)) == expected
    engine.stop()


def test_a_file_that_is_cut_is_said_and_what_is_out_stays_out(tmp_path: Path) -> None:
    model = write_shape(tmp_path / "model", "mixture of experts")
    engine = Engine(model, derived=tmp_path / "derived")
    page_out(engine)
    for path in (*model.glob("*.safetensors"), *(tmp_path / "derived").glob("*")):
        path.write_bytes(b"")
    back = page_in(engine)
    assert back.error
    assert back.layers_out > 0
    engine.stop()
