"""Start of a worker: tie its life to the daemon's, choose the BLAS, then hand over to the step loop.

Usage (by the daemon only): python -m lmx_ledger.engine.worker SOCKET_FD RECORDER_FD DAEMON_PID BLAS
"""

import ctypes
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading

from lmx_ledger.engine.protocol import Command, decode_command, read_frame
from lmx_ledger.engine.recorder import FlightRecorder
from lmx_ledger.engine.worker.imports import import_mlx_lm

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run until the daemon says shutdown or is gone."""
    socket_fd, recorder_fd, daemon_pid, blas = sys.argv[1:5]
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(int(daemon_pid))
    used_blas = preload_blas(blas)
    sock = socket.socket(fileno=int(socket_fd))
    recorder = FlightRecorder(int(recorder_fd))
    recorder.note("importing mlx_lm")

    inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sock, inbox), name="commands", daemon=True).start()
    # MLX may only be imported once the BLAS is chosen, and by the thread that will use it.
    import_mlx_lm()
    from lmx_ledger.engine.worker.loop import StepLoop  # noqa: PLC0415

    StepLoop(sock, inbox, recorder, used_blas).run()


def preload_blas(wanted: str) -> str:
    """Load OpenBLAS ahead of MLX so that its symbols win (20-30x faster f32 on CPU, not bit-exact); its name.

    Raises:
        SystemExit: `openblas` was asked for by name and is not installed.
    """
    if sys.platform == "linux" and wanted in {"auto", "openblas"}:
        try:
            ctypes.CDLL("libopenblas.so.0", ctypes.RTLD_GLOBAL)
        except OSError as error:
            if wanted == "openblas":
                sys.exit(f'[engine] blas = "openblas": {error}; install libopenblas0 or set blas = "auto"')
        else:
            return "openblas"
    return "accelerate" if sys.platform == "darwin" else "builtin"


def _die_with(daemon_pid: int) -> None:
    """Linux: the kernel kills this process when the daemon dies, even while a C call holds the interpreter.

    Elsewhere, and if the daemon has died already, the closed socket ends it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != daemon_pid:
            sys.exit("the daemon is gone")


def _listen(sock: socket.socket, inbox: "queue.SimpleQueue[Command]") -> None:
    try:
        while (body := read_frame(sock)) is not None:
            inbox.put(decode_command(body))
    except ConnectionError as error:
        print(f"the line to the daemon broke: {error}", file=sys.stderr)  # noqa: T201 - stderr is the daemon's evidence
    os._exit(0)


if __name__ == "__main__":
    main()
