"""What may have caused an incident: each kind of fault that leaves a trace, as a series and a sentence; pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_bytes, show_duration
from lmx_ledger.incident import series as s
from lmx_ledger.incident.onset import rise
from lmx_ledger.incident.series import SECOND_US, Seconds
from lmx_ledger.incident.state import Incident
from lmx_ledger.incident.suspect import (
    BAD_CONFIGURATION,
    BROKEN_PREFIX,
    ENGINE_HANG,
    LONG_PROMPTS,
    OTHER_PROGRAMS,
    PAGING_STORM,
    SESSION_FLOOD,
    SLOW_DISK,
    SWAP_THRASH,
    THERMAL,
    WORKER_CRASH,
    Events,
    Suspect,
    decaying,
    jump_of,
    some,
)

_MANY: Final = 3
_CERTAIN_Z: Final = 40.0
"""Of an event that says by itself what is wrong, where there was none before."""
_SLOWER: Final = 3.0
_SHARE: Final = 0.4
_LONGER: Final = 3.0
_LONG_TOKENS: Final = 256.0
"""No prompt that is shorter is a long one, whatever others ask."""


def suspects(events: Sequence[Recorded], seconds: Seconds, incident: Incident) -> Iterator[Suspect]:
    """All of which there is a trace."""
    by_seq = {event.seq: event for event in events}
    quiet = max(seconds.at(incident.started_us) - 1, 1)
    for find in _FINDERS:
        found = find(by_seq, seconds, quiet, incident)
        if found is not None:
            yield found


_Finder = Callable[[Events, Seconds, int, Incident], Suspect | None]


def _paging(by_seq: Events, seconds: Seconds, quiet: int, _: Incident) -> Suspect | None:
    jump = jump_of(seconds, by_seq, s.PAGING, quiet, 3.0)
    if jump is None or len(jump.seqs) < _MANY:
        return None
    size = sum(by_seq[seq].data["bytes"] for seq in jump.seqs)
    models = sorted({by_seq[seq].model or "?" for seq in jump.seqs})
    text = (
        f"Weights went out and came back {len(jump.seqs):,} times ({show_bytes(size)}, of {some(models)}): what is "
        f"asked for does not fit into memory together."
    )
    values = seconds.counts(s.PAGING)
    told = {"times": len(jump.seqs), "bytes": size, "models": models}
    return Suspect(
        PAGING_STORM,
        "paging storm",
        values,
        jump.at_us,
        jump.before,
        jump.after,
        "moves/s",
        jump.z,
        text,
        jump.seqs,
        told,
    )


def _heat(by_seq: Events, seconds: Seconds, _: int, __: Incident) -> Suspect | None:
    return _state(by_seq, seconds, s.HEAT, THERMAL, "thermal throttling", _heat_text)


def _heat_text(first: Recorded) -> str:
    drop = first.data["gpu_drop"]
    if drop is not None:
        return f"Heat slows the GPU: its clock is {drop:.0%} below what it is when it is cool."
    return f"Heat slows the machine (level {first.data['level'] or 'told by the driver'})."


def _swap(by_seq: Events, seconds: Seconds, _: int, __: Incident) -> Suspect | None:
    def text(first: Recorded) -> str:
        rate = show_bytes(first.data["bytes_per_s"])
        return f"The machine swaps: {rate} a second were written for {show_duration(first.data['window_s'])}."

    return _state(by_seq, seconds, s.SWAP, SWAP_THRASH, "swap thrash", text)


def _others(by_seq: Events, seconds: Seconds, _: int, __: Incident) -> Suspect | None:
    def text(first: Recorded) -> str:
        data = first.data
        return (
            f"Other programs took memory: the limit went from {show_bytes(data['from_bytes'])} to "
            f"{show_bytes(data['to_bytes'])} ({data['reason']})."
        )

    return _state(by_seq, seconds, s.OTHERS, OTHER_PROGRAMS, "other programs took memory", text)


def _state(
    by_seq: Events, seconds: Seconds, series: str, kind: str, name: str, text: Callable[[Recorded], str]
) -> Suspect | None:
    """Something that is so or not, and is told of when it begins."""
    seqs = seconds.seqs[series]
    values = seconds.counts(series)
    if not seqs or 1.0 not in values:
        return None
    at = values.index(1.0)
    share = math.fsum(values[at:]) / (len(values) - at)
    return Suspect(
        kind, name, values, seconds.time_us(at), 0.0, share, "of the time", _CERTAIN_Z, text(by_seq[seqs[0]]), seqs
    )


def _crashes(by_seq: Events, seconds: Seconds, _: int, __: Incident) -> Suspect | None:
    seqs = seconds.seqs[s.EXITS]
    if not seqs:
        return None
    first = by_seq[seqs[0]]
    values = decaying(seconds.counts(s.EXITS))
    how = first.data["signal"] or f"status {first.data['code']}"
    last_act = (first.data["last_acts"] or ["nothing noted"])[-1]
    many = len(seqs) >= _MANY
    name = "worker crash loop" if many else "worker crash"
    times = f"{len(seqs)} times" if len(seqs) > 1 else "once"
    text = f"The worker of {first.model} died {times} ({how}); its last act: {last_act}."
    return Suspect(
        WORKER_CRASH,
        name,
        values,
        first.time_us,
        0.0,
        float(len(seqs)),
        "exits",
        _CERTAIN_Z,
        text,
        seqs,
        {"models": sorted({by_seq[seq].model or "?" for seq in seqs})},
    )


def _hangs(by_seq: Events, seconds: Seconds, _: int, __: Incident) -> Suspect | None:
    seqs = seconds.seqs[s.HANGS]
    if not seqs:
        return None
    first = by_seq[seqs[0]]
    asked = by_seq.get(first.cause or 0)
    silent_s = float((asked.data.get("silent_s") if asked is not None else None) or 0.0)
    since_us = (asked or first).time_us - int(silent_s * 1e6)
    values = [0.0] * seconds.count
    for seq in seqs:
        exited = by_seq[seq]
        for at in range(seconds.at(exited.time_us - int(silent_s * 1e6)), seconds.at(exited.time_us) + 1):
            values[at] = 1.0
    text = (
        f"The worker of {first.model} had work and gave nothing for {show_duration(silent_s)}; "
        f"{len(first.data['in_flight'])} requests were with it."
    )
    return Suspect(ENGINE_HANG, "engine hang", values, since_us, 0.0, float(len(seqs)), "hangs", _CERTAIN_Z, text, seqs)


def _flood(by_seq: Events, seconds: Seconds, quiet: int, incident: Incident) -> Suspect | None:
    jump = jump_of(seconds, by_seq, s.NEW, quiet, 6.0)
    if jump is None:
        return None
    until = seconds.at(incident.ended_us) if incident.ended_us is not None else seconds.count
    span_s = max(until - seconds.at(jump.at_us), 1)
    text = (
        f"New sessions came faster: {len(jump.seqs):,} in {show_duration(span_s)}, "
        f"{jump.before * 60:.3g} a minute before."
    )
    values = seconds.counts(s.NEW)
    return Suspect(
        SESSION_FLOOD, "flood of new sessions", values, jump.at_us, jump.before, jump.after, "sessions/s", jump.z, text,
        jump.seqs,
    )  # fmt: skip


def _prefix(by_seq: Events, seconds: Seconds, quiet: int, _: Incident) -> Suspect | None:
    jump = jump_of(seconds, by_seq, s.LOST_PREFIX, quiet, 256.0)
    if jump is None:
        return None
    missed = [by_seq[seq].data for seq in jump.seqs]
    breakers = sorted({one["breaker"] for one in missed}, key=lambda b: -sum(one["breaker"] == b for one in missed))
    lost = sum(one["lost_tokens"] for one in missed)
    where = missed[0]["role"]
    text = (
        f"Prompts no longer begin as they did ({breakers[0]}{f', in the {where} message' if where else ''}): "
        f"{lost:,} tokens in {len(missed):,} requests were computed again."
    )
    values = seconds.counts(s.LOST_PREFIX)
    told = {"breakers": breakers, "tokens": lost}
    return Suspect(
        BROKEN_PREFIX, "broken prefix", values, jump.at_us, jump.before, jump.after, "tokens/s", jump.z, text,
        jump.seqs, told,
    )  # fmt: skip


def _disk(by_seq: Events, seconds: Seconds, quiet: int, _: Incident) -> Suspect | None:
    change = rise(seconds.series(s.DISK), quiet, least=50.0)
    if change is None or change.after < _SLOWER * max(change.before, 1.0):
        return None
    values, last = [], change.before
    for value in seconds.series(s.DISK):
        last = last if value is None else value
        values.append(last)
    begin = seconds.time_us(change.at)
    seqs = [seq for seq in seconds.seqs[s.DISK] if by_seq[seq].time_us >= begin]
    text = (
        f"The disk became slow: {change.after:,.0f} ms for a megabyte of KV or weights, {change.before:,.3g} ms before."
    )
    return Suspect(SLOW_DISK, "slow disk", values, begin, change.before, change.after, "ms/MB", change.z, text, seqs)


def _tenant(by_seq: Events, seconds: Seconds, quiet: int, _: Incident) -> Suspect | None:
    """Whose prompts' computed tokens went up most, where they are most of all: a session, or a program that asks with
    longer prompts than everybody else.
    """
    sessions = {who: _behind(mine, quiet) for who, mine in seconds.tokens.items()}
    everything = math.fsum(sessions.values())
    programs = {who: _tokens_of(mine, quiet) for who, mine in seconds.of_client.items()}
    longer = {who: tokens for who, (_, tokens) in programs.items() if _asks_longer(who, programs)}
    total, is_program, who = max(
        ((tokens, is_program, who) for is_program, of in enumerate((sessions, longer)) for who, tokens in of.items()),
        default=(0.0, 0, ""),
    )
    if not everything or total < _SHARE * everything:
        return None
    values = seconds.client(who) if is_program else seconds.tenant(who)
    change = rise(values, quiet, least=256.0)
    if change is None:
        return None
    begin = seconds.time_us(change.at)
    seqs = [
        event.seq
        for event in by_seq.values()
        if event.type in {"kv.missed", "kv.hit"}
        and event.time_us >= begin
        and who == (seconds.clients.get(event.request or "", "?") if is_program else event.session)
    ]
    longest = max((by_seq[seq].data.get("recomputed_tokens", 0) for seq in seqs), default=0)
    share = total / everything
    text = (
        f"{who} asks with long prompts: {total:,.0f} tokens were computed for it, {share:.0%} of all, "
        f"up to {longest:,} at once."
    )
    told = {"tenant": who, "share": round(share, 3), "longest_tokens": longest}
    return Suspect(
        LONG_PROMPTS, "one tenant's long prompts", values, begin, change.before, change.after, "tokens/s", change.z,
        text, seqs, told, weight=share,
    )  # fmt: skip


def _behind(mine: Mapping[int, float], quiet: int) -> float:
    return math.fsum(tokens for at, tokens in mine.items() if at >= quiet)


def _tokens_of(mine: Mapping[int, tuple[int, float]], quiet: int) -> tuple[int, float]:
    """Prompts, and tokens computed for them, behind the quiet time."""
    behind = [of for at, of in mine.items() if at >= quiet]
    return sum(prompts for prompts, _ in behind), math.fsum(tokens for _, tokens in behind)


def _asks_longer(who: str, programs: Mapping[str, tuple[int, float]]) -> bool:
    """Whether the mean prompt of a program is several times that of all others."""
    others = [of for name, of in programs.items() if name != who]
    prompts, tokens = sum(of[0] for of in others), math.fsum(of[1] for of in others)
    mine, mine_tokens = programs[who]
    return bool(mine and prompts) and mine_tokens / mine >= max(_LONGER * tokens / prompts, _LONG_TOKENS)


def _configuration(by_seq: Events, seconds: Seconds, _: int, incident: Incident) -> Suspect | None:
    """What was configured last before the trouble, or could not be loaded."""
    wanted = [seq for seq in seconds.seqs[s.CONFIG] if by_seq[seq].time_us <= incident.detected_us + 2 * SECOND_US]
    if not wanted:
        return None
    last = by_seq[wanted[-1]]
    if last.type == "model.load_failed":
        text = f"{last.model} cannot be loaded from {last.data['path']}: {last.data['error']}"
    elif last.type == "config.loaded":
        text = (
            f"The daemon was started with another configuration shortly before ({last.data['source'] or 'defaults'})."
        )
    elif last.data["error"]:
        text = f"A configuration was read that is wrong: {last.data['error']}"
    else:
        keys = ", ".join(f"{key} = {value}" for key, value in list(last.data["changed"].items())[:4])
        text = f"The configuration was changed shortly before: {keys}."
    at = seconds.at(last.time_us)
    values = [0.0] * at + [1.0] * (seconds.count - at)
    return Suspect(
        BAD_CONFIGURATION, "configuration", values, last.time_us, 0.0, float(len(wanted)), "changes", _CERTAIN_Z, text,
        [last.seq], lasts=False,
    )  # fmt: skip


_FINDERS: Final[tuple[_Finder, ...]] = (
    _paging,
    _heat,
    _swap,
    _others,
    _crashes,
    _hangs,
    _flood,
    _prefix,
    _disk,
    _tenant,
    _configuration,
)
