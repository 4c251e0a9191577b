"""An event as the ledger has it, without a ledger: what a test does not say has no meaning for it."""

from typing import Any

import msgspec

from lmx_ledger.core.events import CATALOGUE, Recorded

AT_US = 1_700_000_000_123_456


def recorded(kind: str, data: dict[str, Any] | None = None, **fields: Any) -> Recorded:
    """Of that type; `fields` are those of `Recorded`. What the catalogue does not have needs a `severity`."""
    event = Recorded(
        seq=1,
        id="evt_0",
        time_us=AT_US,
        boot="boot",
        type=kind,
        v=1,
        severity=fields["severity"] if "severity" in fields else CATALOGUE[kind].severity,
        stream="s",
        request=None,
        session=None,
        model=None,
        incident=None,
        cause=None,
        data={} if data is None else data,
    )
    return msgspec.structs.replace(event, **fields)
