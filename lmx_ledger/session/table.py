"""Conversations that are known just now: their last states, what is in flight, and which one a request goes on with."""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from lmx_ledger.core.events import Ticket
from lmx_ledger.core.ids import new_ulid
from lmx_ledger.engine.kv.chain import child_key, cut
from lmx_ledger.session.book import Entry
from lmx_ledger.session.explain import Known, Place, common_length

SESSIONS: Final = 10_000
"""Conversations that are remembered."""
_HEADS: Final = 8
"""States of one conversation that are remembered: it may branch."""
_IDS_BYTES: Final = 64_000_000
_PENDING: Final = 4_096
_ANCHOR: Final = 64
"""Raw prompts are found again by their beginnings in steps of so many tokens."""
_SAME_TALK: Final = 3
"""So many messages of a conversation must agree for it to be the same one under another system message."""


class Beginning(NamedTuple):
    """What a prompt is made of, for who looks for its conversation: a hash per message and per tool, and its roles.

    Of a raw prompt there are none.
    """

    messages: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    @property
    def chain(self) -> str:
        """Names the messages up to the last one; "" of a raw prompt."""
        return _chain(self.messages)[-1] if self.messages else ""

    @property
    def talk(self) -> str:
        """Names the messages without the system's; "" where they are too few to tell one conversation from another."""
        talk = self._talk()
        return _chain(talk, "talk")[-1] if len(talk) >= _SAME_TALK else ""

    def _talk(self) -> list[str]:
        pairs = zip(self.messages, self.roles, strict=True)
        return [message for message, role in pairs if role not in {"system", "developer"}]

    def names(self) -> list[str]:
        """The names that an earlier turn of it may have had, the nearest one first."""
        if not self.messages:
            return []
        return [*reversed(_chain(self.messages)), *reversed(_chain(self._talk(), "talk")[_SAME_TALK - 1 :])]


