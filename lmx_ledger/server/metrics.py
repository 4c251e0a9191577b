"""`/metrics`: what Prometheus scrapes. Counters and histograms go by the events, gauges are read when they are asked.

`vllm:` names, labels and buckets are those of that ecosystem's dashboards; `slo:` series are those that sloth's rules
make; `lmx_` is what only this program has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lmx_ledger import __version__
from lmx_ledger.core import events as ev
from lmx_ledger.core.units import parse_duration
from lmx_ledger.serving.models import PAGED, ModelState
from lmx_ledger.serving.service import Serving
from lmx_ledger.session.explain import Reason

_MODEL: Final = ("model_name",)
_TTFT_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_E2E_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FINISHES: Final = {"stop": "stop", "length": "length", "tool_calls": "stop"}
_ABORT: Final = "abort"
_STAGES: Final = ("normal", "backpressure", "shedding", "restart")
_SLEEP: Final = ("awake", "weights_offloaded", "discard_all")
_DIRECTIONS: Final = ("in", "out")
_ALL: Final = "all"
_DAY_S: Final = 86_400


class Source(Protocol):
    """What is asked for its form in JSON."""

    def public(self) -> dict[str, Any]:
        """That form."""


class Sources(NamedTuple):
    """Whom the gauges are read from."""

    serving: Serving
    memory: Source
    guard: Source
    objectives: Source
    heat: Callable[[], Mapping[str, float | None]]
    ledger: Callable[[], Mapping[str, float]]


class Series(NamedTuple):
    """A row of the catalogue: a name, what it says, its labels, and of a histogram the upper bounds."""

    name: str
    doc: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


TTFT: Final = Series("vllm:time_to_first_token_seconds", "To the first token.", _MODEL, _TTFT_S)
ITL: Final = Series("vllm:inter_token_latency_seconds", "Between two tokens.", _MODEL, _ITL_S)
E2E: Final = Series("vllm:e2e_request_latency_seconds", "A whole request.", _MODEL, _E2E_S)
PROMPT: Final = Series("vllm:prompt_tokens_total", "Prompt tokens of finished requests.", _MODEL)
GENERATED: Final = Series("vllm:generation_tokens_total", "Tokens that were answered.", _MODEL)
QUERIES: Final = Series("vllm:prefix_cache_queries_total", "Prompt tokens that were looked for.", _MODEL)
HITS: Final = Series("vllm:prefix_cache_hits_total", "Those that had been kept.", _MODEL)
SUCCESS: Final = Series("vllm:request_success_total", "Requests that ended.", (*_MODEL, "finished_reason"))
EVENTS: Final = Series("lmx_events_total", "Events of the ledger.", ("type",))
REFUSED: Final = Series("lmx_requests_refused_total", "Requests that were refused.", ("code",))
MISSES: Final = Series("lmx_kv_misses_total", "Prompts of which tokens were computed again.", ("reason",))
RECOMPUTED: Final = Series("lmx_kv_recomputed_tokens_total", "Tokens that had been computed before.", ("reason",))
PAGED_BYTES: Final = Series("lmx_paging_bytes_total", "Weights that went or came.", ("direction",))
PAGED_SECONDS: Final = Series("lmx_paging_seconds_total", "How long that took.", ("direction",))
RESTARTS: Final = Series("lmx_engine_restarts_total", "Workers that took another's place.", _MODEL)
HISTOGRAMS: Final = (TTFT, ITL, E2E)
COUNTERS: Final = (
    *(PROMPT, GENERATED, QUERIES, HITS, SUCCESS, EVENTS, REFUSED, MISSES, RECOMPUTED),
    *(PAGED_BYTES, PAGED_SECONDS, RESTARTS),
)
_PER_MODEL: Final = (PROMPT, GENERATED, QUERIES, HITS, RESTARTS)

GAUGES: Final = (
    Series("vllm:num_requests_running", "Streams in the engine.", _MODEL),
    Series("vllm:num_requests_waiting", "Requests in line.", _MODEL),
    Series("vllm:kv_cache_usage_perc", "Share (0 to 1) of the memory that weights leave which KV takes.", _MODEL),
    Series("vllm:engine_sleep_state", "1 for the state that a model's weights are in.", (*_MODEL, "sleep_state")),
    Series("lmx_build_info", "1; the version is a label.", ("version",)),
    Series("lmx_guard_stage", "1 for the stage in force.", ("stage",)),
    Series("lmx_safe_mode", "1 while the context ceiling is lowered."),
    Series("lmx_context_ceiling_tokens", "Tokens that a prompt and its answer may have at most."),
    Series("lmx_signal", "What the guard goes by, as it is now.", ("signal",)),
    Series("lmx_signal_threshold", "At which the signal comes on.", ("signal",)),
    Series("lmx_signal_on", "1 while it is.", ("signal",)),
    Series("lmx_queue_wait_seconds", "About how long a new request would wait.", _MODEL),
    Series("lmx_model_resident_bytes", "Of its weights, what is in memory.", _MODEL),
    Series("lmx_model_weights_bytes", "Of its weights, all.", _MODEL),
    Series("lmx_memory_limit_bytes", "The limit in force."),
    Series("lmx_memory_configured_bytes", "The limit that is configured."),
    Series("lmx_memory_used_bytes", "What is reserved."),
    Series("lmx_memory_measured_bytes", "What the workers hold."),
    Series("lmx_memory_weights_bytes", "Reserved for weights."),
    Series("lmx_memory_kv_bytes", "Reserved for the KV of streams."),
    Series("lmx_memory_kept_bytes", "Reserved for KV at rest."),
    Series("lmx_memory_working_bytes", "Reserved for working memory."),
    Series("lmx_memory_others_bytes", "Reserved by other daemons of this home."),
    Series("lmx_gpu_busy_ratio", "Share of the time in which the GPU had work; absent where the machine does not say."),
    Series("lmx_gpu_frequency_hertz", "Its clock; absent where the machine does not say."),
    Series("lmx_thermal_throttled", "1 while heat slows the machine."),
    Series("lmx_ledger_seq", "The newest event."),
    Series("lmx_ledger_queue", "Events that are not committed yet."),
    Series("lmx_ledger_lost", "Events that never will be."),
    Series("slo:objective:ratio", "What the objective aims at.", ("sloth_service", "sloth_slo", "sloth_id")),
    Series("slo:time_period:days", "Days of its period.", ("sloth_service", "sloth_slo", "sloth_id")),
    Series("slo:error_budget:ratio", "What may fail.", ("sloth_service", "sloth_slo", "sloth_id")),
    Series(
        "slo:sli_error:ratio_rate",
        "What failed, by window.",
        ("sloth_service", "sloth_slo", "sloth_id", "sloth_window"),
    ),
    Series(
        "slo:current_burn_rate:ratio",
        "How fast the budget burns, over the shortest window that has data.",
        ("sloth_service", "sloth_slo", "sloth_id"),
    ),
    Series(
        "slo:period_burn_rate:ratio", "How fast it burns, over the period.", ("sloth_service", "sloth_slo", "sloth_id")
    ),
    Series(
        "slo:period_error_budget_remaining:ratio",
        "Share of the period's budget that is left.",
        ("sloth_service", "sloth_slo", "sloth_id"),
    ),
)
"""What is read when it is asked for. A series whose figure nobody knows is left out."""

_Values = Iterable[tuple[Sequence[str], float | None]]


class Metrics:
    """One per daemon. `on_event` is told of every event; it may be called from any thread."""

    def __init__(self, sources: Sources) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        self._histograms = {
            one: Histogram(one.name, one.doc, one.labels, buckets=one.bounds, registry=registry) for one in HISTOGRAMS
        }
        self._counters = {one: Counter(one.name, one.doc, one.labels, registry=registry) for one in COUNTERS}
        registry.register(_Gauges(sources))
        for direction in _DIRECTIONS:
            self._counters[PAGED_BYTES].labels(direction)
            self._counters[PAGED_SECONDS].labels(direction)
        for reason in Reason:
            self._counters[MISSES].labels(reason.value)
            self._counters[RECOMPUTED].labels(reason.value)
        for model in sources.serving.models.all():
            self._begin(model.id)

    def exposition(self) -> tuple[bytes, str]:
        """The text, and its content type.

        Always Prometheus's own format: as OpenMetrics the library (0.26) writes the colons of names as underscores.
        """
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def on_gaps(self, model: str, gaps_ms: Sequence[float]) -> None:
        """The pauses between the tokens of a request that has ended."""
        observe = self._histograms[ITL].labels(model).observe
        for gap_ms in gaps_ms:
            observe(gap_ms / 1e3)

    def on_event(self, event: ev.Event) -> None:
        """Count it."""
        count, measure = self._counters, self._histograms
        count[EVENTS].labels(event.kind.name).inc()
        model, data = event.model or "", event.data
        match data:
            case ev.RequestFinished():
                count[SUCCESS].labels(model, _FINISHES.get(data.finish_reason, data.finish_reason)).inc()
                count[PROMPT].labels(model).inc(data.prompt_tokens)
                count[GENERATED].labels(model).inc(data.completion_tokens)
                count[QUERIES].labels(model).inc(data.prompt_tokens)
                count[HITS].labels(model).inc(data.cached_tokens)
                measure[E2E].labels(model).observe(data.wall_ms / 1e3)
            case ev.RequestFirstToken():
                measure[TTFT].labels(model).observe(data.ttft_ms / 1e3)
            case ev.RequestCancelled() | ev.RequestFailed():
                count[SUCCESS].labels(model, _ABORT).inc()
            case ev.RequestRejected():
                count[REFUSED].labels(data.code).inc()
            case ev.KvMissed():
                count[MISSES].labels(data.reason).inc()
                count[RECOMPUTED].labels(data.reason).inc(data.lost_tokens)
            case ev.PagingOutFinished() | ev.PagingInFinished():
                direction = _DIRECTIONS[isinstance(data, ev.PagingOutFinished)]
                count[PAGED_BYTES].labels(direction).inc(data.bytes)
                count[PAGED_SECONDS].labels(direction).inc(data.ms / 1e3)
            case ev.EngineRestarted():
                count[RESTARTS].labels(model).inc()
            case ev.ModelLoaded():
                self._begin(model)

    def _begin(self, model: str) -> None:
        """Series begin at 0: a rate over one that appears with its first event misses that."""
        for histogram in self._histograms.values():
            histogram.labels(model)
        for one in _PER_MODEL:
            self._counters[one].labels(model)
        for reason in (*dict.fromkeys(_FINISHES.values()), _ABORT):
            self._counters[SUCCESS].labels(model, reason)


class _Gauges(Collector):
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Metric]:
        """Nothing is read before it is asked for."""
        return [GaugeMetricFamily(gauge.name, gauge.doc, labels=gauge.labels) for gauge in GAUGES]

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        values: dict[str, _Values] = {
            **_of_models(self._sources),
            **_of_memory(self._sources.memory.public()),
            **_of_guard(self._sources.guard.public()),
            **_of_objectives(self._sources.objectives.public()),
            **{name: [((), value)] for name, value in self._sources.heat().items()},
            **{name: [((), value)] for name, value in self._sources.ledger().items()},
            "lmx_build_info": [((__version__,), 1.0)],
        }
        for gauge in GAUGES:
            family = GaugeMetricFamily(gauge.name, gauge.doc, labels=gauge.labels)
            for labels, value in values[gauge.name]:
                if value is not None:
                    family.add_metric(labels, value)
            yield family


def _of_models(sources: Sources) -> dict[str, _Values]:
    models, memory = sources.serving.models.all(), sources.memory.public()
    room = max(memory["limit_bytes"] - memory["weights_bytes"], 1)
    kv = {line["model"]: line["kv_bytes"] + line["kept_bytes"] for line in memory["accounts"]}
    asleep = {model.id: _sleep_of(model.state) for model in models}
    return {
        "vllm:num_requests_running": [((model.id,), model.in_flight) for model in models],
        "vllm:num_requests_waiting": [((model.id,), model.queue.waiting) for model in models],
        "vllm:kv_cache_usage_perc": [((model.id,), kv.get(model.id, 0) / room) for model in models],
        "vllm:engine_sleep_state": [
            ((model.id, state), float(asleep[model.id] == state)) for model in models for state in _SLEEP
        ],
        "lmx_queue_wait_seconds": [((model.id,), model.queue.wait_s()) for model in models],
        "lmx_model_resident_bytes": [((model.id,), model.resident_bytes) for model in models],
        "lmx_model_weights_bytes": [((model.id,), model.weights_bytes) for model in models],
    }


def _sleep_of(state: ModelState) -> str:
    if state in PAGED:
        return _SLEEP[1]
    return _SLEEP[0] if state is ModelState.RESIDENT else _SLEEP[2]


def _of_memory(memory: dict[str, Any]) -> dict[str, _Values]:
    names = ("limit", "configured", "used", "measured", "weights", "kv", "kept", "working", "others")
    return {f"lmx_memory_{name}_bytes": [((), memory[f"{name}_bytes"])] for name in names}


def _of_guard(guard: dict[str, Any]) -> dict[str, _Values]:
    signals = guard["thresholds"]
    return {
        "lmx_guard_stage": [((stage,), float(guard["stage"] == stage)) for stage in _STAGES],
        "lmx_safe_mode": [((), float(guard["safe_mode"]))],
        "lmx_context_ceiling_tokens": [((), guard["max_context_tokens"])],
        "lmx_signal": [((one["name"],), one["value"]) for one in signals],
        "lmx_signal_threshold": [((one["name"],), one["at"]) for one in signals],
        "lmx_signal_on": [((one["name"],), float(one["on"])) for one in signals],
    }


def _of_objectives(told: dict[str, Any]) -> dict[str, _Values]:
    rows = [(_named(row), row, 1 - row["objective"]) for row in told["objectives"]]
    return {
        "slo:objective:ratio": [(labels, row["objective"]) for labels, row, _ in rows],
        "slo:time_period:days": [(labels, parse_duration(row["period"]) / _DAY_S) for labels, row, _ in rows],
        "slo:error_budget:ratio": [(labels, budget) for labels, _, budget in rows],
        "slo:sli_error:ratio_rate": [
            ((*labels, window), None if rate is None else rate * budget)
            for labels, row, budget in rows
            for window, rate in row["burn"].items()
        ],
        "slo:current_burn_rate:ratio": [(labels, _current(row["burn"])) for labels, row, _ in rows],
        "slo:period_burn_rate:ratio": [
            (labels, (1 - row["good"] / row["total"]) / budget if row["total"] else None)
            for labels, row, budget in rows
        ],
        "slo:period_error_budget_remaining:ratio": [(labels, row["budget_remaining"]) for labels, row, _ in rows],
    }


def _named(row: dict[str, Any]) -> tuple[str, str, str]:
    """Service (the model, or `all`), objective, and both."""
    service = row["model"] or _ALL
    return service, row["name"], f"{service}-{row['name']}"


def _current(burn: dict[str, float | None]) -> float | None:
    known = {window: rate for window, rate in burn.items() if rate is not None}
    return known[min(known, key=parse_duration)] if known else None
