"""One event of each type, as a daemon writes it: for the catalogue in docs/, and for tests that need any event."""

from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.events import CATALOGUE, EventData

_SHA256: Final = "3f1a0c5b9d2e4f687a8b9c0d1e2f30415263748596a7b8c9d0e1f2a3b4c5d6e7"

EXAMPLES: Final[tuple[EventData, ...]] = (
    ev.DaemonStarted(
        version="0.1.0", pid=4711, host="127.0.0.1", port=3456, platform="macOS-15.2-arm64", python="3.12.8"
    ),
    ev.DaemonCrashDetected(
        boot="01KD3Y8Z6Q0W1E2R3T4Y5U6I7P",
        pid=4312,
        last_seq=20_817,
        last_time="2026-03-14T09:26:53.589793Z",
        last_acts=["20816 request.admitted request:req_01KD3Y9A5S6D7F8G9H0J1K2L3M", "20817 engine.exited model:m0"],
    ),
    ev.DaemonReady(url="http://127.0.0.1:3456", models=["qwen3-8b"], startup_ms=2140.5),
    ev.DaemonDraining(reason="SIGTERM", in_flight=3, timeout_s=30.0),
    ev.DaemonDrained(cancelled=0, ms=1830.2),
    ev.DaemonStopped(reason="SIGTERM", uptime_s=86_402.7),
    ev.ConfigLoaded(source="/Users/ada/.lmx/config.toml", changed={"memory": {"limit": 24_000_000_000}}),
    ev.ConfigChanged(
        source="/Users/ada/.lmx/config.toml", changed={"queue": {"max_waiting": 64}}, needs_restart=["server.port"]
    ),
    ev.EngineStarted(pid=4712, mlx="0.32.4", mlx_lm="0.32.2", device="Device(gpu, 0)", blas="accelerate", ms=812.4),
    ev.EngineExited(
        pid=4712,
        code=None,
        signal="SIGKILL",
        stderr_tail="",
        last_acts=["step 1204, streams: 3"],
        expected=False,
        in_flight=["req_01KD3Y9A5S6D7F8G9H0J1K2L3M"],
    ),
    ev.EngineRestarted(pid=4790, attempt=1, ms=1420.9),
    ev.EngineStandbyReady(pid=5_133, ms=1_312.7),
    ev.ModelLoadStarted(
        path="/Users/ada/.lmx/models/mlx-community/qwen3-8b", weights_bytes=4_610_000_000, reason="start"
    ),
    ev.ModelLoaded(weights_bytes=4_610_000_000, context=131_072, vocab=151_936, architecture="qwen3", ms=3120.0),
    ev.ModelLoadFailed(
        path="/Users/ada/.lmx/models/mlx-community/qwen3-8b", error="model-00002-of-00002.safetensors is missing"
    ),
    ev.KvReserved(bytes=8_000_000_000, used_bytes=27_100_000_000, limit_bytes=32_000_000_000),
    ev.ModelPinned(),
    ev.ModelUnpinned(),
    ev.ModelUnloaded(reason="stop"),
    ev.PagingPlanned(need_bytes=2_000_000_000, victims=["deepseek-r1-8b"], reason="asked"),
    ev.PagingOutStarted(resident_bytes=4_610_000_000),
    ev.PagingOutFinished(
        bytes=2_180_000_000, ms=62.4, layers=17, bytes_per_s=34_935_897_435, resident_bytes=2_430_000_000
    ),
    ev.PagingInStarted(bytes=2_180_000_000),
    ev.PagingInFinished(bytes=2_180_000_000, ms=612.8, layers=17),
    ev.RequestReceived(
        route="/v1/chat/completions",
        stream=True,
        messages=7,
        tools=2,
        chars=18_402,
        prompt_sha256=_SHA256,
        client="opencode/1.4",
        client_request_id=None,
        sampling={"temperature": 0.2, "top_p": None},
    ),
    ev.RequestQueued(position=2, running=8),
    ev.RequestAdmitted(
        prompt_tokens=4_812, max_tokens=2_048, choices=1, queue_ms=3.1, sampling={"temperature": 0.2, "top_p": 0.95}
    ),
    ev.RequestRejected(
        status=429,
        code="queue_full",
        message="64 requests wait already; try again in 5 s",
        route="/v1/chat/completions",
        retry_after_s=5,
    ),
    ev.RequestDegraded(reason="context_ceiling", asked=8_192, given=4_096),
    ev.RequestResumed(
        reason="worker_died",
        error="the worker (pid 5121) was ended by SIGKILL while: step 812: 4 rows of up to 1731 tokens",
        choice=0,
        tokens=212,
        reread_tokens=1_731,
        gap_ms=1_204.6,
    ),
    ev.RequestFirstToken(ttft_ms=412.7, prefill_ms=398.2),
    ev.RequestFinished(
        status=200,
        finish_reason="stop",
        prompt_tokens=4_812,
        cached_tokens=4_608,
        completion_tokens=311,
        queue_ms=3.1,
        ttft_ms=412.7,
        itl_p95_ms=21.4,
        wall_ms=6_904.3,
        parts_ms={
            "admission": 3.1,
            "restore": 1.9,
            "prefill": 407.7,
            "stalls": 212.4,
            "decode": 6_278.8,
            "client": 0.4,
        },
    ),
    ev.RequestCancelled(
        phase="decode", reason="the client went away", prompt_tokens=4_812, completion_tokens=57, wall_ms=1_610.8
    ),
    ev.RequestFailed(
        status=500,
        code="engine_failed",
        message="the worker of qwen3-8b ended (SIGKILL) while it answered",
        prompt_tokens=4_812,
        completion_tokens=57,
        wall_ms=1_702.0,
    ),
    ev.KvHit(reused_tokens=4_608, computed_tokens=204, read_bytes=0, ms=1.9),
    ev.KvMissed(
        reason="diverged",
        reused_tokens=31,
        recomputed_tokens=4_781,
        lost_tokens=4_577,
        diverged_at=31,
        message_index=0,
        role="system",
        breaker="date",
        cost_ms=8_120.4,
    ),
    ev.KvRestored(tokens=4_608, read_bytes=603_979_776, ms=214.8),
    ev.KvSaved(
        tokens=5_122,
        bytes=67_371_008,
        on_disk=True,
        ms=41.7,
        end="5f0c1d2e3a4b5968778695a4b3c2d1e0",
        prompt=4_608,
        prompt_end="9d8c7b6a5f4e3d2c1b0a99887766554a",
        form="0e1d2c3b4a5968778695a4b3c2d1e0f5",
        fingerprint=_SHA256[:32],
        template=_SHA256[:16],
        names=["9a8b7c6d5e4f3021"],
    ),
    ev.KvEvicted(pieces=12, bytes=402_653_184, reason="room"),
    ev.KvCorrupt(bytes=33_554_432, files=["00000003.kv"], reason="it does not verify"),
    ev.GuardThresholdBreached(
        name="memory",
        used_bytes=20_612_000_000,
        limit_bytes=24_000_000_000,
        fraction=0.8588,
        reason="used",
        page_at=0.85,
    ),
    ev.GuardThresholdCleared(
        name="memory_limit",
        used_bytes=14_205_000_000,
        limit_bytes=24_000_000_000,
        fraction=0.5919,
        reason="recovered",
        from_bytes=16_310_000_000,
        to_bytes=24_000_000_000,
        readings={
            "total_bytes": 34_359_738_368,
            "available_bytes": 14_870_000_000,
            "headroom_bytes": 687_194_767,
            "pressure": "normal",
        },
    ),
    ev.GuardStageChanged(
        from_="normal",
        to="backpressure",
        reasons=["queue_wait"],
        readings={"queue_wait": 17.2},
        at_us=1_773_480_413_589_793,
    ),
    ev.GuardBackpressureOn(reasons=["queue_wait"]),
    ev.GuardBackpressureOff(refused=41),
    ev.GuardModelShed(priority=-1, bytes=4_610_000_000, primary="qwen3-32b"),
    ev.GuardContextCeilingChanged(from_=131_072, to=64_000, reason="safe_mode_thermal", at_us=1_773_480_413_589_793),
    ev.GuardRestartRequested(reason="no_progress", silent_s=31.5),
    ev.SensorThermalThrottled(
        reason="gpu_clock", gpu_drop=0.21, gpu_mhz=1_093.0, baseline_mhz=1_384.0, gpu_busy=0.98, level="moderate"
    ),
    ev.SensorThermalRecovered(cool_s=60.0, gpu_mhz=1_380.0, level="nominal"),
    ev.SensorSlept(from_time="2026-03-14T22:10:02.118420Z"),
    ev.SensorWoke(slept_s=30_512.4),
    ev.SensorPowerModeChanged(low_power=True),
    ev.SloEvaluated(
        objective="ttft", good=9_930, total=10_000, shed=12, budget_remaining=0.86, burn={"1h": 0.4, "5m": 0.0}
    ),
    ev.SloBurnAlerted(
        objective="ttft",
        severity="page",
        long="1h",
        short="5m",
        factor=14.4,
        long_burn=16.1,
        short_burn=22.0,
        budget_remaining=0.71,
        exhausts_in_s=114_000.0,
    ),
    ev.SloBurnCleared(objective="ttft", severity="page", long="1h", short="5m", factor=14.4, lasted_s=1_380.0),
    ev.SloBudgetExhausted(objective="ttft", target=0.95, good=9_420, total=10_000),
    ev.DrillStarted(kind="thermal", for_s=60.0, arguments={"gpu_drop": 0.21}),
    ev.DrillFinished(kind="thermal", reason="time", ms=60_004.2),
    ev.IncidentOpened(
        title="New sessions are refused (queue_wait)",
        severity="warning",
        models=[],
        symptom="stage",
        events=[20_902],
        started_at="2026-03-14T09:26:49.000000Z",
        how="requests",
    ),
    ev.IncidentMerged(
        symptom="worker",
        events=[20_961],
        merged=None,
        title="The worker of qwen3-8b hung",
        severity="error",
        models=["qwen3-8b"],
    ),
    ev.IncidentAcknowledged(via="http"),
    ev.IncidentMitigated(at="2026-03-14T09:31:02.201140Z"),
    ev.IncidentResolved(quiet_s=60.0),
    ev.IncidentReopened(
        symptom="worker",
        events=[21_407],
        title="The worker of qwen3-8b hung",
        severity="error",
        models=["qwen3-8b"],
    ),
    ev.IncidentClosed(reason="operator"),
    ev.IncidentReportWritten(
        folder="/Users/ada/.lmx/reports",
        files=["inc_01KD3YB2.json", "inc_01KD3YB2.md", "inc_01KD3YB2.html"],
        head_seq=20_931,
        ms=212.4,
    ),
    ev.SensorSampled(
        sensor="macos",
        used_bytes=14_205_000_000,
        total_bytes=34_359_738_368,
        available_bytes=10_436_968_448,
        cgroup_limit_bytes=None,
        cgroup_used_bytes=None,
        swap_used_bytes=1_074_266_112,
        swap_in_bytes=2_015_232,
        swap_out_bytes=737_280,
        pressure="normal",
    ),
    ev.SensorUnavailable(sensor="macos", error="/usr/bin/vm_stat cannot be run: it took longer than 2.0 s"),
    ev.SensorSwapThrash(bytes_per_s=182_000_000, window_s=10.0),
    ev.SensorSwapRecovered(bytes_per_s=0, window_s=10.0),
    ev.BreakerOpened(
        name="engine",
        failures=4,
        for_s=2.0,
        reason="the worker (pid 5121) was ended by SIGSEGV while: load /models/broken",
    ),
    ev.BreakerHalfOpened(name="engine"),
    ev.BreakerClosed(name="engine"),
    ev.OperatorCommanded(command="stop", arguments={"timeout_s": 30.0}, via="SIGTERM"),
    ev.LedgerDropped(late=3, lost=0, reason="the disk was slower than the caller would wait"),
    ev.LedgerSealed(
        first_seq=1,
        last_seq=102_399,
        file="000000000001-000000102399.ndjson.gz",
        bytes=8_764_211,
        sha256=_SHA256,
    ),
    ev.LedgerArchived(segments=3, events=307_197, bytes=26_292_633, last_seq=307_199, reason="retention"),
    ev.LedgerVerified(
        ok=True,
        events=412_606,
        sealed=307_199,
        head_seq=412_606,
        head_hash=_SHA256,
        signed_seq=412_511,
        bad_seq=None,
        reason=None,
        took_ms=2_210.4,
    ),
)


def example_of(name: str) -> EventData:
    """The example of a type.

    Raises:
        KeyError: there is no such type, or nobody gave an example of it.
    """
    kind = CATALOGUE[name]
    for example in EXAMPLES:
        if type(example) is kind.data:
            return example
    raise KeyError(name)