def beginning(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> Beginning:
    """Of a chat."""
    return Beginning(
        tuple(_hash(message) for message in messages),
        tuple(str(message.get("role", "")) for message in messages),
        tuple(_hash(tool) for tool in tools),
    )


class Head(msgspec.Struct):
    """A state of a conversation: what a turn has left. `ids` are its tokens, as long as they are at hand.

    `end` names the last piece of its KV, of `kept` tokens, once that is kept; `prompt_end` the last whole piece of the
    prompt's, which had `prompt` tokens up to there.
    """

    tokens: int
    place: Place
    beginning: Beginning
    ids: "array[int] | None" = None
    kept: int = 0
    end: bytes = b""
    on_disk: bool = False
    prompt: int = 0
    prompt_end: bytes = b""


class Session(msgspec.Struct):
    """One conversation with one model (under each name there may be several, one after the other)."""

    id: str
    model: str
    heads: list[Head]
    in_flight: "dict[str, array[int]]"
    names: set[str]


class Kept(NamedTuple):
    """So many tokens, up to the piece named `end`."""

    tokens: int
    end: bytes
    on_disk: bool


class KeptTurn(NamedTuple):
    """Whose KV is kept now."""

    session: str
    request: str
    model: str
    head: Head
    names: list[str]
    cause: Ticket


class Turn:
    """One request of a conversation."""

    def __init__(
        self, table: "SessionTable", session: Session, request: str, prompt: Sequence[int], what: Beginning
    ) -> None:
        self._table = table
        self._session = session
        self._request = request
        self._prompt = array("I", prompt)
        self._what = what
        self._names = [name for name in (what.chain, what.talk) if name] or _anchors(prompt)[:1]
        self.cause: Ticket | None = None
        """The last event before the worker got it."""
        self.beside = max((common_length(self._prompt, ids) for ids in session.in_flight.values()), default=0)
        session.in_flight[request] = self._prompt

    @property
    def session(self) -> str:
        """The conversation's id."""
        return self._session.id

    def nearest(self, place: Place, block: int) -> tuple[Known, Head] | None:
        """The state of the conversation that this prompt has most in common with; None where there is none."""
        best: tuple[Known, Head] | None = None
        rank: tuple[bool, bool, int] = (False, False, -1)
        for head in self._session.heads:
            shared = self._shared(head, place, block)
            if (mine := (_same(head.place, place), shared is not None, shared or 0)) >= rank:
                best, rank = (Known(head.tokens, shared, head.place, head.on_disk), head), mine
        return best

    def known(self, place: Place | None, block: int) -> int:
        """How many tokens of its prompt should have been kept."""
        found = self.nearest(place, block) if place is not None else None
        return (found[0].shared or 0) if found is not None else 0

    def label(self, choice: int) -> str:
        """Under which the worker says what is kept of a choice."""
        return f"{self._request}/{choice}"

    def left(self, choice: int, ids: Sequence[int], place: Place, block: int, cause: Ticket) -> None:
        """A choice of it has left the worker, which has read so much."""
        if ids:
            head = Head(len(ids), place, self._what, array("I", ids))
            if place.form and block:
                head.prompt = len(self._prompt) // block * block
                head.prompt_end = self._end(head.prompt, place, block) or b""
            kept = KeptTurn(self._session.id, self._request, self._session.model, head, self._names, cause)
            self._table.add(self._session, head, self._names, self.label(choice), kept)

    def end(self) -> None:
        """It is not in flight any more; harmless when repeated."""
        self._session.in_flight.pop(self._request, None)
        self._table.turns.pop(self._request, None)

    def _shared(self, head: Head, place: Place, block: int) -> int | None:
        if head.ids is not None:
            return common_length(self._prompt, head.ids)
        if not place.form or head.place.form != place.form:
            return None
        ends = ((head.kept, head.end), (head.prompt, head.prompt_end))
        return next((tokens for tokens, end in ends if end and end == self._end(tokens, place, block)), None)

    def _end(self, tokens: int, place: Place, block: int) -> bytes | None:
        """The name of the last piece of so many tokens of the prompt; None where it has not so many."""
        if not 0 < tokens <= len(self._prompt):
            return None
        return list(cut(bytes.fromhex(place.form), self._prompt[:tokens], block or tokens))[-1].key


class SessionTable:
    """All conversations, the most recent ones; of the longest unused the tokens are let go of first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._by_name: dict[tuple[str, str], Session] = {}
        # Of a choice, its end here and the word that it is kept, whichever comes first.
        self._left: OrderedDict[str, KeptTurn] = OrderedDict()
        self._kept: OrderedDict[str, tuple[Kept, Callable[[KeptTurn], None]]] = OrderedDict()
        self._ids_bytes = 0
        self.turns: dict[str, Turn] = {}
        """Those in flight, by request."""

    def begin(self, request: str, name: str | None, model: str, prompt: Sequence[int], what: Beginning) -> Turn:
        """The turn of a request in the conversation that it names, or else goes on with, or else begins."""
        session = self._sessions.get((name, model)) if name is not None else self._matching(model, prompt, what)
        if session is None:
            session = Session(name or f"ses_{new_ulid()}", model, self._from_another(name, model), {}, set())
            self._sessions[session.id, model] = session
        self._sessions.move_to_end((session.id, model))
        turn = self.turns[request] = Turn(self, session, request, prompt, what)
        self._bound()
        return turn

    def knows(self, name: str | None, model: str, prompt: Sequence[int], what: Beginning) -> bool:
        """Whether a request goes on with a conversation of which KV is kept, or that has one in flight."""
        session = self._sessions.get((name, model)) if name is not None else self._matching(model, prompt, what)
        return session is not None and (bool(session.in_flight) or any(head.kept for head in session.heads))

    def add(self, session: Session, head: Head, names: Sequence[str], label: str, kept: KeptTurn) -> None:
        """A new state of a conversation; of one that it goes on from, only the longer one is remembered."""
        assert head.ids is not None  # noqa: S101 - it comes from a turn
        for old in list(session.heads):
            longer = old.ids is not None and len(old.ids) <= len(head.ids)
            if longer and common_length(old.ids or (), head.ids) == old.tokens and old.place == head.place:
                self._forget(session, old)
        session.heads.append(head)
        self._ids_bytes += head.ids.itemsize * len(head.ids)
        for old in session.heads[:-_HEADS]:
            self._forget(session, old)
        for name in names:
            self._by_name[session.model, name] = session
            session.names.add(name)
        self._left[label] = kept
        self._meet(label)
        self._bound()

    def kept(self, label: str, told: Kept, tell: Callable[[KeptTurn], None]) -> None:
        """The worker has kept a choice of a turn: `tell` whose that is, now or as soon as the turn has ended here."""
        self._kept[label] = told, tell
        self._meet(label)

    def cause(self, label: str) -> Ticket | None:
        """The last known event of the request to which that choice belongs."""
        if (left := self._left.get(label)) is not None:
            return left.cause
        turn = self.turns.get(label.partition("/")[0])
        return turn.cause if turn is not None else None

    def _meet(self, label: str) -> None:
        if label in self._left and label in self._kept:
            turn, (told, tell) = self._left.pop(label), self._kept.pop(label)
            turn.head.kept, turn.head.end, turn.head.on_disk = told
            tell(turn)
        for waiting in (self._left, self._kept):
            while len(waiting) > _PENDING:
                waiting.popitem(last=False)

    def restore(self, sessions: Iterable[Session]) -> None:
        """What an earlier run knew, the oldest first; what is known already stays."""
        for session in sessions:
            if (session.id, session.model) not in self._sessions:
                self._sessions[session.id, session.model] = session
                self._sessions.move_to_end((session.id, session.model), last=False)
                for name in session.names:
                    self._by_name.setdefault((session.model, name), session)
        self._bound()

    def busy(self, id: str) -> bool:  # noqa: A002
        """Whether the conversation has a request in flight."""
        return any(session.in_flight for (name, _), session in self._sessions.items() if name == id)

    def heads(self, id: str) -> list[tuple[str, Head]]:  # noqa: A002
        """The states of a conversation, each with its model."""
        named = [session for (name, _), session in self._sessions.items() if name == id]
        return [(session.model, head) for session in named for head in session.heads]

    def forget(self, id: str) -> None:  # noqa: A002
        """There is no such conversation any more."""
        for key in [key for key in self._sessions if key[0] == id]:
            self._drop(self._sessions.pop(key))

    def _matching(self, model: str, prompt: Sequence[int], what: Beginning) -> Session | None:
        names = what.names() if what.messages else _anchors(prompt)
        found = (self._by_name.get((model, name)) for name in names)
        return next((session for session in found if session is not None), None)

    def _from_another(self, name: str | None, model: str) -> list[Head]:
        """States of the conversation of that name with other models: why nothing of it can be used."""
        if name is None:
            return []
        others = [other for (known, of), other in self._sessions.items() if known == name and of != model]
        # Of their tokens nothing can be used.
        return [Head(head.tokens, head.place, head.beginning) for other in others for head in other.heads[-1:]]

    def _forget(self, session: Session, head: Head) -> None:
        session.heads.remove(head)
        if head.ids is not None:
            self._ids_bytes -= head.ids.itemsize * len(head.ids)

    def _drop(self, session: Session) -> None:
        for head in list(session.heads):
            self._forget(session, head)
        for name in session.names:
            if self._by_name.get((session.model, name)) is session:
                del self._by_name[session.model, name]

    def _bound(self) -> None:
        if len(self._sessions) > SESSIONS:
            idle = [key for key, session in self._sessions.items() if not session.in_flight]
            for key in idle[: len(self._sessions) - SESSIONS]:
                self._drop(self._sessions.pop(key))
        if self._ids_bytes <= _IDS_BYTES:
            return
        for session in self._sessions.values():
            for head in session.heads:
                if head.ids is not None and self._ids_bytes > _IDS_BYTES * 3 // 4:
                    self._ids_bytes -= head.ids.itemsize * len(head.ids)
                    head.ids = None


def remembered(entries: Iterable[Entry]) -> Iterator[Session]:
    """What the ledger's book knows of conversations, as far as it is of use for their next turns."""
    for entry in entries:
        heads = [
            Head(
                tokens=end.tokens,
                place=Place(end.fingerprint, end.form, entry.template, 0),
                beginning=Beginning(),
                kept=end.tokens,
                end=bytes.fromhex(end.end),
                on_disk=end.on_disk,
                prompt=end.prompt,
                prompt_end=bytes.fromhex(end.prompt_end),
            )
            for end in entry.ends[-_HEADS:]
        ]
        if heads:
            yield Session(entry.session, entry.model, heads, {}, set(entry.names))


def _same(one: Place, other: Place) -> bool:
    return one.fingerprint == other.fingerprint and one.form == other.form


def _hash(value: object) -> str:
    return blake2b(msgspec.json.encode(value, order="sorted"), digest_size=8).hexdigest()


def _chain(hashes: Sequence[str], name: str = "") -> list[str]:
    chain = []
    for one in hashes:
        name = blake2b(f"{name} {one}".encode(), digest_size=8).hexdigest()
        chain.append(name)
    return chain


def _anchors(prompt: Sequence[int]) -> list[str]:
    """Names of a raw prompt's beginnings, the longest one first."""
    key, names = b"", []
    for start in range(0, len(prompt) - _ANCHOR + 1, _ANCHOR):
        key = child_key(key, prompt[start : start + _ANCHOR])
        names.append(f"raw{key.hex()}")
    names.reverse()
    return names
