"""All conversations, as the ledger tells them: turns, what was computed and what was not, why, and what is kept."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.ledger.follow import Asked
from lmx_ledger.ledger.projection import open_to_read, table_of

_ENDS: Final = 256
_NAMES: Final = 64
_PAGE: Final = 1_000
ERASED: Final = "erased"


class Cost(msgspec.Struct, array_like=True):
    """How often, tokens that had been computed before, and what that cost in milliseconds, as far as was estimated."""

    times: int = 0
    tokens: int = 0
    ms: float = 0.0

    def plus(self, tokens: int, ms: float | None) -> "Cost":
        """And once more."""
        return Cost(self.times + 1, self.tokens + tokens, self.ms + (ms or 0.0))

    def and_all(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(self.times + other.times, self.tokens + other.tokens, self.ms + other.ms)


class End(msgspec.Struct, frozen=True):
    """A state of the conversation that is kept: the name of its last piece, the form it is cut in, how many tokens."""

    end: str
    form: str
    fingerprint: str
    tokens: int
    on_disk: bool
    prompt: int = 0
    prompt_end: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One conversation with one model. `template` is the last turn's; `names` are what its next one is known by."""

    session: str
    model: str
    first_us: int
    last_us: int
    turns: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    hits: int = 0
    misses: dict[str, Cost] = {}
    breakers: dict[str, int] = {}
    ends: list[End] = []
    template: str = ""
    names: list[str] = []

    @property
    def tokens(self) -> int:
        """Of its last state that is kept."""
        return self.ends[-1].tokens if self.ends else 0


Key = tuple[str, str]
TYPES: Final = ("kv.hit", "kv.missed", "kv.saved", "kv.evicted", "request.finished")


def evolve(entry: Entry | None, event: Recorded) -> Entry | None:
    """A conversation after one more of its events; None once it is erased."""
    assert event.session is not None  # noqa: S101 - asked for before
    data = event.data
    if event.type == "kv.evicted":
        return None if data["reason"] == ERASED else entry
    now = entry or Entry(event.session, event.model or "", event.time_us, event.time_us)
    now = msgspec.structs.replace(now, last_us=max(now.last_us, event.time_us))
    match event.type:
        case "kv.hit":
            return msgspec.structs.replace(now, hits=now.hits + 1)
        case "kv.missed":
            cost = now.misses.get(data["reason"], Cost()).plus(data["lost_tokens"], data["cost_ms"])
            breakers = now.breakers
            if broken := data["breaker"]:
                breakers = {**breakers, broken: breakers.get(broken, 0) + 1}
            return msgspec.structs.replace(now, misses={**now.misses, data["reason"]: cost}, breakers=breakers)
        case "kv.saved":
            end = msgspec.convert({name: data[name] for name in End.__struct_fields__}, End)
            others = [old for old in now.ends if old.end != end.end]
            names = [name for name in now.names if name not in data["names"]]
            return msgspec.structs.replace(
                now,
                ends=[*others, end][-_ENDS:],
                names=[*names, *data["names"]][-_NAMES:],
                template=data["template"],
            )
        case "request.finished":
            return msgspec.structs.replace(
                now,
                turns=now.turns + 1,
                prompt_tokens=now.prompt_tokens + data["prompt_tokens"],
                cached_tokens=now.cached_tokens + data["cached_tokens"],
                completion_tokens=now.completion_tokens + data["completion_tokens"],
            )
    return now


