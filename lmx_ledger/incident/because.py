"""What made each part of a request's time, read off its evidence: one small question per part. Pure."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import tzinfo
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.core.units import show_bytes
from lmx_ledger.incident.evidence import Evidence, Stay
from lmx_ledger.incident.missed import causes_in, computed, reason, taker
from lmx_ledger.incident.sentences import ms, plain, sentence
from lmx_ledger.serving import parts as names

_NAMED: Final = 3
"""Other requests that are named; the rest is counted."""
_LEAST_TOKENS: Final = 2
_WORTH_MS: Final = 10.0
_MANY: Final = 4
"""So many requests in line: whose they are is worth a word."""


class Because(NamedTuple):
    """One reason, and the event that says so."""

    seq: int
    text: str


class Case:
    """One request's evidence, and the questions that are asked of it."""

    def __init__(self, evidence: Evidence, zone: tzinfo) -> None:
        self.evidence = evidence
        self._zone = zone
        self._model = next((event.model for event in evidence.own if event.model is not None), None)
        self._ask: dict[str, Callable[[], Iterator[Because]]] = {
            names.ADMISSION: self._admission,
            names.LOAD: self._load,
            names.MEMORY: self._memory,
            names.PAGE_IN: self._page_in,
            names.QUEUE: self._queue,
            names.RESTORE: self._restore,
            names.PREFILL: self._prefill,
            names.STALLS: self._stalls,
            names.DECODE: self._decode,
            names.RESUME: self._resume,
            names.TOOLS: self._tools,
            names.CLIENT: self._client,
        }

    def own(self, *kinds: str) -> Recorded | None:
        """Its newest event of those types."""
        return next((event for event in reversed(self.evidence.own) if event.type in kinds), None)

    def _first(self, kind: str) -> Recorded | None:
        return next((event for event in self.evidence.own if event.type == kind), None)

    def _spent(self, part: str) -> float:
        end = self.own("request.finished", "request.cancelled", "request.failed")
        return float((end.data.get("parts_ms") or {}).get(part, 0.0)) if end is not None else 0.0

    def because(self, part: str) -> list[Because]:
        """Why it took that time, each reason once: what is nearest first, then what made that happen."""
        ask = self._ask.get(part)
        once: dict[str, Because] = {}
        for one in ask() if ask is not None else ():
            once.setdefault(one.text, one)
        return list(once.values())

    def lead(self, part: str) -> str:
        """The reason in one clause, for a headline."""
        missed = self.own("kv.missed")
        if part == names.PREFILL and missed is not None:
            return f"{computed(missed)} because {reason(self.evidence, missed, self._zone)}"
        found = self.because(part)
        return found[0].text.removesuffix(".") if found else names.PARTS.get(part, plain(part))

    # --- before the engine -------------------------------------------------------------------------------------------

    def _admission(self) -> Iterator[Because]:
        received, admitted = self.own("request.received"), self.own("request.admitted")
        if received is None:
            return
        data = received.data
        tokens = f", {admitted.data['prompt_tokens']:,} tokens" if admitted is not None else ""
        tools = f" and {_count(data['tools'], 'tool')}" if data["tools"] else ""
        yield Because(
            received.seq,
            f"checking its {_count(data['messages'], 'message')}{tools} ({data['chars']:,} characters{tokens}), "
            "putting them into the model's template and cutting that into tokens.",
        )

    def _load(self) -> Iterator[Because]:
        for event in self._around("model.load_started", "model.loaded", "model.load_failed", "engine.exited"):
            if event.model == self._model:
                yield self._said(event)
                yield from self._causes(event)

    def _memory(self) -> Iterator[Because]:
        parked = [event for event in self.evidence.own if event.data.get("reason") == "memory"]
        for event in parked:
            if event.type == "request.resumed":
                yield Because(
                    event.seq,
                    f"there was no memory for more of its answer than {event.data['tokens']:,} tokens: it was put back "
                    f"at the head of the line, and went on after {ms(event.data['gap_ms'])}.",
                )
        plans = [event for event in self._around("paging.planned") if self._concerns(event)]
        # One from before it came matters only where it goes on.
        plans = [plan for plan in plans if plan.seq > self.evidence.own[0].seq] or plans[-1:]
        for event in plans:
            yield self._said(event)
            yield from self._causes(event)
        if not plans and not parked:
            what = "there was no room for its KV beside what others held"
            queued = self.own("request.queued")
            if self._spent(names.QUEUE) > self._spent(names.MEMORY) and queued is not None:
                yield Because(queued.seq, f"{what}; who they were stands at the queue.")
            else:
                yield from self._holders(what)
        for event in self._around("guard.threshold_breached"):
            if event.data["name"] in {"memory", "memory_limit"}:
                yield self._said(event)

    def _page_in(self) -> Iterator[Because]:
        for event in self._around("paging.in_finished"):
            if event.model == self._model:
                yield self._said(event)
        for event in self.evidence.outs:
            yield self._said(event)
            yield from self._causes(event)

    def _queue(self) -> Iterator[Because]:
        queued = self._first("request.queued")
        if queued is None:
            admitted = self.own("request.admitted")
            if admitted is not None:
                yield Because(admitted.seq, "a slot was free; this is what it took to give it one.")
            return
        running = queued.data["running"]
        taken = f", of which {running} were taken" if running else ""
        what = f"it was number {queued.data['position']} in line for a slot of {plain(self._model)}{taken}"
        if self._spent(names.MEMORY) >= self._spent(names.QUEUE):
            yield Because(queued.seq, f"{what}.")
        else:
            yield from self._holders(what)

    def _holders(self, what: str) -> Iterator[Because]:
        """Who was in the engine while it stood in line."""
        began, admitted = self._first("request.queued") or self.evidence.own[0], self.own("request.admitted")
        until = admitted.seq if admitted is not None and admitted.seq > began.seq else None
        held = [
            stay
            for stay in self.evidence.others
            if (stay.ended is None or stay.ended > began.seq) and (until is None or stay.admitted < until)
        ]
        held.sort(key=lambda stay: (stay.wall_ms is None, stay.wall_ms or 0.0), reverse=True)
        if not held:
            yield Because(began.seq, f"{what}.")
            return
        yield Because(began.seq, f"{what}, behind {_count(len(held), 'request')}{_of_sessions(held)}.")
        for stay in held[:_NAMED]:
            if stay.wall_ms is None:
                yield Because(stay.admitted, f"{_named(stay)} was in the engine, and has no end yet.")
                continue
            yield Because(
                stay.ended or stay.admitted,
                f"{_named(stay)} took {ms(stay.wall_ms)}, with {_tokens(stay.prompt_tokens)} of prompt "
                f"and {_tokens(stay.completion_tokens or 0)} of answer.",
            )
        if len(held) > _NAMED:
            yield Because(began.seq, f"and {_count(len(held) - _NAMED, 'more request')}.")

    # --- in the engine -----------------------------------------------------------------------------------------------

    def _restore(self) -> Iterator[Because]:
        hit, restored = self.own("kv.hit", "kv.missed"), self.own("kv.restored")
        read = restored.data["read_bytes"] if restored is not None else 0
        took = restored.data["ms"] if restored is not None else 0.0
        waited = restored.data.get("waited_ms", 0.0) if restored is not None else 0.0
        found = []
        if hit is not None and hit.data["reused_tokens"]:
            rate = f", {show_bytes(read)} of it from disk, at {show_bytes(int(read / max(took, 0.001) * 1e3))} a second"
            where = rate if read else ", all of it from memory"
            found.append(Because(hit.seq, f"KV of {hit.data['reused_tokens']:,} tokens was put together{where}."))
        if restored is not None and waited >= _WORTH_MS:
            told = Because(restored.seq, f"it waited {ms(waited)}: what is kept of others was being read.")
            found.insert(0 if waited > took else len(found), told)
        yield from found

    def _prefill(self) -> Iterator[Because]:
        hit, missed = self.own("kv.hit"), self.own("kv.missed")
        if hit is not None:
            yield Because(
                hit.seq,
                f"{hit.data['computed_tokens']:,} tokens were new and computed; {hit.data['reused_tokens']:,} before "
                "them were kept from earlier.",
            )
        elif missed is not None:
            yield Because(missed.seq, f"{computed(missed)}: {reason(self.evidence, missed, self._zone)}.")
            took = taker(self.evidence, missed)
            if took is not None:
                yield self._said(took)
                yield from self._causes(took)
        elif (admitted := self.own("request.admitted")) is not None:
            yield Because(admitted.seq, f"{_tokens(admitted.data['prompt_tokens'])} of prompt were read.")

    def _stalls(self) -> Iterator[Because]:
        admitted = self.own("request.admitted")
        if admitted is None:
            return
        last, first = self.evidence.own[-1].seq, self.own("request.first_token")
        reading = [
            stay
            for stay in self.evidence.others
            if stay.admitted < last and (stay.read or stay.ended or last) > admitted.seq
        ]
        reading.sort(key=lambda stay: -stay.prompt_tokens)
        drew = [
            stay
            for stay in self.evidence.others
            if first is not None and stay.admitted < first.seq and (stay.ended or last) > admitted.seq
        ]
        what = []
        if reading:
            what.append(f"it read the {_count(len(reading), 'prompt')} of others")
        if drew:
            what.append(f"before the first token it drew the {_count(len(drew), 'answer')} of others")
        told = " and ".join(what) or "it was busy with others"
        yield Because(admitted.seq, f"the worker does one thing at a time: {told}.")
        for stay in reading[:_NAMED]:
            yield Because(stay.admitted, f"{_named(stay)} had {_tokens(stay.prompt_tokens)} to read.")

    def _decode(self) -> Iterator[Because]:
        end = self.own("request.finished", "request.cancelled", "request.failed")
        if end is None:
            first = self.own("request.first_token")
            if first is not None:
                yield Because(first.seq, "its answer was being drawn.")
            return
        tokens, spent = end.data["completion_tokens"], (end.data.get("parts_ms") or {}).get(names.DECODE)
        each = f", {ms(spent / (tokens - 1))} each" if spent and tokens >= _LEAST_TOKENS else ""
        p95 = end.data.get("itl_p95_ms")
        slow = f"; 19 of 20 pauses between two were at most {ms(p95)}" if p95 else ""
        admitted = self.own("request.admitted")
        choices = admitted.data["choices"] if admitted is not None else 1
        several = f" in {choices} choices" if choices > 1 else ""
        yield Because(end.seq, f"{_tokens(tokens)} were drawn{several}{each}{slow}.")
        beside = [
            stay
            for stay in self.evidence.others
            if admitted is not None and stay.admitted < end.seq and (stay.ended or end.seq) > admitted.seq
        ]
        if beside:
            yield Because(end.seq, f"{_count(len(beside), 'other request')} shared the worker with it meanwhile.")

    def _resume(self) -> Iterator[Because]:
        why = {
            "worker_died": "its worker ended and another one took its place",
            "step_failed": "a step of the worker failed, and it was read again alone",
            "memory": "it had to be read again when there was memory for it",
        }
        for event in self.evidence.own:
            if event.type == "request.resumed":
                data = event.data
                told = why.get(data["reason"], plain(data["reason"]))
                yield Because(
                    event.seq,
                    f"{told}: {data['reread_tokens']:,} tokens were read again, it went on behind "
                    f"{_tokens(data['tokens'])} of answer, and nothing came for {ms(data['gap_ms'])}.",
                )
                yield from self._causes(event)
        if self.own("request.resumed") is None:
            for event in self._around("engine.exited"):
                if event.model == self._model:
                    yield self._said(event)
                    yield from self._causes(event)

    def _tools(self) -> Iterator[Because]:
        failed = next((e for e in self.evidence.own if e.data.get("reason") == "tool_call_unparsed"), None)
        if failed is not None:
            yield Because(failed.seq, f"what it wrote is no tool call: {plain(failed.data.get('detail'))}.")
        elif (end := self.own("request.finished", "request.cancelled", "request.failed")) is not None:
            yield Because(end.seq, "the worker put what the model wrote into the form of tool calls.")

    def _client(self) -> Iterator[Because]:
        end = self.own("request.finished", "request.cancelled", "request.failed")
        if end is not None:
            received = self.own("request.received")
            streamed = received is not None and received.data["stream"]
            how = "what was left was sent as fast as its client read" if streamed else "the answer was put together"
            yield Because(end.seq, f"the engine was done with it; {how}.")

    # --- what else there is to say -----------------------------------------------------------------------------------

    def degraded(self) -> list[Because]:
        """What was otherwise than asked, and why."""
        found = []
        for event in self.evidence.own:
            if event.type != "request.degraded" or event.data["reason"] == "tool_call_unparsed":
                continue
            asked, given = event.data.get("asked"), event.data.get("given")
            if event.data["reason"] == "max_tokens_clamped" and asked is not None and given is not None:
                text = f"its answer was held to {given:,} tokens where {asked:,} were asked for"
            else:
                text = f"it was served otherwise than asked: {plain(event.data['reason'])}"
            found.append(Because(event.seq, f"{text}."))
            ceiling = self.evidence.ceiling
            if ceiling is not None and ceiling.data["reason"] != "recovered":
                found.append(self._said(ceiling))
        return found

    def meanwhile(self) -> list[Because]:
        """What the machine suffered from, and the incidents that this was part of."""
        found = [self._said(event) for event in self.evidence.suffered]
        for event in self.evidence.incidents:
            found.append(
                Because(
                    event.seq,
                    f'it was in the time of an incident, "{plain(event.data["title"])}": '
                    f"lmx incidents show {plain(event.incident)}",
                )
            )
        return found

    def refused(self, end: Recorded) -> str:
        """The whole of a refusal."""
        data, chain = end.data, self.evidence.chains.get(end.seq, ())
        cause = next(
            (event for event in reversed(chain) if event.type.startswith(("guard.", "breaker.", "config.changed"))),
            None,
        )
        why = f" A{sentence(cause, self._zone)[1:-1]} (event {cause.seq})." if cause is not None else ""
        told = f"It was refused with {data['status']} {plain(data['code'])}: {plain(data['message'])}."
        return f"{told}{why}{self._burned()}"

    def _burned(self) -> str:
        """What had used up the budget, where that is why."""
        spent, all_ms = self.evidence.burned, sum(self.evidence.burned.values())
        if not all_ms:
            return ""
        dearest = sorted(spent, key=lambda part: -spent[part])[:_NAMED]
        told = ", ".join(f"{names.PARTS.get(part, plain(part))} ({spent[part] / all_ms:.0%})" for part in dearest)
        return f" What the requests before that took their time for: {told}."

    def given_up(self, end: Recorded) -> str:
        """Who ended a cancelled request."""
        said = {
            "client_gone": "its client went away",
            "client_stalled": "its client stopped reading",
            "daemon_stopped": "the daemon stopped",
            "server_error": "the server failed on it",
        }
        return said.get(end.data["reason"], plain(end.data["reason"]))

    # --- events ------------------------------------------------------------------------------------------------------

    def _around(self, *kinds: str) -> list[Recorded]:
        return [event for event in self.evidence.around if event.type in kinds]

    def _concerns(self, plan: Recorded) -> bool:
        """Whether a plan has to do with its model: made room for it, or took something of it that it lacked then."""
        taken = {step[1] for step in plan.data.get("steps") or () if step[0] in {"yield", "page_out"}}
        return plan.model == self._model or self._model in taken

    def _said(self, event: Recorded) -> Because:
        return Because(event.seq, sentence(event, self._zone))

    def _causes(self, event: Recorded) -> Iterator[Because]:
        """What made it happen, the nearest cause first; that the request itself came is no reason."""
        wanted = [one for seq, one in self.evidence.wants.items() if seq == event.seq]
        for cause in [*wanted, *reversed(causes_in(self.evidence, event))]:
            if cause.request == self.evidence.request and cause.request is not None:
                continue
            if cause.type in _DULL:
                continue
            yield self._said(cause)


_DULL: Final = frozenset({"paging.out_started", "paging.in_started", "daemon.started", "config.loaded"})
"""Links of chains that say nothing to whoever reads on."""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _named(stay: Stay) -> str:
    return f"request {plain(stay.request)}" + (f" of {plain(stay.client)}" if stay.client else "")


def _of_sessions(held: Sequence[Stay]) -> str:
    """Whether many come at once, or one asks much; and whose program it mostly was."""
    sessions = {stay.session for stay in held}
    if len(held) < _MANY:
        return ""
    client, count = Counter(stay.client for stay in held).most_common(1)[0]
    mostly = f", {count} of them from {plain(client)}" if client and count > len(held) / 2 else ""
    return f" of {_count(len(sessions), 'session')}{mostly}"


def _tokens(number: int) -> str:
    return _count(number, "token")
