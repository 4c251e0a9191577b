"""HTTP over TCP: Hypercorn's protocols, on connections that a client who does not read cannot hold open."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData
from quart import Quart, Request

_HEADER_BYTES: Final = 64 * 1024
_KEEP_ALIVE_S: Final = 60
_BACKLOG: Final = 1024
_SEND_BUFFER_BYTES: Final = 128 * 1024
"""Of the kernel, for each connection. Left to itself Linux takes in 3 MB before it says that a client does not read."""
_GRACE_S: Final = 1.0
_STATE: Final = "lmx.connection"


class Connection(TCPServer):
    """One client's connection.

    Hypercorn's `send` returns when the bytes are with the kernel but for 64 KiB (asyncio's high-water mark), so an app
    that sends to a client that does not read waits there, with no end of its own. Here the wait ends: a client that
    takes nothing in `send_timeout` seconds (the kernel tells in steps of a third of its buffer) loses the connection.
    Nothing is written to a line that is lost. What was made for a client and waits for it is here, the kernel's buffer,
    asyncio's 64 KiB and one frame, and in the stream of tokens behind it (`EngineStream`).
    """

    def __init__(
        self,
        app: ASGIWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        send_timeout: Callable[[], float],
    ) -> None:
        super().__init__(app, asyncio.get_running_loop(), config, context, {_STATE: self}, reader, writer)
        self._send_timeout = send_timeout
        self._on_stall: Callable[[], object] | None = None

    def when_stalled(self, act: Callable[[], object]) -> None:
        """Do this, once, before the connection is cut off because its client does not read."""
        self._on_stall = act

    async def protocol_send(self, event: Event) -> None:
        """What Hypercorn's protocols call to send, to close, and to say that they are idle."""
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                await self._send(event.data)
            except (ConnectionError, RuntimeError):
                await self.protocol.handle(Closed())
                # An app with much to send must come to learn of it: without a pause it would go on to its end.
                await asyncio.sleep(0)

    async def _send(self, data: bytes) -> None:
        # asyncio writes a line into the log for each write to a lost connection, thousands when a crowd goes away.
        if self.writer.transport.is_closing():
            raise ConnectionResetError
        self.writer.write(data)
        while True:
            unsent = self.writer.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._send_timeout()):
                    await self.writer.drain()
            except TimeoutError:
                if self.writer.transport.get_write_buffer_size() < unsent:
                    continue
                if self._on_stall is not None:
                    self._on_stall()
                self.writer.transport.abort()
                raise ConnectionAbortedError from None
            return

    async def _close(self) -> None:
        abort = self._abort_in_time()
        try:
            await super()._close()
        finally:
            abort.cancel()

    async def _initiate_server_close(self) -> None:
        self._abort_in_time()
        await super()._initiate_server_close()

    def _abort_in_time(self) -> asyncio.TimerHandle:
        """Closing waits until the client has read what is left; not longer than for any other byte."""
        return self.loop.call_later(self._send_timeout(), self.writer.transport.abort)


def connection_of(request: Request) -> Connection:
    """The connection that a request came over."""
    return cast(Connection, request.scope["state"][_STATE])


async def serve_http(
    app: Quart, sock: socket.socket, *, send_timeout: Callable[[], float], closing: asyncio.Event
) -> None:
    """Serve on a bound socket until `closing` is set; then what is still open is cut off after a moment."""
    config, context, wrapped = _hypercorn_config(), WorkerContext(None), ASGIWrapper(app)
    open_: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks
        open_[task] = writer
        task.add_done_callback(open_.pop)
        await Connection(wrapped, config, context, reader, writer, send_timeout)

    await app.startup()
    # Accepted sockets inherit it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    # It listens anew with this backlog; 100 would reset a crowd.
    server = await asyncio.start_server(connected, backlog=_BACKLOG, sock=sock)
    try:
        await closing.wait()
    finally:
        # Idle connections close themselves on this.
        await context.terminated.set()
        server.close()
        await _ended(open_)
        for writer in open_.values():
            writer.transport.abort()
        await _ended(open_)
        await app.shutdown()


async def _ended(connections: dict[asyncio.Task[None], asyncio.StreamWriter]) -> None:
    if connections:
        await asyncio.wait(connections, timeout=_GRACE_S)


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.h11_max_incomplete_size = _HEADER_BYTES
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.include_server_header = False
    config.accesslog = None
    # What breaks inside a stream, where no route's error handler sees it, must reach the daemon's log.
    config.loglevel = "WARNING"
    return config
