"""One model's account, from before its load to streams that grow."""

from lmx_ledger.engine.protocol import Dialect, KvShape, Loaded
from lmx_ledger.memory.holding import Holding
from lmx_ledger.memory.plan import Account, Need, Policy, Verdict, plan

PLAIN = Dialect(None, None, None, None, None)
MB = 10**6


def loaded() -> Holding:
    holding = Holding("m", 40 * MB, 4 * MB)
    report = Loaded(
        weights_bytes=40 * MB,
        vocab=10,
        architecture="llama",
        dialect=PLAIN,
        active_bytes=40 * MB,
        ms=500.0,
        layers=[10 * MB] * 4,
        shape=KvShape(1_000),
        pass_token=10_000,
        pass_pair=10,
    )
    holding.loaded(report, 7.0)
    return holding


def test_at_rest_it_needs_its_weights_and_what_is_granted_beyond_is_to_spare() -> None:
    holding = loaded()
    holding.granted = 50 * MB
    assert (holding.needs(), holding.spare) == (40 * MB, 10 * MB)
    assert (holding.came_s, holding.took_s) == (7.0, 0.5)


def test_what_the_worker_still_holds_is_not_to_spare() -> None:
    holding = loaded()
    holding.granted, holding.active = 50 * MB, 47 * MB
    assert holding.spare == 3 * MB


def test_a_stream_needs_its_kv_and_a_pass_over_a_piece_of_it() -> None:
    holding = loaded()
    holding.kv["stream"], holding.longest["stream"] = holding.kv_bytes(1_000), 1_024
    assert holding.kv_bytes(1_000) == 1_024_000
    longer = holding.needs(holding.kv_bytes(20_000), 20_224)
    assert longer > holding.needs() + holding.kv_bytes(20_000)
    holding.scale = 2.0
    assert holding.needs() > 40 * MB + 1_024_000 + 2 * 32 * 10_000


def test_layers_that_are_out_are_the_last_ones_and_the_next_to_go_is_the_last_that_is_in() -> None:
    holding = loaded()
    holding.layers, holding.out = [1, 2, 3, 4], 1
    assert (holding.weights, holding.out_bytes) == (6, 4)
    line = holding.line(busy=False, pinned=False, priority=0)
    assert line.layers == (3, 2, 1)
    assert holding.public()["paged_bytes"] == 4


def test_the_parts_of_a_line_add_up_to_what_is_held() -> None:
    holding = loaded()
    holding.granted, holding.overhead = 47 * MB, MB
    holding.kv["stream"], holding.longest["stream"] = holding.kv_bytes(1_000), 1_024
    line = holding.line(busy=True, pinned=False, priority=0)
    assert line.total == holding.total == 52 * MB


def test_what_a_process_takes_beside_its_arrays_is_counted_and_refuses_nobody() -> None:
    idle = loaded()
    idle.granted, idle.out, idle.overhead = 0, 4, 30 * MB
    line = idle.line(busy=False, pinned=False, priority=0)
    assert (line.total, line.kept, idle.allowed) == (34 * MB, 4 * MB, 4 * MB)
    found = plan(Account(80 * MB, 0, (line,)), Need("b", weights=60 * MB), Policy(), 0.0)
    assert (found.verdict, found.short_by) == (Verdict.WAIT, 10 * MB)


def test_windows_and_states_do_not_grow_without_end() -> None:
    shape = KvShape(100, constant=5_000, windows=[(10, 512)])
    assert shape.bytes(256) == 25_600 + 5_000 + 2_560
    assert shape.bytes(10_240) == 1_024_000 + 5_000 + 5_120
