"""The entry points `lmx` and `opta`: the tree of commands, and what trouble becomes on the way out."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from lmx_ledger import __version__
from lmx_ledger.cli import (
    bench,
    chat,
    doctor,
    drill,
    events,
    fit,
    incidents,
    ledger,
    models,
    replay,
    serve,
    sessions,
    slo,
    why,
)
from lmx_ledger.cli.connection import Failure
from lmx_ledger.core.errors import StartupError

_SETTINGS: Final[dict[str, Any]] = {
    "no_args_is_help": True,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}
_ORDER: Final = (
    "serve",
    "chat",
    "events",
    "why",
    "incidents",
    "slo",
    "replay",
    "ledger",
    "models",
    "fit",
    "sessions",
    "drill",
    "doctor",
    "bench",
)


class Commands(TyperGroup):
    """Foreseeable trouble becomes one line on stderr and the exit status of the contract."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which a newcomer needs them; what is not in it comes behind."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def main(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:
        """Read the arguments and run the command; what cannot be read or written is one line, as any other trouble."""
        if not _streams_are_open():
            _complain(
                "stdout is closed, nothing can be answered; send it somewhere, to /dev/null if nobody is to read it"
            )
            sys.exit(1)
        for number, argument in enumerate(sys.argv[1:] if args is None else args, 1):
            if not _is_utf8(argument):
                _complain(f"argument {number} is not UTF-8: {argument!r}; write it in UTF-8")
                sys.exit(1)
        try:
            try:
                return super().main(args, *more, **named)
            finally:
                # Here, where it can still be said that there was no room for it.
                sys.stdout.flush()
        except OSError as error:
            # An error of a stream names no file.
            _complain(str(error) if error.filename else f"the output could not be written: {error}")
            _forget_output()
            sys.exit(1)

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the status of what went wrong.
        """
        try:
            return super().invoke(ctx)
        except Failure as failure:
            _complain(str(failure))
            raise typer.Exit(failure.exit_code) from None
        except StartupError as error:
            _complain(str(error))
            raise typer.Exit(1) from None
        except BrokenPipeError:
            # Whoever read our output (head, a pager) has seen enough.
            _forget_output()
            raise typer.Exit(0) from None


def _complain(line: str) -> None:
    """The one line on stderr. Where that is closed or full, the exit status has to do."""
    with contextlib.suppress(OSError):
        typer.echo(f"lmx: {line}", err=True)


def _forget_output() -> None:
    """Python's own flush at exit must not complain about what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _streams_are_open() -> bool:
    """Whether there is a stdout. Descriptors 0 to 2 are taken in any case.

    The next file or socket would get the number of a closed one otherwise, and be written to as if it were stderr.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    return sys.stdout is not None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]

lmx = typer.Typer(
    name="lmx",
    cls=Commands,
    help="A local LLM server that writes down every decision it takes.",
    epilog="Example: lmx serve start --detach && lmx chat",
    **_SETTINGS,
)
opta = typer.Typer(
    name="opta",
    cls=Commands,
    help="The server's commands under the name that the reference guide uses.",
    epilog="Example: opta serve status",
    **_SETTINGS,
)


@lmx.callback()
def _lmx(version: Version = False) -> None:
    """A local LLM server that writes down every decision it takes."""


@opta.callback()
def _opta(version: Version = False) -> None:
    """The server's commands under the name that the reference guide uses."""


lmx.add_typer(serve.group, name="serve")
lmx.add_typer(models.group, name="models")
lmx.add_typer(sessions.group, name="sessions")
lmx.command("chat", epilog=chat.EXAMPLE)(chat.chat)
lmx.command("events", epilog=events.EXAMPLE)(events.events)
lmx.command("why", epilog=why.EXAMPLE)(why.why)
lmx.add_typer(incidents.group, name="incidents")
lmx.command("slo", epilog=slo.EXAMPLE)(slo.slo)
lmx.command("fit", epilog=fit.EXAMPLE)(fit.fit)
lmx.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
lmx.command("replay", epilog=replay.EXAMPLE)(replay.replay)
lmx.command("drill", epilog=drill.EXAMPLE)(drill.drill)
lmx.add_typer(ledger.group, name="ledger")
lmx.add_typer(bench.group, name="bench")
opta.add_typer(serve.group, name="serve")
