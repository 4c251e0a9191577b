"""The step loop: take commands, let every group that is due take a step, read a piece of a prompt, and again.

Everything MLX is on this thread. An exception from mlx-lm costs the streams that were in that step a second reading,
and only a stream that fails alone, twice without a token in between, is failed.
"""

import importlib.metadata
import json
import os
import queue
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import msgspec

from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.recorder import FlightRecorder
from lmx_ledger.engine.worker import schedule
from lmx_ledger.engine.worker.estimate import Pass
from lmx_ledger.engine.worker.forms import form_for
from lmx_ledger.engine.worker.keeping import Fetched, Fetching, Keeping, Written
from lmx_ledger.engine.worker.meter import NOTHING, Meter, wire_memory
from lmx_ledger.engine.worker.model import ResidentModel, read_model
from lmx_ledger.engine.worker.pace import Pace
from lmx_ledger.engine.worker.paging import Returning, page_out
from lmx_ledger.engine.worker.process import give_back, is_allocation
from lmx_ledger.engine.worker.rows import Group, Row, Told
from lmx_ledger.engine.worker.sender import Sender

_LARGE: Final = 4_096
"""Tokens of a row whose memory is given back to the system as soon as it leaves."""
_TIDY_EVERY: Final = 512
_TRIES_ALONE: Final = 2


