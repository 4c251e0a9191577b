"""What the ledger is told of a model's KV: what was found, kept, and let go of."""

from functools import partial
from typing import Final

from lmx_ledger.core import events as ev
from lmx_ledger.core.config import Config
from lmx_ledger.engine import protocol as wire
from lmx_ledger.ledger.writer import Ledger
from lmx_ledger.serving.models import ServedModel
from lmx_ledger.serving.service import Serving
from lmx_ledger.session.files import kv_folder
from lmx_ledger.session.table import Kept, KeptTurn

_EVICTIONS: Final = 4_096


class KeptRecords:
    """One model's, whichever worker it has."""

    def __init__(self, model: ServedModel, serving: Serving, ledger: Ledger, config: Config) -> None:
        self._model, self._serving, self._ledger, self._config = model, serving, ledger, config

    def settings(self, fingerprint: str, ram: int) -> wire.Kv | None:
        """Where KV is to be kept, in so many bytes of RAM; None: none is."""
        kv = self._config.kv
        if kv.ram == 0:
            return None
        folder = str(kv_folder(self._config.home, fingerprint))
        return wire.Kv(folder=folder, fingerprint=fingerprint, block=kv.block_tokens, ram=ram, disk=kv.disk)

    def opened(self, opened: wire.KvOpened | None) -> None:
        """A worker has loaded the model, and found this of its KV."""
        self._model.kv, self._model.kv_block, self._model.evictions = opened, self._config.kv.block_tokens, {}
        if opened is None:
            return
        if opened.dropped_bytes:
            self._emit(ev.KvEvicted(pieces=0, bytes=opened.dropped_bytes, reason="form"), self._model.loaded_seq)
        if opened.broken_bytes or opened.foreign or opened.error is not None:
            why = opened.error or ("no records (any more)" if opened.broken_bytes else "of something else")
            corrupt = ev.KvCorrupt(bytes=opened.broken_bytes, files=opened.foreign[:20], reason=why)
            self._emit(corrupt, self._model.loaded_seq)

    def saved(self, saved: wire.Saved) -> None:
        """The worker has written what it keeps: whose that is, and what had to go for it."""
        table = self._serving.sessions
        cause = table.cause(saved.label)
        for kept in saved.kept:
            table.kept(kept.label, Kept(kept.tokens, kept.end, kept.on_disk), partial(self._tell, kept, saved.ms))
        if saved.gone:
            evicted = ev.KvEvicted(pieces=saved.gone, bytes=saved.gone_bytes, reason="room")
            self._model.evictions[saved.turn] = self._emit(evicted, cause)
            while len(self._model.evictions) > _EVICTIONS:
                del self._model.evictions[next(iter(self._model.evictions))]
        if saved.error is not None:
            self._emit(ev.KvEvicted(pieces=0, bytes=0, reason="unwritable", error=saved.error[:500]), cause)

    def _tell(self, kept: wire.Kept, ms: float, turn: KeptTurn) -> None:
        head = turn.head
        data = ev.KvSaved(
            tokens=kept.tokens,
            bytes=kept.bytes,
            on_disk=kept.on_disk,
            ms=round(ms, 3),
            end=kept.end.hex(),
            prompt=head.prompt,
            prompt_end=head.prompt_end.hex(),
            form=head.place.form,
            fingerprint=head.place.fingerprint,
            template=head.place.template,
            names=turn.names,
        )
        self._ledger.emit(
            ev.Event(
                data=data,
                stream=f"session:{turn.session}",
                request=turn.request,
                session=turn.session,
                model=turn.model,
                cause=turn.cause,
            )
        )

    def _emit(self, data: ev.EventData, cause: ev.Cause) -> ev.Ticket:
        return self._ledger.emit(
            ev.Event(data=data, stream=f"model:{self._model.id}", model=self._model.id, cause=cause)
        )
