"""`lmx replay`: what would have been decided under other rules, and what would have followed, as an estimate."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lmx_ledger.cli.bundle import known_to, named
from lmx_ledger.cli.connection import Connection, Failure, NoDaemon
from lmx_ledger.cli.display import on_terminal, print_json
from lmx_ledger.cli.events import moment
from lmx_ledger.cli.options import ApiKey, AsJson, Home, Url
from lmx_ledger.cli.source import Ground, bundle_named, opened, opened_bundle
from lmx_ledger.core.clock import utc_us

EXAMPLE: Final = "Example: lmx replay last --sweep memory.limit=8GB..24GB/5"

_HOUR: Final = "1h"
_PATIENCE_S: Final = 600.0
"""A sweep over a busy hour takes a while."""
_FORMS: Final = (".html", ".svg")


def replay(
    about: Annotated[
        str | None,
        typer.Argument(
            metavar="[INCIDENT|FILE]",
            help="An incident's time: its id, the beginning of one, `last`, or a bundle of it.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From then on: 10m, or a time.", show_default=_HOUR)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="WHEN", help="Up to then.", show_default="now")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A rule that was otherwise; again: more of them."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="KEY=VALUES", help="One rule at many values: V1,V2,... or FROM..TO/STEPS."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the sweep there as a page (.html) or .svg.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Decide again what was decided, as it was or with other rules, and estimate what would have become of requests.

    Without --set every decision must come out as the ledger has it. The estimate is a model's: how far that is off
    under the rules that were is said beside each figure.
    """
    if about is not None and (since is not None or until is not None):
        raise typer.BadParameter("an incident has its own time; leave --since and --until out", param_hint="--since")
    if out is not None and (sweep is None or out.suffix not in _FORMS):
        raise typer.BadParameter(
            f"it takes a --sweep, and a name that ends in {' or '.join(_FORMS)}", param_hint="--out"
        )
    wanted = dict(_pair(one) for one in given or [])
    connection = Connection(url, api_key)
    order = {"incident": about, "since": since, "until": until, "set": wanted, "sweep": sweep}
    # Read here, too: what is no time is an error of usage, whoever answers.
    span = (moment(since or _HOUR, "--since") or 0, moment(until, "--until") or utc_us())
    if about is not None and (file := bundle_named(about)) is not None:
        with opened_bundle(file) as ground:
            found = _offline(ground, None, span, wanted, sweep)
    else:
        try:
            body = {name: value for name, value in order.items() if value is not None}
            found = connection.post("/lmx/replay", body, patience_s=_PATIENCE_S)
        except NoDaemon:
            with opened(connection, home) as ground:
                found = _offline(ground, about, span, wanted, sweep)
    if out is not None:
        _write(out, found)
    elif as_json:
        print_json(found)
    else:
        from lmx_ledger.cli.replay_display import show, show_plain  # noqa: PLC0415 - rich is slow to come

        (show if on_terminal() else show_plain)(found)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key or not value:
        raise typer.BadParameter(f"{text!r} is no KEY=VALUE", param_hint="--set")
    return key.strip(), value.strip()


def _offline(ground: Ground, about: str | None, span: tuple[int, int], given: dict[str, str], sweep: str | None) -> Any:
    """Of the ledger, whole: of that time, or of an incident's; of a bundle its own."""
    from lmx_ledger.incident.replaying import answer  # noqa: PLC0415 - HTTP does without pydantic and SQLAlchemy
    from lmx_ledger.incident.rules import BadRule  # noqa: PLC0415
    from lmx_ledger.incident.timeline import bounds  # noqa: PLC0415
    from lmx_ledger.ledger.history import Whole  # noqa: PLC0415

    since_us, until_us = span
    if ground.bundle is not None:
        since_us, until_us = ground.bundle.manifest.since_us, ground.bundle.manifest.until_us
    elif about is not None:
        since_us, until_us = bounds(named(known_to(ground), about), utc_us())
    try:
        return answer(Whole(ground.file, ground.reader), since_us, until_us, given, sweep).public()
    except BadRule as error:
        raise typer.BadParameter(str(error), param_hint="--set" if sweep is None else "--sweep") from None


def _write(out: Path, found: dict[str, Any]) -> None:
    from lmx_ledger.report.sweep_page import page_of, picture_of  # noqa: PLC0415

    try:
        out.write_text(page_of(found) if out.suffix == ".html" else picture_of(found), encoding="utf-8")
    except OSError as error:
        raise Failure(f"{out} cannot be written: {error.strerror}") from None
    typer.echo(f"Written to {out}.")