class StepLoop:
    """One worker's life. `inbox` is filled by the thread that reads the socket; `sender` writes to it."""

    def __init__(
        self, sock: socket.socket, inbox: "queue.SimpleQueue[wire.Command]", recorder: FlightRecorder, blas: str
    ) -> None:
        self._sender = Sender(sock)
        self._inbox: queue.SimpleQueue[wire.Command | Fetched | Fetching | Written] = inbox  # type: ignore[assignment]
        self._recorder = recorder
        self._blas = blas
        self._model: ResidentModel | None = None
        self._keeping: Keeping | None = None
        self._meter: Meter | None = None
        self._most_read = 0
        self._gap = 1.0
        self._rows: dict[int, Row] = {}
        self._reading: dict[int, Row] = {}
        self._groups: list[Group] = []
        self._turns = schedule.Turns()
        self._speed = schedule.Speed()
        self._queued = schedule.Queued()
        # MLX's CPU back end takes nearly as long to be given a step as to compute it: a first token is not to wait for
        # the one behind it. Later ones do, for what is left of a step then is a sixth of it.
        self.ahead = mx.default_device().type != mx.DeviceType.cpu
        self._returning: Returning | None = None
        self._pace = Pace()
        self._steps = self._rested = 0

    def run(self) -> None:
        """Until shutdown."""
        try:
            self._run()
        finally:
            self._sender.close()

    def _run(self) -> None:
        """Wait for a command when idle, else go round."""
        self._send(
            wire.Hello(
                pid=os.getpid(),
                recommended_bytes=int(mx.device_info().get("max_recommended_working_set_size", 0)),
                mlx=importlib.metadata.version("mlx"),
                mlx_lm=importlib.metadata.version("mlx-lm"),
                device=str(mx.default_device()),
                blas=self._blas,
            )
        )
        self._recorder.note("ready")
        while True:
            if not self._groups and not self._reading and self._returning is None:
                # What was begun and is not wanted any more: the time that nothing is asked of the device is not its.
                self._queued = schedule.Queued()
                self._come_to_rest()
                if not self._obey(self._inbox.get()):
                    return
            while not self._inbox.empty():
                if not self._obey(self._inbox.get()):
                    return
            if self._meter is not None:
                self._meter.begin()
            if self._groups:
                self._decode()
            if self._reading:
                self._read()
            if self._meter is not None:
                self._meter.end()
            if self._returning is not None:
                self._page_in(self._returning)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _obey(self, command: wire.Command | Fetched | Fetching | Written) -> bool:
        """Carry out one command, or hear what a thread has done; False for the last one."""
        match command:
            case wire.Load():
                self._load(command)
            case wire.Insert():
                self._insert(command)
            case wire.Cancel():
                self._cancel(command.streams)
            case wire.ParseTool():
                self._parse_tool(command)
            case wire.MeasureKv():
                extents = self._keeping.measure(command.ends) if self._keeping else [(0, 0)] * len(command.ends)
                self._send(wire.KvMeasured(call=command.call, extents=extents))
            case wire.EraseKv():
                self._erase_kv(command)
            case wire.PageOut():
                self._page_out(command)
            case wire.SetRoom():
                self._set_room(command)
            case wire.PageIn():
                assert self._model is not None  # noqa: S101 - the daemon has been told that it is loaded
                self._returning = Returning(self._model.weights, command, self._pace)
            case wire.SlowDisk():
                self._pace.bytes_per_s = command.bytes_per_s
            case Fetching():
                self._send(wire.Restoring(stream=command.stream, read_bytes=command.read_bytes))
            case Fetched():
                self._begin_behind(command)
            case Written():
                self._tell_saved(command)
            case wire.Shutdown():
                self._recorder.note("shutdown")
                if self._keeping is not None:
                    self._keeping.close()
                return False
        return True

    def _load(self, command: wire.Load) -> None:
        self._recorder.note(f"load {command.path}")
        try:
            derived = Path(command.derived) if command.derived is not None else None
            model = read_model(Path(command.path), derived, command.scale)
        except Exception as error:  # noqa: BLE001 - any architecture's code may raise anything; all of it means "cannot be served"
            self._send(wire.LoadFailed(error=f"{type(error).__name__}: {error}"))
            return
        self._model, self._most_read, self._gap = model, command.prefill_step, command.prefill_gap
        self._meter = Meter(model.estimate)
        kept = self._keep_kv(model, command.kv) if command.kv is not None else None
        # It has room for as many tokens as a stream begins with.
        self._model = model._replace(cache=[])
        self._meter.take(command.room)
        wired = wire_memory(command.room or 0) if command.wired else 0
        self._recorder.note(f"loaded {model.architecture}, {model.weights.bytes} bytes")
        self._send(
            wire.Loaded(
                weights_bytes=model.weights.bytes,
                vocab=model.vocab,
                architecture=model.architecture,
                dialect=model.dialect,
                active_bytes=mx.get_active_memory(),
                ms=model.ms,
                kv=kept,
                layers=list(model.weights.layers),
                shape=model.shape,
                pass_token=model.estimate.per_token,
                pass_pair=model.estimate.per_pair,
                wired_bytes=wired,
            )
        )

    def _insert(self, command: wire.Insert) -> None:
        told = f"insert {command.stream}: {len(command.prompt)} tokens, at most {command.max_tokens} more"
        self._recorder.note(told, self._busy_with(command.stream))
        if self._model is None:
            self._send(wire.Refused(stream=command.stream, error="no model is loaded"))
            return
        if self._model.weights.layers_out:
            self._send(wire.Refused(stream=command.stream, error="its weights are paged out"))
            return
        vocab = self._model.vocab
        if not all(0 <= token < vocab for token in command.prompt):
            self._send(wire.Refused(stream=command.stream, error=f"a token id is outside the vocabulary of {vocab}"))
            return
        if not command.prompt or command.max_tokens < 1:
            self._send(
                wire.Refused(
                    stream=command.stream, error="a stream needs a prompt that is not empty and room for a token"
                )
            )
            return
        row = self._rows[command.stream] = Row(command, vocab)
        self._begin(row)

    def _cancel(self, streams: list[int]) -> None:
        gone = [self._rows.pop(stream) for stream in streams if stream in self._rows]
        if not gone:
            return
        self._recorder.note(f"cancel {len(gone)} streams", self._busy_with())
        for row in gone:
            was_read = self._reading.pop(row.insert.stream, None) is not None
            if self._keeping is not None and was_read and row.read:
                self._leaving(row, row.read, row.cache)
        self._groups = [group for group in self._groups if group.drop(gone)]
        for row in gone:
            row.forget()
        self._tidy(gone)
        # Whoever accounts for memory learns at once what is free again.
        self._report([])

    def _parse_tool(self, command: wire.ParseTool) -> None:
        self._recorder.note(f"parse a tool call of {len(command.text)} characters", self._busy_with())
        parser = self._model.parse_tool if self._model else None
        if parser is None:
            self._send(wire.ToolParsed(call=command.call, calls_json=None, error="this model has no tool parser"))
            return
        try:
            parsed = parser(command.text, json.loads(command.tools_json))
            calls = parsed if isinstance(parsed, list) else [parsed]
            # To JSON inside the try: a parser may return what JSON cannot hold.
            report = wire.ToolParsed(call=command.call, calls_json=_calls_json(calls), error=None)
        except Exception as error:  # noqa: BLE001 - a parser meets whatever the model wrote; each failure means "no call"
            report = wire.ToolParsed(call=command.call, calls_json=None, error=f"{type(error).__name__}: {error}")
        self._send(report)

    # --- decoding ----------------------------------------------------------------------------------------------------

    def _decode(self) -> None:
        """One step of every group that is due."""
        steps_s = [group.step_s.value or 0.0 for group in self._groups]
        known = [step_s for step_s in steps_s if step_s]
        turns = [step_s or min(known, default=1.0) for step_s in steps_s]
        due = schedule.due(turns, [group.rounds_waited for group in self._groups])
        for number, group in enumerate(list(self._groups)):
            if number not in due:
                group.rounds_waited += 1
                continue
            group.rounds_waited = 0
            self._step(group)
        self._join()

    def _step(self, group: Group) -> None:
        self._steps += 1
        longest = max(group.lengths)
        act = f"step {self._steps}: {len(group.rows)} rows of up to {longest} tokens"
        self._recorder.note(act, self._busy_with())
        self._expect(Pass(len(group.rows), 1, longest), copies=group.copies)
        was, ticket, sooner = list(group.rows), group.ticket, not self.ahead and group.awaits_first
        try:
            if not sooner:
                group.ticket = self._queued.give(group.step_s, time.monotonic())
            told = group.take() if sooner else group.step()
            self._queued.waited(ticket, time.monotonic())
        except Exception as error:  # noqa: BLE001 - whatever mlx-lm or an architecture raises, its streams go on
            self._groups.remove(group)
            self._recover(was, error)
            return
        tokens = [_token(one) for one in told]
        gone = [self._rows.pop(token.stream) for token in tokens if token.finish is not None]
        self._report(tokens)
        if not group.rows:
            self._queued.forget(group.ticket)
            self._groups.remove(group)
        elif sooner:
            self._launch(group)
        if gone or self._steps % _TIDY_EVERY == 0:
            self._tidy(gone)

    def _launch(self, group: Group) -> None:
        group.ticket = self._queued.give(group.step_s, time.monotonic())
        try:
            group.launch()
        except Exception as error:  # noqa: BLE001 - as in a step
            self._groups.remove(group)
            self._recover(list(group.rows), error)

    def _join(self) -> None:
        """Like groups become one."""
        while True:
            able = [group for group in self._groups if group.can_share]
            pair = schedule.to_join([group.lengths for group in able])
            if pair is None:
                return
            first, second = able[pair[0]], able[pair[1]]
            copies = first.copies_with(second)
            if self._meter is not None and not self._meter.has_room_for(copies):
                # Apart they take longer, and no more than they have.
                return
            self._expect(None, copies=copies)
            self._recorder.note(f"join {len(first.rows)} rows and {len(second.rows)}", self._busy_with())
            was = [*first.rows, *second.rows]
            self._groups.remove(second)
            try:
                first.take_in(second)
            except Exception as error:  # noqa: BLE001 - as in a step
                self._groups.remove(first)
                self._recover(was, error)

    # --- reading prompts ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """A piece of a prompt, and short prompts behind it, as long as those who decode can wait."""
        began_s, room_s = time.monotonic(), self._room_s()
        while self._read_from(self._next_to_read(), room_s) and self._reading:
            # Many prompts that come together would otherwise each cost the others a step in between.
            room_s = min(room_s, self._room_s() - (time.monotonic() - began_s))
            row = self._reading[self._next_to_read()]
            if room_s <= 0 or row.unread > self._piece(row, room_s):
                return

    def _next_to_read(self) -> int:
        return self._turns.next({stream: row.insert.owner for stream, row in self._reading.items()})

    def _read_from(self, number: int, room_s: float) -> bool:
        """A piece of this prompt, which joins those who decode when it is read; False when that failed."""
        assert self._model is not None  # noqa: S101 - rows exist only behind a loaded model
        row = self._reading[number]
        tokens = min(row.unread, self._piece(row, room_s)) if row.unread else 0
        stop = self._keeping.stops_at(row.insert, row.read) if self._keeping is not None else 0
        tokens = min(tokens, stop or tokens)
        told = f"read {tokens} tokens of {number}, {row.read} of {len(row.tokens)} are read"
        self._recorder.note(told, self._busy_with(number))
        try:
            new = not row.cache
            if new:
                row.begin_reading(self._model.module)
            self._expect(Pass(1, max(tokens, 1), row.read + tokens), growth=self._kv_bytes(row) if new else 0)
            if tokens:
                self._read_piece(row, tokens)
            if self._keeping is not None and self._keeping.due(row.insert, row.read - tokens, row.read):
                self._keep(row, row.read, row.cache, reading=True)
            if not row.unread:
                self._end_reading(row)
        except Exception as error:  # noqa: BLE001 - as in a step
            self._groups = [group for group in self._groups if group.rows != [row]]
            self._recover([row], error)
            return False
        done, total = row.read + (not row.unread), len(row.tokens)
        self._report([], [wire.Prefill(stream=number, done=done, total=total)])
        return True

    def _end_reading(self, row: Row) -> None:
        assert self._model is not None  # noqa: S101 - as above
        row.end_reading()
        for other in self._reading.values():
            # The choices of one request, above all: what they have in common is read once.
            if other is not row and not other.cache and not other.suspect and other.tokens == row.tokens:
                other.read_with(row)
        if self._keeping is not None and self._keeping.whole:
            self._keep(row, row.read, row.cache, reading=True)
        leaving = self._leaving if self._keeping is not None else None
        group = Group(self._model.module, self._model.vocab, row, leaving)
        del self._reading[row.insert.stream]
        self._groups.append(group)
        self._join()
        if group in self._groups:
            group.ticket = self._queued.give(group.step_s, time.monotonic())
            group.launch()

    def _read_piece(self, row: Row, tokens: int) -> None:
        assert self._model is not None  # noqa: S101 - as above
        began_s = time.monotonic()
        self._model.module(mx.array([row.tokens[row.read : row.read + tokens]]), cache=row.cache)
        mx.eval([part.state for part in row.cache])
        row.read += tokens
        self._speed.seen(tokens, self._queued.waited_for_all(began_s, time.monotonic()))
        self._turns.read(row.insert.owner, tokens, row.insert.weight)

    def _piece(self, row: Row, room_s: float) -> int:
        """Tokens of its prompt for which there is time and memory."""
        tokens = self._speed.chunk(room_s, self._most_read)
        if self._meter is None:
            return tokens
        growing = 0 if row.cache else self._kv_bytes(row)
        return max(self._meter.tokens(row.read, tokens, growing), schedule.LEAST_CHUNK)

    def _kv_bytes(self, row: Row) -> int:
        """What its caches take once it is begun."""
        assert self._model is not None  # noqa: S101 - as above
        return self._model.shape.bytes(row.room)

    def _room_s(self) -> float:
        """How long the next piece may take."""
        if not self._groups:
            return schedule.ALONE_S
        known = [group.step_s.value for group in self._groups if group.step_s.value]
        if not known:
            return 0.0
        return min(self._gap * min(known), schedule.ALONE_S) - sum(known)

    # --- KV that is kept ---------------------------------------------------------------------------------------------

    def _keep_kv(self, model: ResidentModel, settings: wire.Kv) -> wire.KvOpened | None:
        form = form_for(model.cache, settings.block)
        if form is None:
            return None
        try:
            self._keeping = Keeping(
                form, settings, f"mlx {importlib.metadata.version('mlx')} {self._blas}", self._inbox.put, self._pace
            )
        except OSError as error:
            # It is served without.
            return wire.KvOpened(form="", whole=form.whole, error=str(error))
        return self._keeping.opened

    def _begin(self, row: Row) -> None:
        """Have it read from where kept KV ends; the last token is always put through."""
        if self._keeping is not None:
            self._keeping.fetch(row.insert, row.tokens[:-1], row.room)
        else:
            self._send(wire.Restored(stream=row.insert.stream, tokens=0, ms=0.0))
            self._reading[row.insert.stream] = row

    def _begin_behind(self, fetched: Fetched) -> None:
        assert self._keeping is not None  # noqa: S101 - it did the fetching
        row = self._rows.get(fetched.stream)
        if row is None:
            return
        tokens, gone = fetched.assembled.tokens, fetched.gone
        if tokens:
            told = f"go on with {fetched.stream} behind {tokens} tokens that were kept"
            self._recorder.note(told, self._busy_with(fetched.stream))
            row.begin_behind(self._keeping.restored(fetched), tokens)
        self._reading[fetched.stream] = row
        lost = wire.Lost(*gone) if gone is not None else None
        self._send(
            wire.Restored(
                stream=fetched.stream,
                tokens=tokens,
                ms=fetched.ms,
                read_bytes=fetched.read_bytes,
                lost=lost,
                borrowed=fetched.borrowed,
                waited_ms=fetched.waited_ms,
            )
        )

    def _leaving(self, row: Row, tokens: int, cache: list[Any]) -> None:
        if not row.suspect and tokens:
            self._keep(row, tokens, cache, reading=False)

    def _keep(self, row: Row, tokens: int, cache: Sequence[Any], *, reading: bool) -> None:
        assert self._keeping is not None  # noqa: S101 - whoever calls has seen that KV is kept
        if row.chain is None:
            row.chain = self._keeping.chain()
        self._keeping.keep(row.insert.label, row.chain, row.tokens[:tokens], cache, reading=reading)

    def _tell_saved(self, written: Written) -> None:
        assert self._keeping is not None  # noqa: S101 - it did the writing
        self._send(
            wire.Saved(
                turn=written.turn,
                pieces=written.saved.pieces,
                bytes=written.saved.bytes,
                gone=written.saved.gone,
                gone_bytes=written.saved.gone_bytes,
                kept=written.kept,
                label=written.label,
                ram_bytes=self._keeping.ram_bytes,
                disk_bytes=self._keeping.disk_bytes,
                ms=written.ms,
                error=written.error,
            )
        )
        # Copies that were made for it are gone.
        self._report([])

    def _erase_kv(self, command: wire.EraseKv) -> None:
        try:
            erased = self._keeping.erase(command.ends) if self._keeping is not None else 0
        except OSError as error:
            self._send(wire.KvErased(call=command.call, bytes=0, error=str(error)))
            return
        self._send(wire.KvErased(call=command.call, bytes=erased))

    # --- memory that was granted -------------------------------------------------------------------------------------

    def _set_room(self, order: wire.SetRoom) -> None:
        assert self._meter is not None  # noqa: S101 - the daemon has been told that a model is loaded
        if self._keeping is not None:
            self._keeping.hold_at_most(order.kept)
        room = self._meter.take(order.bytes)
        kept = max(order.kept, self._kept_bytes())
        self._send(wire.RoomSet(call=order.call, bytes=room, kept=kept))

    def _kept_bytes(self) -> int:
        return self._keeping.ram_bytes if self._keeping is not None else 0

    def _expect(self, one: Pass | None, *, growth: int = 0, copies: int = 0) -> None:
        if self._meter is not None:
            self._meter.expect(one, growth, copies)

    # --- weights that go and come back -------------------------------------------------------------------------------

    def _page_out(self, order: wire.PageOut) -> None:
        assert self._model is not None  # noqa: S101 - the daemon has been told that it is loaded
        self._recorder.note(f"page out {order.bytes or 'all'} bytes", self._busy_with())
        self._send(page_out(self._model.weights, order, has_streams=bool(self._rows)))
        self._report([])

    def _page_in(self, returning: Returning) -> None:
        """One layer."""
        self._recorder.note("page in a layer", self._busy_with())
        answer = returning.step()
        if answer is not None:
            self._returning = None
            self._send(answer)
        # A sign of life, and what memory it takes by now.
        self._report([])

    # --- failures ----------------------------------------------------------------------------------------------------

    def _recover(self, rows: Sequence[Row], error: Exception) -> None:
        """Have the rows of what failed read again, each for itself from now on until it gives a token."""
        said = f"{type(error).__name__}: {error}"
        self._recorder.note(f"failed with {len(rows)} rows: {said}", [row.insert.stream for row in rows])
        if is_allocation(error):
            # What is left of this process would fail at its next allocation; another one goes on with the streams.
            os._exit(wire.NO_MEMORY)
        again = []
        for row in rows:
            stream = row.insert.stream
            row.forget()
            row.suspect = True
            if len(rows) == 1:
                row.failed_alone += 1
            if row.failed_alone >= _TRIES_ALONE:
                del self._rows[stream]
                self._reading.pop(stream, None)
                self._send(wire.Failed(stream=stream, error=said))
            else:
                self._reading[stream] = row
                again.append(stream)
        self._queued = schedule.Queued()
        mx.clear_cache()
        if again:
            self._send(wire.Recovered(streams=again, error=said))

    def _busy_with(self, *streams: int) -> list[int]:
        """These, and those whose step the device may not have done yet."""
        return [*streams, *(row.insert.stream for group in self._groups for row in group.rows)]

    # --- memory and reports ------------------------------------------------------------------------------------------

    def _tidy(self, gone: Sequence[Row]) -> None:
        large = any(len(row.tokens) >= _LARGE for row in gone)
        if not self._rows or not gone or large:
            self._let_buffers_go()
        if large or not self._rows:
            give_back()

    def _let_buffers_go(self) -> None:
        """What MLX keeps to use again goes, unless there is room: the next turn finds there what the last one had."""
        if self._meter is None or not self._meter.has_room:
            mx.clear_cache()

    def _come_to_rest(self) -> None:
        """Say what is taken when the device has let go of what it had: nothing else would, as long as it is idle."""
        if self._steps == self._rested:
            return
        self._rested = self._steps
        mx.synchronize()
        self._let_buffers_go()
        give_back()
        self._report([])

    def _report(self, tokens: list[wire.Token], prefill: Sequence[wire.Prefill] = ()) -> None:
        meter = self._meter
        foretold = meter.told() if meter is not None else NOTHING
        if meter is not None and not tokens and not prefill:
            meter.look_again()
        self._send(
            wire.Step(
                tokens=tokens,
                prefill=list(prefill),
                active_bytes=mx.get_active_memory(),
                peak_bytes=foretold.peak_bytes,
                predicted_bytes=foretold.predicted_bytes,
                process_bytes=meter.process_bytes if meter is not None else 0,
                kept_bytes=self._kept_bytes(),
                at_ns=time.monotonic_ns(),
            )
        )

    def _send(self, report: wire.Report) -> None:
        self._sender.send(report)


def _token(told: Told) -> wire.Token:
    row = told.row
    finish = "stop" if told.token in row.eos else "length" if row.left == 0 else None
    return wire.Token(stream=row.insert.stream, id=told.token, finish=finish, logprob=told.logprob)


def _calls_json(calls: list[Any]) -> str:
    plain = []
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
            raise ValueError(f"a call needs a name: {call!r:.80}")
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError(f"the arguments of {call['name']} are no object")
        plain.append({"name": call["name"], "arguments": arguments})
    return msgspec.json.encode(plain).decode()