class SessionBook:
    """See `ledger.projection.Projection`."""

    name: Final = "session"
    version: Final = 1
    types: Final = TYPES

    def create(self, connection: sqlite3.Connection) -> None:
        """One row per conversation and model; `entry` is msgpack."""
        connection.execute(
            f"CREATE TABLE {table_of(self)} (session TEXT NOT NULL, model TEXT NOT NULL, last_us INTEGER NOT NULL,"
            " entry BLOB NOT NULL, PRIMARY KEY (session, model)) STRICT, WITHOUT ROWID"
        )
        connection.execute(f"CREATE INDEX {table_of(self)}_last ON {table_of(self)} (last_us)")

    def fold(self, connection: sqlite3.Connection, events: Sequence[Recorded], seq: int) -> None:  # noqa: ARG002
        """Each event into its conversation."""
        table = table_of(self)
        changed: dict[Key, Entry | None] = {}
        for key, event in _keyed(events):
            before = changed[key] if key in changed else _stored(connection, key)
            changed[key] = evolve(before, event)
        connection.executemany(
            f"DELETE FROM {table} WHERE session = ? AND model = ?",  # noqa: S608 - our own table's name
            [key for key, entry in changed.items() if entry is None],
        )
        connection.executemany(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)",  # noqa: S608 - as above
            [(*key, e.last_us, msgspec.msgpack.encode(e)) for key, e in changed.items() if e is not None],
        )


def entries(file: Path, ledger: Asked, *, session: str | None = None, limit: int | None = None) -> list[Entry]:
    """The conversations (or those of one name), the last used first: what was folded, and what came since.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    try:
        reached, found = _folded(file, session, limit)
    except (sqlite3.Error, msgspec.DecodeError):
        # Nothing is folded yet, or it cannot be read: then all of it is folded here.
        reached, found = 0, {}
    while True:
        page = ledger.events(EventFilter(types=TYPES, session=session, after=reached, limit=_PAGE))
        for key, event in _keyed(page):
            entry = evolve(found.get(key), event)
            if entry is None:
                found.pop(key, None)
            else:
                found[key] = entry
        if len(page) < _PAGE:
            break
        reached = page[-1].seq
    return sorted(found.values(), key=lambda entry: entry.last_us, reverse=True)[:limit]


def totals(all_entries: Iterable[Entry]) -> dict[str, Any]:
    """What misses cost, by reason, and what broke prefixes, over all of these."""
    misses: dict[str, Cost] = {}
    breakers: dict[str, int] = {}
    hits = prompt = cached = 0
    for entry in all_entries:
        hits, prompt, cached = hits + entry.hits, prompt + entry.prompt_tokens, cached + entry.cached_tokens
        for reason, cost in entry.misses.items():
            misses[reason] = misses.get(reason, Cost()).and_all(cost)
        for name, times in entry.breakers.items():
            breakers[name] = breakers.get(name, 0) + times
    return {"hits": hits, "prompt_tokens": prompt, "cached_tokens": cached, "misses": misses, "breakers": breakers}


def _keyed(events: Iterable[Recorded]) -> Iterator[tuple[Key, Recorded]]:
    for event in events:
        if event.session is not None:
            yield (event.session, event.model or ""), event


def _stored(connection: sqlite3.Connection, key: Key) -> Entry | None:
    row = connection.execute(
        f"SELECT entry FROM {table_of(SessionBook())} WHERE session = ? AND model = ?",  # noqa: S608 - our own table's name
        key,
    ).fetchone()
    return msgspec.msgpack.decode(row[0], type=Entry) if row else None


def _folded(file: Path, session: str | None, limit: int | None) -> tuple[int, dict[Key, Entry]]:
    book = SessionBook()
    with closing(open_to_read(file)) as connection:
        connection.execute("BEGIN")
        row = connection.execute(
            "SELECT reached_seq FROM projection WHERE name = ? AND version = ?", (book.name, book.version)
        ).fetchone()
        rows = connection.execute(
            f"SELECT entry FROM {table_of(book)} WHERE ? IS NULL OR session = ? ORDER BY last_us DESC LIMIT ?",  # noqa: S608
            (session, session, -1 if limit is None else limit),
        ).fetchall()
    found = [msgspec.msgpack.decode(one, type=Entry) for (one,) in rows]
    return (row[0] if row else 0), {(entry.session, entry.model): entry for entry in found}
