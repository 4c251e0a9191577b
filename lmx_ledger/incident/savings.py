"""What would have saved most: a table of rules from what was lost to what to change; pure.

Of each change the milliseconds that it was about are told: what was lost in all, which is the most that it can save.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from lmx_ledger.core.config import Config
from lmx_ledger.core.units import show_bytes
from lmx_ledger.incident.losses import DEAREST, DIVERGED, Loss, Losses
from lmx_ledger.incident.sentences import ms, plain
from lmx_ledger.serving import parts
from lmx_ledger.session.breakers import Breaker, mending

LEAST_MS: Final = 1_000.0
"""What cost less in all is no reason to change anything."""
_MOST_RUNNING: Final = 256
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Change(NamedTuple):
    """Something to change. `cost_ms` was lost for lack of it, `times` times; `seqs` are the dearest events.

    `keys` of the configuration it turns (none: it is not a matter of configuration), `given` the values with which a
    replay can be asked what would have been. It cost most in the hour of that number since the epoch: `hour_ms`.
    """

    rule: str
    what: str
    why: str
    cost_ms: float
    times: int
    keys: tuple[str, ...] = ()
    given: Mapping[str, str] = _NONE
    seqs: tuple[int, ...] = ()
    hour: int = 0
    hour_ms: float = 0.0


def changes(losses: Losses, config: Config) -> list[Change]:
    """All that would have saved at least `LEAST_MS`, the dearest first; `config` is what was in force."""
    found = [change for rule in _RULES for change in rule(losses, config) if change.cost_ms >= LEAST_MS]
    return sorted(found, key=lambda one: (-one.cost_ms, one.rule, one.what))


_Rule = Callable[[Losses, Config], Iterator[Change]]


def _stable_prefix(losses: Losses, config: Config) -> Iterator[Change]:  # noqa: ARG001 - as the others
    for cause in sorted(losses.by):
        prefix, _, breaker = cause.rpartition(".")
        if prefix != f"missed.{DIVERGED}" or breaker == Breaker.REASONING_STRIPPED:
            continue
        how = mending(breaker) or "append to what was said before instead of changing it"
        loss = losses.by[cause]
        what = breaker.replace("_", " ") or "another beginning"
        yield _change(
            "stable_prefix",
            f"Keep the beginning of prompts the same: {how}.",
            f"{loss.tokens:,} tokens that were known were read again in {_requests(loss.times)},"
            f" because of {plain(what)}{_mostly(loss, 'session ')}.",
            [loss],
        )


def _keep_more_kv(losses: Losses, config: Config) -> Iterator[Change]:
    for loss in losses.of("missed.evicted"):
        ram = config.kv.ram if config.kv.ram == "auto" else show_bytes(config.kv.ram)
        yield _change(
            "keep_more_kv",
            "Keep more KV: give it more memory or disk.",
            f"{loss.tokens:,} tokens were read again in {_requests(loss.times)}, because their KV had been let go for"
            f" room (for each model {ram} in memory, {show_bytes(config.kv.disk)} on disk){_mostly(loss, 'session ')}.",
            [loss],
            keys=("kv.ram", "kv.disk"),
        )


def _outlive_workers(losses: Losses, config: Config) -> Iterator[Change]:
    for loss in losses.of("missed.paged"):
        disk = "none is written to disk" if not config.kv.disk else "it was not on disk yet"
        yield _change(
            "outlive_workers",
            "Have KV outlive its worker: give it room on disk, and keep the models that are used loaded.",
            f"{loss.tokens:,} tokens were read again in {_requests(loss.times)}: their KV was in the memory of a worker"
            f" that had gone, and {disk}{_mostly(loss, 'session ')}.",
            [loss],
            keys=("kv.disk", "models.pin", "models.ttl"),
        )


def _change_less(losses: Losses, config: Config) -> Iterator[Change]:  # noqa: ARG001 - as the others
    found = losses.of("missed.model_changed", "missed.template_changed", "missed.format_changed")
    if found:
        tokens = sum(loss.tokens for loss in found)
        yield _change(
            "change_less",
            "Change models, chat templates and the form of kept KV seldom, and when nobody works.",
            f"{tokens:,} tokens were read again, because what was kept was another model's, template's or form's"
            f"{_mostly(found[0], 'session ')}.",
            found,
        )


def _make_room(losses: Losses, config: Config) -> Iterator[Change]:
    waited = losses.of(f"part.{parts.PAGE_IN}", f"part.{parts.MEMORY}", "resumed.memory")
    ins = losses.of("paged_in")
    # What the requests waited is what it cost; where no request says so, it is what the reading took.
    counted = waited or ins
    if not counted:
        return
    told = []
    if ins:
        told.append(f"weights came back from disk {_times(ins[0].times)}{_mostly(ins[0])}")
    if waited:
        told.append(f"requests waited {ms(sum(loss.ms for loss in waited))} for weights and for memory")
    limit = losses.limit_bytes * 5 // 4
    given = {"memory.limit": str(limit)} if limit else {}
    if not given and config.memory.page_at < 1:
        given = {"memory.page_at": "1.0"}
    yield _change(
        "make_room",
        "Give the models room: raise the memory limit or page_at, or serve one model fewer.",
        _sentence(told),
        counted,
        keys=("memory.limit", "memory.page_at"),
        given=given,
        seen=[*ins, *waited],
    )


def _run_more(losses: Losses, config: Config) -> Iterator[Change]:
    found = losses.of(f"part.{parts.QUEUE}", "refused.queue_full")
    if not found:
        return
    told = []
    for loss in losses.of(f"part.{parts.QUEUE}"):
        told.append(f"requests waited {ms(loss.ms)} for a free slot{_mostly(loss)}")
    for loss in losses.of("refused.queue_full"):
        told.append(f"{_requests(loss.times)} found the line full and had to come back later, {ms(loss.ms)} in all")
    running = config.queue.max_running
    yield _change(
        "run_more",
        f"Let more run at once than {running}, or have the clients send less at once.",
        _sentence(told),
        found,
        keys=("queue.max_running", "queue.max_waiting"),
        given={"queue.max_running": str(min(2 * running, _MOST_RUNNING))} if running < _MOST_RUNNING else {},
    )


def _refuse_later(losses: Losses, config: Config) -> Iterator[Change]:
    for loss in losses.of("refused.backpressure"):
        wait_s = config.guard.queue_wait
        yield _change(
            "refuse_later",
            f"Let new sessions wait longer than {ms(wait_s * 1e3)} before they are refused.",
            _sentence(
                [f"backpressure refused {_requests(loss.times)} of new sessions, told to wait {ms(loss.ms)} in all"]
            ),
            [loss],
            keys=("guard.queue_wait",),
            given={"guard.queue_wait": f"{2 * wait_s:g}s"},
        )


def _mend_workers(losses: Losses, config: Config) -> Iterator[Change]:  # noqa: ARG001 - as the others
    died = losses.of("resumed.worker_died", "resumed.step_failed")
    failed = losses.of("failed.engine_failed")
    if not died and not failed:
        return
    told = []
    if died:
        told.append(
            f"streams started over {_times(sum(loss.times for loss in died))} and stood still for"
            f" {ms(sum(loss.ms for loss in died))}{_mostly(died[0])}"
        )
    for loss in failed:
        told.append(f"{_requests(loss.times)} failed after {ms(loss.ms)} of work")
    yield _change(
        "mend_workers",
        "Find out why the workers die: what they did last and said last is in their engine.exited events.",
        _sentence(told),
        [*died, *failed],
    )


def _stay_loaded(losses: Losses, config: Config) -> Iterator[Change]:  # noqa: ARG001 - as the others
    for loss in losses.of(f"part.{parts.LOAD}"):
        yield _change(
            "stay_loaded",
            "Keep the models that are asked for loaded: pin them, or give them a longer ttl.",
            _sentence([f"{_requests(loss.times)} waited {ms(loss.ms)} for a model to load{_mostly(loss)}"]),
            [loss],
            keys=("models.pin", "models.ttl"),
        )


def _smaller_pieces(losses: Losses, config: Config) -> Iterator[Change]:
    for loss in losses.of(f"part.{parts.STALLS}"):
        yield _change(
            "smaller_pieces",
            "Have fewer requests share a worker at once, or have prompts read in smaller pieces.",
            _sentence(
                [
                    f"{_requests(loss.times)} stood still for {ms(loss.ms)} while their worker did others' work"
                    f" (a piece of a prompt may last {config.engine.prefill_gap} steps of those who decode)"
                    f"{_mostly(loss)}"
                ]
            ),
            [loss],
            keys=("queue.max_running", "engine.prefill_gap"),
        )


_RULES: Final[tuple[_Rule, ...]] = (
    _stable_prefix,
    _keep_more_kv,
    _outlive_workers,
    _change_less,
    _make_room,
    _run_more,
    _refuse_later,
    _mend_workers,
    _stay_loaded,
    _smaller_pieces,
)


def _change(
    rule: str,
    what: str,
    why: str,
    counted: list[Loss],
    *,
    keys: tuple[str, ...] = (),
    given: Mapping[str, str] = _NONE,
    seen: list[Loss] | None = None,
) -> Change:
    """`counted` is what it would have saved, `seen` where the evidence is from."""
    dearest = sorted(
        {one for loss in (counted if seen is None else seen) for one in loss.dearest}, key=lambda one: (-one[0], one[1])
    )
    hours: dict[int, float] = {}
    for loss in counted:
        for at, lost_ms in loss.hours.items():
            hours[at] = hours.get(at, 0.0) + lost_ms
    hour, hour_ms = min(hours.items(), key=lambda one: (-one[1], one[0]))
    return Change(
        rule=rule,
        what=what,
        why=why,
        cost_ms=round(sum(loss.ms for loss in counted), 3),
        times=sum(loss.times for loss in counted),
        keys=keys,
        given=given,
        seqs=tuple(seq for _, seq in dearest[:DEAREST]),
        hour=hour,
        hour_ms=round(hour_ms, 3),
    )


def _mostly(loss: Loss, kind: str = "") -> str:
    """Who had most of it, where that is worth a word."""
    ranked = loss.who.ranked()
    if not ranked or not loss.ms:
        return ""
    name, most = ranked[0]
    if len(ranked) == 1:
        return f", all of it {kind}{plain(name)}"
    return f", {most.ms / loss.ms:.0%} of it {kind}{plain(name)}" if most.ms >= loss.ms / 4 else ""


def _sentence(told: list[str]) -> str:
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _requests(count: int) -> str:
    return "one request" if count == 1 else f"{count:,} requests"
