"""The entry points `lmx` and `opta`: the tree of commands, and what trouble becomes on the way out."""

import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from lmx_ledger import __version__
from lmx_ledger.cli import chat, doctor, events, models, serve
from lmx_ledger.cli.connection import Failure
from lmx_ledger.core.errors import StartupError

_SETTINGS: Final[dict[str, Any]] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
}
_ORDER: Final = ("serve", "chat", "events", "models", "doctor")


class Commands(TyperGroup):
    """Foreseeable trouble becomes one line on stderr and the exit status of the contract."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which a newcomer needs them; what is not in it comes behind."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            typer.Exit: with the status of what went wrong.
        """
        try:
            return super().invoke(ctx)
        except Failure as failure:
            typer.echo(f"lmx: {failure}", err=True)
            raise typer.Exit(failure.exit_code) from None
        except StartupError as error:
            typer.echo(f"lmx: {error}", err=True)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            # Whoever read our output (head, a pager) has seen enough. Python's own flush at exit must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


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
lmx.command("chat", epilog=chat.EXAMPLE)(chat.chat)
lmx.command("events", epilog=events.EXAMPLE)(events.events)
lmx.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
opta.add_typer(serve.group, name="serve")
