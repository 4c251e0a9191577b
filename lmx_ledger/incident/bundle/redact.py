"""An event as it may leave the machine: what is in no list is left out, what tells things apart is renamed; pure.

A name is an HMAC under the ledger's key: the owner makes the same one again, and nobody else can find out what it
stands for by trying. The same goes for an event's id, which is made of its hash in the ledger: that hash, or any other
one of the chain, would let everybody try what a session, a path or a process number was. So none is in a bundle but the
newest one's: who wants to hold a guess against that has to guess everything that was redacted before it at once.
"""

import hmac
import re
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from lmx_ledger.core.clock import parse_rfc3339
from lmx_ledger.core.config import Config
from lmx_ledger.core.events import CATALOGUE, Recorded
from lmx_ledger.core.ids import request_id_of
from lmx_ledger.core.sensed import Pressure, ThermalLevel
from lmx_ledger.guard.memory import Reason
from lmx_ledger.incident.announce import REHEARSED
from lmx_ledger.incident.bundle.fields import CONFIG_TEXT, FIELDS, PHRASES, RENAMED, Rule
from lmx_ledger.incident.symptom import begun
from lmx_ledger.ledger.event_id import event_id
from lmx_ledger.memory.plan import Act

LEFT_OUT: Final = "[redacted]"
_DIGITS: Final = 12
_PROCESSES: Final = 1_000_000_000
"""No system gives a process such a number, so a renamed one is never taken for one of this machine."""

_WORD: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.+:-]{0,63}|signal \d{1,3}|Device\([a-z]{1,8}, \d{1,3}\)"
    r"|\d{1,9}[A-Za-z]{1,3}, ?\d{1,9}[A-Za-z]{1,3}",
    re.ASCII,
)
_KEY: Final = re.compile(r"[a-z_]{1,40}(\.[a-z_]{1,40}){0,3}", re.ASCII)
_TYPE: Final = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,60}", re.ASCII)
_ACT: Final = re.compile(
    r"importing mlx_lm|ready|shutdown|page in a layer|insert \d+: \d+ tokens, at most \d+ more|cancel \d+ streams"
    r"|parse a tool call of \d+ characters|step \d+: \d+ rows of up to \d+ tokens|join \d+ rows and \d+"
    r"|read \d+ tokens of \d+, \d+ of \d+ are read|go on with \d+ behind \d+ tokens that were kept"
    r"|page out (\d+|all) bytes|loaded [A-Za-z0-9_]{1,40}, \d+ bytes",
    re.ASCII,
)
_ACT_BEGINS: Final = re.compile(r"(load )\S|(failed with \d+ rows: )", re.ASCII)
_PAST: Final = re.compile(r"(\d{1,19}) ([a-z_.]{1,80}) (.*)", re.ASCII | re.DOTALL)
_ROUTES: Final = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/models"),
        *("/v1/messages", "/v1/messages/count_tokens"),
    }
)
_CHOICES: Final = frozenset({*Pressure, *ThermalLevel, *Reason, *Act})
"""Words that stand among figures."""
_SAFE_MODE: Final = "safe mode"
"""That a prompt was refused because of it is in the message alone."""


