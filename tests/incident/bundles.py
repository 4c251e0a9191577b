"""Ledgers of recorded faults, and bundles of them."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.bundle.redact import Redactor
from lmx_ledger.incident.bundle.write import bundle
from lmx_ledger.incident.fold import IncidentsFold
from lmx_ledger.incident.state import Incident
from lmx_ledger.ledger import heads
from lmx_ledger.ledger.fold import state_at
from lmx_ledger.ledger.history import History
from lmx_ledger.ledger.query import Reader
from tests.incident.parts import Replayed, load, scenario


class Home(NamedTuple):
    """A ledger with an incident, and its bundle."""

    ledger: Path
    reader: Reader
    incident: Incident
    file: Path

    @property
    def key(self) -> bytes:
        return heads.key_of(self.ledger)

    def made(self) -> bytes:
        return bundle(self.ledger, self.reader, self.incident.id, self.key)


def home_of(folder: Path, events: list[Recorded]) -> Home:
    """Of these events, of which the newest incident is the one that is meant."""
    ledger = folder / "ledger.db"
    load(ledger, events)
    reader = Reader.open(ledger)
    incident = incidents_of(ledger, reader)[0]
    home = Home(ledger, reader, incident, folder / "incident.bundle.gz")
    home.file.write_bytes(home.made())
    return home


def home_of_scenario(folder: Path, name: str) -> Home:
    """Of a recording, as a daemon that has this program leaves it."""
    events, _ = scenario(name)
    return home_of(folder, [*events, *Replayed().follow(events).tick(70).written])


def incidents_of(ledger: Path, reader: Reader) -> list[Incident]:
    """The newest first."""
    return state_at(IncidentsFold(), History(ledger, reader), ledger.with_name("none.db"), reader.head()).all()


def renamed(home: Home, text: str, events: list[Recorded]) -> str:
    """A text about these events as it is when their names are those of the bundle."""
    redactor, names = Redactor(home.key, home.incident.id), dict[str, str]()
    for event in events:
        _pairs(event.public(), redactor.event(event).public(), names)
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def _pairs(one: Any, other: Any, found: dict[str, str]) -> None:
    """What stands for what, in two documents of one form."""
    if isinstance(one, dict):
        for key, inner in one.items():
            if key == "pid":
                found[f"pid {inner}"] = f"pid {other[key]}"
            elif key in other:
                _pairs(inner, other[key], found)
    elif isinstance(one, list):
        for inner, its in zip(one, other, strict=True):
            _pairs(inner, its, found)
    elif isinstance(one, str) and one != other and other != "[redacted]" and not one.startswith("evt_"):
        found[one] = other


def strings_in(value: Any) -> list[str]:
    """Every text in it, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in strings_in(one)]
    if isinstance(value, list):
        return [text for inner in value for text in strings_in(inner)]
    return []


def differences(one: Any, other: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Where two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            d for key in one.keys() | other.keys() for d in differences(one.get(key), other.get(key), f"{at}.{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [d for n, (a, b) in enumerate(zip(one, other, strict=True)) for d in differences(a, b, f"{at}[{n}]")]
    return [] if one == other else [(at, one, other)]


def data_of(event: Recorded, **more: Any) -> Recorded:
    """The event with some of its data otherwise."""
    return msgspec.structs.replace(event, data={**event.data, **more})
