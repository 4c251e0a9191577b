"""The ten questions that everybody asks of an incident, each answered in plain sentences; pure."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from lmx_ledger.core.events import Recorded
from lmx_ledger.report.impact import Hit, harmed
from lmx_ledger.report.model import Act, Action, Answer, Budget, Header, Hypothesis
from lmx_ledger.report.text import clock, counted, figure, lasted, listed, moment

QUESTIONS: Final = {
    "what": "What happened?",
    "when": "When did it start?",
    "noticed": "How was it noticed?",
    "who": "Who was affected?",
    "long": "How long did it last?",
    "cost": "What did it cost?",
    "done": "What was done?",
    "helped": "Did it help?",
    "cause": "What is the likely cause?",
    "change": "What should change?",
}
_OUTSIDE: Final = {"operator.commanded"}


class Known(NamedTuple):
    """What the answers are made of."""

    header: Header
    hit: Hit
    budgets: Sequence[Budget]
    acts: Sequence[Act]
    actions: Sequence[Action]
    hypotheses: Sequence[Hypothesis]
    opened: Sequence[Recorded]
    inside: Sequence[Recorded]


def answers_to(known: Known) -> list[Answer]:
    """One for each question, in the order of the questions."""
    texts = {
        "what": _what(known),
        "when": _when(known.header),
        "noticed": _noticed(known),
        "who": _who(known),
        "long": _long(known.header),
        "cost": _cost(known),
        "done": _done(known),
        "helped": _helped(known.acts),
        "cause": _cause(known.hypotheses),
        "change": _change(known.actions),
    }
    return [Answer(key=key, question=question, text=texts[key]) for key, question in QUESTIONS.items()]


def summary_of(known: Known) -> str:
    """What happened, when, who was affected, what was done, and whether it is over, as one paragraph."""
    header = known.header
    return " ".join([_what(known), _when(header), _who(known), _done(known), _over(header)])


def _what(known: Known) -> str:
    header, total = known.header, known.hit.total
    drill = "This was a drill. " if header.drill else ""
    parts = [
        (sum(total.refused.values()), "refused"),
        (sum(total.failed.values()), "failed"),
        (total.slow, "answered late"),
        (total.resumed, "resumed after a pause"),
    ]
    said = listed([f"{count:,} {what}" for count, what in parts if count], 5)
    models = f" It concerned {listed(header.models)}." if header.models else ""
    if not total.requests:
        return f"{drill}{_sentence(header.title)}{models} No request came in that time."
    of = f"Of {counted(total.requests, 'request')} {total.answered:,} were answered"
    return f"{drill}{_sentence(header.title)}{models} {of}; {said or 'none was refused, failed or late'}."


def _sentence(title: str) -> str:
    return title if title.endswith((".", "!", "?")) else f"{title}."


def _when(header: Header) -> str:
    return f"It started on {moment(header.started)}."


def _noticed(known: Known) -> str:
    header = known.header
    by = ", ".join(f"{kind} (event {seq})" for seq, kind in sorted((e.seq, e.type) for e in known.opened)[:3])
    if not by and header.opened_by:
        by = f"event {listed([str(seq) for seq in header.opened_by])}"
    after = "at once" if header.to_detect_s == 0 else f"after {lasted(header.to_detect_s)}"
    if header.to_detect_s is None:
        after = "at a time before its start, by a clock that was set"
    acknowledged = (
        f" Somebody acknowledged it {lasted(header.to_acknowledge_s)} after the start."
        if header.to_acknowledge_s is not None
        else " Nobody acknowledged it."
    )
    return (
        f"It was noticed {after}, at {clock(header.detected)} UTC, by {by or 'no event that is known'}.{acknowledged}"
    )


def _who(known: Known) -> str:
    hit = known.hit
    if not hit.total.requests:
        return "No client was affected: no request came in that time."
    models = [one.name for one in hit.by_model if harmed(one)]
    if not hit.sessions_affected:
        sessions = counted(hit.sessions_in_all, "session")
        return f"No client is known to have been affected: nothing of {sessions} was refused, failed or late."
    return (
        f"{hit.sessions_affected:,} of {counted(hit.sessions_in_all, 'session')} were affected, with requests to"
        f" {listed(models)}; hit hardest: {listed([one.name for one in hit.sessions[:3] if harmed(one)])}."
    )


def _long(header: Header) -> str:
    if header.open:
        state = "mitigated, but not over" if header.mitigated is not None else "not over"
        return f"It was {state} when this was written: so far it lasted {lasted(header.duration_s)}.{_again(header)}"
    mitigated = f" It was mitigated after {lasted(header.to_mitigate_s)}." if header.to_mitigate_s is not None else ""
    return f"It lasted {lasted(header.duration_s)}, until {moment(header.until)}.{mitigated}{_again(header)}"


def _again(header: Header) -> str:
    again = "once" if header.reopened == 1 else f"{header.reopened} times"
    return f" It came back {again} after it seemed over." if header.reopened else ""


def _over(header: Header) -> str:
    if header.open:
        return f"It was not over when this was written.{_again(header)}"
    return f"It was over at {moment(header.until)}, after {lasted(header.duration_s)}.{_again(header)}"


def _cost(known: Known) -> str:
    burned = [b for b in known.budgets if b.burned is not None and b.burned > 0]
    told = [_burned(budget) for budget in burned[:3]]
    fast = [b for b in known.budgets if b.burned is None and b.fastest is not None and b.fastest > 1]
    told += [_burning(budget) for budget in sorted(fast, key=lambda b: -(b.fastest or 0.0))[: 3 - len(told)]]
    budgets = f"Objectives: {'; '.join(told)}." if told else "No objective is known to have used up any of its budget."
    total = known.hit.total
    lost = [(sum(total.refused.values()), "refused"), (sum(total.failed.values()), "failed"), (total.slow, "late")]
    said = listed([f"{count:,} {what}" for count, what in lost if count])
    requests = f" Requests: {said}." if said else ""
    tokens = total.recomputed_tokens
    again = f" {tokens:,} tokens were computed a second time." if tokens else " No token was computed twice."
    return f"{budgets}{requests}{again}"


def _burned(budget: Budget) -> str:
    of = f" of {budget.model}" if budget.model else ""
    left = "and has none left" if budget.exhausted else f"({figure(budget.after, 'share')} are left)"
    return f"{budget.objective}{of} used {figure(budget.burned, 'share')} of its budget {left}"


def _burning(budget: Budget) -> str:
    of = f" of {budget.model}" if budget.model else ""
    return (
        f"the budget of {budget.objective}{of} burned at {figure(budget.fastest, 'x')} the rate at which it just lasts"
    )


def _done(known: Known) -> str:
    kinds = list(dict.fromkeys(act.what for act in known.acts))
    guard = f"The guard acted by {listed([_small(kind) for kind in kinds], 5)}." if kinds else ""
    orders = Counter(str(e.data.get("command")) for e in known.inside if e.type in _OUTSIDE)
    people = listed([f"{name} ({count})" if count > 1 else name for name, count in sorted(orders.items())])
    operators = f"Operators ordered: {people}." if people else "No operator gave an order."
    return f"{guard or 'The guard did nothing.'} {operators}"


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _helped(acts: Sequence[Act]) -> str:
    if not acts:
        return "There was no act that could have helped."
    counts = Counter(act.helped for act in acts)
    said = listed(
        [
            f"{counts[key]} {text}"
            for key, text in (("yes", "with a better figure"), ("no", "without one"), ("unclear", "unclear"))
            if counts[key]
        ]
    )
    told = " ".join(f"{act.what.partition(' (')[0]}: {act.text}." for act in acts[:3])
    return f"{counted(len(acts), 'act')}: {said}. {told}"


def _cause(hypotheses: Sequence[Hypothesis]) -> str:
    if not hypotheses:
        return "No hypothesis was put forward."
    best = hypotheses[0]
    return f"Most likely (a hypothesis, score {best.score:.2f}): {best.title}. {best.sentence}".strip()


def _change(actions: Sequence[Action]) -> str:
    if not actions:
        return "No rule has an action for this; the hypotheses and the timeline are what there is to go by."
    more = f" {counted(len(actions) - 2, 'more action')} below." if len(actions) > 2 else ""
    return " ".join(action.what for action in actions[:2]) + more