class Redactor:
    """Redacts the events of one bundle. `counts`: how many values went by each rule that changed them."""

    def __init__(self, key: bytes, incident: str, titles: Mapping[str, str] = MappingProxyType({})) -> None:
        """`titles` are those of incidents, and what they are made of when their symptoms are redacted."""
        self._key = key
        self._scope = f"lmx bundle\0{incident}\0"
        self._titles = titles
        self._names: dict[tuple[str, str], str] = {}
        self.counts: Counter[str] = Counter()
        self._rules: dict[Rule, Callable[[Any], Any]] = {
            Rule.WORD: lambda value: self._if(_WORD, value),
            Rule.KEYS: lambda value: self._if(_KEY, value),
            Rule.TIME: self._time,
            Rule.MODEL: self._text,
            Rule.REQUEST: self._request,
            Rule.ROUTE: lambda value: self._one_of(_ROUTES, value),
            Rule.ACTS: self._act,
            Rule.PAST: self._past,
            Rule.TITLE: self._title,
            Rule.TEXT: lambda value: self._one_of(PHRASES, value),
            **{rule: self._renamer(rule) for rule in RENAMED},
        }

    def event(self, event: Recorded) -> Recorded:
        """As it may be shown."""
        rules = FIELDS.get(event.type, {})
        data = {
            self._key_of(name): self._by(rules.get(name), value, name, event.data) for name, value in event.data.items()
        }
        digest = self._digest("event", f"{event.seq} {event.id}")
        return msgspec.structs.replace(
            event,
            id=event_id(event.time_us, digest),
            boot=self._word_or_name("boot", event.boot),
            type=event.type if _TYPE.fullmatch(event.type) else self.name("type", event.type),
            stream=self._stream(event.stream),
            request=None if event.request is None else self._request(event.request),
            session=None if event.session is None else self._renamed(Rule.SESSION, event.session),
            incident=None if event.incident is None else self._word_or_name("incident", event.incident),
            data=data,
        )

    def name(self, kind: str, text: str) -> str:
        """What stands for a text of that kind: `session-3f9a5c0b7d12`."""
        known = self._names.get((kind, text))
        if known is None:
            known = self._names[kind, text] = f"{kind}-{self._digest(kind, text).hex()[:_DIGITS]}"
        return known

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._key, f"{self._scope}{kind}\0{text}".encode(), sha256)

    # --- one value ---------------------------------------------------------------------------------------------------

    def _by(self, rule: Rule | None, value: Any, name: str, data: Mapping[str, Any]) -> Any:
        if rule is None:
            return self._figures(value, name, words=False)
        if value is None or value == "":
            return value
        match rule:
            case Rule.FIGURES:
                return self._figures(value, name, words=True)
            case Rule.STEPS:
                return [self._step(step) for step in value]
            case Rule.CONFIG:
                return self._config(value, "")
            case Rule.ARGUMENTS:
                return {self._key_of(key): self._argument(key, inner) for key, inner in value.items()}
            case Rule.MESSAGE:
                safe = data.get("code") == "context_length_exceeded" and _SAFE_MODE in str(value)
                return f"{self._left_out()} ({_SAFE_MODE})" if safe else self._left_out()
        if isinstance(value, list):
            return [self._rules[rule](one) for one in value]
        return self._rules[rule](value)

    def _left_out(self) -> str:
        self.counts["text"] += 1
        return LEFT_OUT

    def _text(self, value: Any) -> Any:
        return value if isinstance(value, str) else self._left_out()

    def _if(self, form: re.Pattern[str], value: Any) -> Any:
        if isinstance(value, bool | int | float):
            return value
        return value if isinstance(value, str) and form.fullmatch(value) else self._left_out()

    def _one_of(self, known: frozenset[str], value: Any) -> str:
        return value if isinstance(value, str) and value in known else self._left_out()

    def _time(self, value: Any) -> str:
        try:
            parse_rfc3339(value)
        except (ValueError, TypeError):
            return self._left_out()
        return str(value)

    def _renamer(self, rule: Rule) -> Callable[[Any], Any]:
        return lambda value: self._renamed(rule, value)

    def _renamed(self, rule: Rule, value: Any) -> Any:
        self.counts[rule.value] += 1
        if isinstance(value, int):
            return _PROCESSES + int.from_bytes(self._digest(rule.value, str(value))[:8], "big") % _PROCESSES
        return self.name(rule.value, str(value))

    def _word_or_name(self, kind: str, value: str) -> str:
        return value if _WORD.fullmatch(value) else self.name(kind, value)

    def _key_of(self, name: str) -> str:
        return name if _WORD.fullmatch(name) else self.name("key", name)

    def _request(self, value: Any) -> str:
        text = str(value)
        return text if request_id_of(text) == text else self.name("request", text)

    def _stream(self, stream: str) -> str:
        kind, colon, rest = stream.partition(":")
        if not colon:
            return self._word_or_name("stream", stream)
        match kind:
            case "request":
                return f"{kind}:{self._request(rest)}"
            case "session":
                return f"{kind}:{self.name(kind, rest)}"
            case "model":
                return stream
            case "incident" | "slo":
                return f"{kind}:{self._word_or_name(kind, rest)}"
        return self.name("stream", stream)

    def _act(self, value: Any) -> str:
        text = str(value)
        if _ACT.fullmatch(text):
            return text
        begins = _ACT_BEGINS.match(text)
        return f"{(begins[1] or begins[2]) if begins else ''}{self._left_out()}"

    def _past(self, value: Any) -> str:
        found = _PAST.fullmatch(str(value))
        if found is None or found[2] not in CATALOGUE:
            return self._left_out()
        return f"{found[1]} {found[2]} {self._stream(found[3])}"

    def _title(self, value: Any) -> str:
        return self._titles.get(str(value)) or self._left_out()

    # --- values in values --------------------------------------------------------------------------------------------

    def _figures(self, value: Any, name: str, *, words: bool) -> Any:
        """Numbers stay, and with `words` model ids and the choices of this program."""
        if isinstance(value, dict):
            return {self._key_of(key): self._figures(inner, key, words=words) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._figures(inner, name, words=words) for inner in value]
        if isinstance(value, str):
            return value if words and (name == "model" or value in _CHOICES) else self._left_out()
        if name == "pid" and isinstance(value, int):
            return self._renamed(Rule.PROCESS, value)
        return value

    def _step(self, step: Any) -> Any:
        """`[act, model, bytes, layers]`."""
        if not isinstance(step, list):
            return self._left_out()
        return [self._figures(inner, "model" if at == 1 else "", words=True) for at, inner in enumerate(step)]

    def _argument(self, key: str, value: Any) -> Any:
        if isinstance(value, str):
            match key:
                case "model":
                    return value
                case "session":
                    return self._renamed(Rule.SESSION, value)
                case "incident":
                    return self._word_or_name(key, value)
        return None if value is None else self._left_out()

    def _config(self, value: Any, at: str) -> Any:
        if isinstance(value, dict):
            named = {self._key_of(key): self._config(inner, f"{at}.{key}".lstrip(".")) for key, inner in value.items()}
            return {key: inner for key, inner in named.items() if inner != LEFT_OUT}
        if isinstance(value, list):
            return [one for inner in value if (one := self._config(inner, at)) != LEFT_OUT]
        if not isinstance(value, str) or value in CHOICES.get(at, ()):
            return value
        rule = CONFIG_TEXT.get(at)
        return self._left_out() if rule is None else self._rules[rule](value)


def titles_of(events: Iterable[Recorded], redactor: Redactor) -> dict[str, str]:
    """The titles that these events give to incidents, and those that they give when they are redacted."""
    found: dict[str, str] = {}
    for event in events:
        if (symptom := begun(event, 0, 0)) is None or (shown := begun(redactor.event(event), 0, 0)) is None:
            continue
        found[symptom.title] = shown.title
        found[REHEARSED + symptom.title] = REHEARSED + shown.title
    return found


def _choices(section: type[BaseModel], at: str) -> dict[str, frozenset[str]]:
    """The words that each key of the configuration can have, where it can have only some."""
    found: dict[str, frozenset[str]] = {}
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= _choices(inner, f"{at}{name}.")
        elif words := _literals(inner):
            found[f"{at}{name}"] = words
    return found


def _literals(annotation: Any) -> frozenset[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return frozenset(word for word in typing.get_args(annotation) if isinstance(word, str))
    return frozenset().union(*(_literals(one) for one in typing.get_args(annotation)))


CHOICES: Final = _choices(Config, "")
"""By key."""
