"""The listening socket, bound before anything else: a port that is taken is said at once, with who has it."""

import errno
import socket

import psutil

from lmx_ledger.core.errors import StartupError

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening, non-blocking TCP socket.

    Raises:
        StartupError: the address cannot be had; the message names who holds the port where that can be seen.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} is taken by {holder_of(port)}; stop it (`lmx serve stop --port {port}` if it is an LMX "
                f"daemon) or start with --port {port + 1000}"
            ) from None
        if error.errno == errno.EACCES:
            raise StartupError(f"port {port} needs more rights than this user has; choose one above 1023") from None
        raise StartupError(f"cannot listen on {host}:{port}: {error.strerror or error}; check [server] host") from None
    sock.setblocking(False)
    return sock


def holder_of(port: int) -> str:
    """`pid 12 (name)`, or that it cannot be seen."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                if connection.pid is None:
                    break
                return f"pid {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline()[:6])[:120]})"
    except psutil.Error:
        return "a process that this user may not see"
    return "a process that this user may not see"
