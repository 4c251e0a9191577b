"""The daemon's end of a worker: starts the process, speaks the protocol, owns its stderr and its exit status."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable

from lmx_ledger.core.clock import elapsed_ms, mono_ns
from lmx_ledger.engine import protocol as wire
from lmx_ledger.engine.exit import Exit, describe, signal_name
from lmx_ledger.engine.recorder import FlightRecorder
from lmx_ledger.engine.stream import EngineError, EngineStream, LoadTimedOut, Share, Spent, WorkerDied

_STDERR_TAIL_BYTES = 8192
_HELLO_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
HANG_TIMEOUT_S = 30.0


class Worker:
    """A running worker process.

    `on_exit` is called once, with the evidence, whatever ended it. One that is busy and says nothing for
    `hang_timeout_s` (and ten times as long as it ever was silent before) is killed: it hangs.
    """

    def __init__(self, process: asyncio.subprocess.Process, recorder: FlightRecorder, started_ns: int) -> None:
        self.process = process
        self.pid = process.pid
        self.started_ns = started_ns
        self.hello: wire.Hello | None = None
        self.on_exit: Callable[[Worker, Exit], None] | None = None
        self.on_saved: Callable[[wire.Saved], None] | None = None
        self.hang_timeout_s = HANG_TIMEOUT_S
        self.proved = asyncio.Event()
        """Set with the first token that it gives."""
        self.active_bytes = 0
        self.peak_bytes = 0
        self.process_bytes = 0
        self.kept_bytes = 0
        self.on_memory: Callable[[wire.Step], None] | None = None
        self.spent = Spent()
        self._heard_ns = started_ns
        self._longest_silence_s = 0.0
        self._hung = False
        self.recycled = False
        """Whether it was told to end so that another one takes its place."""
        self.on_hung: Callable[[float], Awaitable[None]] | None = None
        """Told, before it is killed for that, for how long it has given nothing."""
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._recorder = recorder
        self._streams: dict[int, EngineStream] = {}
        self._numbers = 0
        self._calls: dict[int, asyncio.Future[wire.Answer]] = {}
        self._hello: asyncio.Future[wire.Hello] = asyncio.get_running_loop().create_future()
        self._load: asyncio.Future[wire.Loaded | wire.LoadFailed] | None = None
        self._expected = False
        self._stderr = bytearray()
        self._tasks: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, blas: str, on_exit: Callable[["Worker", Exit], None] | None = None) -> "Worker":
        """Start a process and wait for its hello.

        Raises:
            EngineError: it ended or said nothing within a minute; the message has its last words.
            OSError: there is no process, descriptor or memory to be had; nothing is left of the attempt.
        """
        began = mono_ns()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                recorder = FlightRecorder.create()
                undo.callback(recorder.close)
                process = await _spawn(blas, theirs, recorder)
            undo.pop_all()
        worker = cls(process, recorder, began)
        worker.on_exit = on_exit
        await worker._attach(ours)
        try:
            worker.hello = await asyncio.wait_for(asyncio.shield(worker._hello), _HELLO_TIMEOUT_S)
        except TimeoutError:
            await worker.kill()
            raise EngineError(f"the worker said nothing within {_HELLO_TIMEOUT_S:.0f} s of its start") from None
        except asyncio.CancelledError:
            # Whoever wanted it is gone, and it would hear of that only behind its imports.
            worker._expected = True
            await worker.kill()
            raise
        return worker

    async def _attach(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=sock)
        self._tasks = [
            asyncio.create_task(self._read_stderr()),
            asyncio.create_task(self._read_reports(reader)),
        ]
        self._watch = asyncio.create_task(self._watch_exit())
        self._liveness = asyncio.create_task(self._watch_liveness())

    @property
    def alive(self) -> bool:
        """Whether the process can still answer."""
        return not self.exited.done() and self.process.returncode is None

    @property
    def in_flight(self) -> int:
        """Streams that the worker has."""
        return len(self._streams)

    @property
    def age_ms(self) -> float:
        """Milliseconds since the process was started."""
        return elapsed_ms(self.started_ns)

    async def load(
        self,
        path: str,
        *,
        prefill_step: int,
        prefill_gap: float,
        timeout_s: float,
        kv: wire.Kv | None = None,
        derived: str | None = None,
        room: int | None = None,
        scale: float = 1.0,
        wired: bool = False,
    ) -> wire.Loaded:
        """Read a model's folder; see `protocol.Load`.

        Raises:
            LoadTimedOut: it took longer than `timeout_s`; the worker is killed.
            EngineError: it cannot be served.
        """
        self._load = asyncio.get_running_loop().create_future()
        self._send(
            wire.Load(
                path=path,
                prefill_step=prefill_step,
                prefill_gap=prefill_gap,
                kv=kv,
                derived=derived,
                room=room,
                scale=scale,
                wired=wired,
            )
        )
        try:
            answer = await asyncio.wait_for(asyncio.shield(self._load), timeout_s)
        except TimeoutError:
            await self.kill()
            raise LoadTimedOut(f"loading took longer than {timeout_s:g} s; raise [engine] load_timeout") from None
        if isinstance(answer, wire.LoadFailed):
            raise EngineError(answer.error)
        self.active_bytes = answer.active_bytes
        return answer

    def insert(
        self,
        prompt: list[int],
        *,
        prompt_len: int,
        max_tokens: int,
        eos: list[int],
        sampling: wire.Sampling,
        owner: int = 0,
        weight: float = 1.0,
        label: str = "",
        known: int = 0,
        boundary: int = 0,
        on_left: Callable[[EngineStream], None] | None = None,
        share: Share | None = None,
    ) -> EngineStream:
        """Begin a stream; it is in the worker's next step. See `protocol.Insert`; `on_left`: see `EngineStream`.

        `share` is what the worker's time for it is added to.

        Raises:
            WorkerDied: there is no process any more.
        """
        if not self.alive:
            raise WorkerDied("the worker is not running")
        if not self._streams:
            self._heard_ns = mono_ns()
            self.spent.begin(self._heard_ns)
        self._numbers += 1
        stream = self._streams[self._numbers] = EngineStream(self._numbers, on_left, share)
        self._send(
            wire.Insert(
                stream=stream.number,
                prompt=prompt,
                prompt_len=prompt_len,
                max_tokens=max_tokens,
                eos=eos,
                sampling=sampling,
                owner=owner,
                weight=weight,
                label=label,
                known=known,
                boundary=boundary,
            )
        )
        return stream

    def cancel(self, stream: EngineStream) -> None:
        """End a stream before the worker's next step; harmless if it has ended."""
        if self._streams.pop(stream.number, None) is not None and self.alive:
            self._send(wire.Cancel(streams=[stream.number]))
        stream.leave()

    def park(self, stream: EngineStream, why: EngineError) -> None:
        """End a stream as `cancel` does; whoever reads it gets what has arrived, then this error."""
        if self._streams.pop(stream.number, None) is not None and self.alive:
            self._send(wire.Cancel(streams=[stream.number]))
        stream.fail(why)

    async def parse_tool(self, text: str, tools_json: str) -> wire.ToolParsed:
        """What mlx-lm's parser makes of a tool call's text.

        Raises:
            WorkerDied: the process ended before it answered.
        """
        answer = await self._call(lambda call: wire.ParseTool(call=call, text=text, tools_json=tools_json))
        assert isinstance(answer, wire.ToolParsed)  # noqa: S101 - the protocol's promise
        return answer

    async def measure_kv(self, ends: list[list[bytes]]) -> list[tuple[int, int]]:
        """Bytes in RAM and on disk, of each list of pieces with all before them.

        Raises:
            WorkerDied: the process ended before it answered.
        """
        answer = await self._call(lambda call: wire.MeasureKv(call=call, ends=ends))
        assert isinstance(answer, wire.KvMeasured)  # noqa: S101 - the protocol's promise
        return answer.extents

    async def erase_kv(self, ends: list[bytes]) -> int:
        """Overwrite these pieces and all before them that no others begin with; their bytes.

        Raises:
            WorkerDied: the process ended before it answered.
            EngineError: a file cannot be written.
        """
        answer = await self._call(lambda call: wire.EraseKv(call=call, ends=ends))
        assert isinstance(answer, wire.KvErased)  # noqa: S101 - the protocol's promise
        if answer.error is not None:
            raise EngineError(answer.error)
        return answer.bytes

    async def page_out(self, need: int = 0) -> wire.Paged:
        """Let go of layers until so many bytes are free (0: of all); not while it has streams.

        Raises:
            WorkerDied: the process ended before it answered.
            EngineError: it has streams, or what had to be written could not be.
        """
        return await self._paged(lambda call: wire.PageOut(call=call, bytes=need))

    async def page_in(self) -> wire.Paged:
        """Read every layer that is out.

        Raises:
            WorkerDied: the process ended before it answered.
            EngineError: a file cannot be read; what was out is, but for what came back until then.
        """
        return await self._paged(lambda call: wire.PageIn(call=call))

    def set_room(self, size: int, kept: int) -> "asyncio.Future[wire.Answer]":
        """Sent at once, ahead of whatever is sent next. Gives a `RoomSet`, or raises `WorkerDied`; see the protocol."""
        return self._ask(lambda call: wire.SetRoom(call=call, bytes=size, kept=kept))

    def slow_disk(self, bytes_per_s: int) -> None:
        """For a rehearsal: see `protocol.SlowDisk`."""
        self._send(wire.SlowDisk(bytes_per_s=bytes_per_s))

    async def _paged(self, command: Callable[[int], wire.Command]) -> wire.Paged:
        answer = await self._call(command)
        assert isinstance(answer, wire.Paged)  # noqa: S101 - the protocol's promise
        if answer.error is not None:
            raise EngineError(answer.error)
        return answer

    async def _call(self, command: Callable[[int], wire.Command]) -> wire.Answer:
        return await self._ask(command)

    def _ask(self, command: Callable[[int], wire.Command]) -> "asyncio.Future[wire.Answer]":
        answer: asyncio.Future[wire.Answer] = asyncio.get_running_loop().create_future()
        if self.exited.done():
            answer.set_exception(WorkerDied(describe(self.exited.result())))
            answer.exception()
            return answer
        self._numbers += 1
        self._calls[self._numbers] = answer
        self._send(command(self._numbers))
        return answer

    async def stop(self) -> Exit:
        """Ask it to leave; after five seconds it is killed."""
        self._expected = True
        if self.alive:
            self._send(wire.Shutdown())
            try:
                return await asyncio.wait_for(asyncio.shield(self.exited), _STOP_TIMEOUT_S)
            except TimeoutError:
                self.process.kill()
        return await asyncio.shield(self.exited)

    async def recycle(self) -> Exit:
        """As `stop`; but its streams fail as those of a worker that died, and go on with the next one."""
        self.recycled = True
        return await self.stop()

    async def kill(self) -> Exit:
        """End it at once."""
        if self.process.returncode is None:
            self.process.kill()
        return await asyncio.shield(self.exited)

    def _send(self, command: wire.Command) -> None:
        # Between a death and its notice the line is closed already; whoever waits learns of it from the exit.
        if not self._writer.is_closing():
            self._writer.write(wire.frame(command))

    async def _read_stderr(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 - it is started with a pipe
        while piece := await self.process.stderr.read(4096):
            self._stderr += piece
            del self._stderr[:-_STDERR_TAIL_BYTES]

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = wire.LENGTH.unpack(await reader.readexactly(wire.LENGTH.size))
                self._on_report(wire.decode_report(await reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            # The worker closed the line: it has ended or is about to, and its exit says why.
            return

    def _on_report(self, report: wire.Report) -> None:
        match report:
            case wire.Step():
                self._on_step(report)
            case wire.Hello():
                self._hello.set_result(report)
            case wire.Loaded() | wire.LoadFailed():
                if self._load is not None and not self._load.done():
                    self._load.set_result(report)
            case wire.Refused() | wire.Failed():
                if stream := self._streams.pop(report.stream, None):
                    stream.fail(EngineError(report.error))
            case wire.Recovered():
                for number in report.streams:
                    if stream := self._streams.get(number):
                        stream.deliver(report)
            case wire.Restoring():
                # To read what is kept may take longer than any step.
                self._heard_ns = mono_ns()
            case wire.Restored():
                self._heard_ns = mono_ns()
                if stream := self._streams.get(report.stream):
                    took_ms = report.waited_ms + (report.ms if report.tokens else 0.0)
                    stream.share.restored += int(took_ms * 1e6)
                    stream.deliver(report)
            case wire.Saved():
                if self.on_saved is not None:
                    self.on_saved(report)
            case wire.ToolParsed() | wire.KvMeasured() | wire.KvErased() | wire.Paged() | wire.RoomSet():
                answer = self._calls.pop(report.call)
                if not answer.done():
                    answer.set_result(report)

    def _on_step(self, step: wire.Step) -> None:
        if step.tokens or step.prefill:
            # Only that is progress: a worker that spins says much, too.
            now = mono_ns()
            self._longest_silence_s = max(self._longest_silence_s, (now - self._heard_ns) / 1e9)
            self._heard_ns = now
            self.spent.report(step, self._streams, now)
        self.active_bytes, self.peak_bytes = step.active_bytes, max(step.peak_bytes, step.active_bytes)
        self.process_bytes, self.kept_bytes = step.process_bytes, step.kept_bytes
        if self.on_memory is not None:
            self.on_memory(step)
        for progress in step.prefill:
            if stream := self._streams.get(progress.stream):
                stream.deliver(progress)
        if step.tokens:
            self.proved.set()
        for token in step.tokens:
            if stream := self._streams.get(token.stream):
                stream.deliver(token)
                if token.finish is not None:
                    del self._streams[token.stream]

    async def _watch_liveness(self) -> None:
        while self.alive:
            await asyncio.sleep(min(self.hang_timeout_s / 10, 1.0))
            silent_s = elapsed_ms(self._heard_ns) / 1e3
            if self._streams and silent_s > max(self.hang_timeout_s, 10 * self._longest_silence_s):
                self._hung = True
                try:
                    if self.on_hung is not None:
                        await self.on_hung(silent_s)
                finally:
                    self.process.kill()
                return

    async def _watch_exit(self) -> None:
        status = await self.process.wait()
        self._liveness.cancel()
        await asyncio.gather(*self._tasks)
        died = Exit(
            pid=self.pid,
            code=status if status >= 0 else None,
            signal=signal_name(-status) if status < 0 else None,
            stderr_tail=self._stderr.decode(errors="replace"),
            last_acts=self._recorder.last(),
            expected=self._expected,
            hung=self._hung,
            recycled=self.recycled,
        )
        self._writer.close()
        busy_with = self._recorder.streams()
        self._recorder.close()
        self.exited.set_result(died)
        if self.on_exit is not None:
            self.on_exit(self, died)
        stopped, said = EngineError("the worker was stopped"), describe(died)
        to_be_replaced = self.recycled or not died.expected
        for stream in self._streams.values():
            suspect = stream.number in busy_with and not self.recycled
            stream.fail(WorkerDied(said, suspect=suspect) if to_be_replaced else stopped)
        self._streams.clear()
        for waiting in (self._hello, self._load, *self._calls.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(WorkerDied(said) if to_be_replaced else stopped)
                # Marked as seen: nobody need be waiting for it at the time.
                waiting.exception()
        self._calls.clear()


async def _spawn(blas: str, theirs: socket.socket, recorder: FlightRecorder) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lmx_ledger.engine.worker",
        str(theirs.fileno()),
        str(recorder.fd),
        str(os.getpid()),
        blas,
        pass_fds=(theirs.fileno(), recorder.fd),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        # A Ctrl-C in the daemon's terminal is the daemon's to handle, not the worker's.
        start_new_session=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "PYTHONUNBUFFERED": "1"},
    )
