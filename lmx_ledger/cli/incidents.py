"""`lmx incidents`: what was wrong, since when, whom it hit, what may have caused it, and what happened one by one."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import msgspec
import typer

from lmx_ledger.cli import digest
from lmx_ledger.cli.bundle import bundle, known_to, named
from lmx_ledger.cli.connection import Connection, Failure, NoDaemon
from lmx_ledger.cli.display import deliver, harmless, note, on_terminal, print_json, terminal
from lmx_ledger.cli.events import moment
from lmx_ledger.cli.options import ApiKey, AsJson, Form, FormOption, Home, Into, Out, Url
from lmx_ledger.cli.source import Ground, bundle_named, opened, opened_bundle
from lmx_ledger.core.clock import parse_rfc3339, rfc3339

if TYPE_CHECKING:
    from lmx_ledger.incident.state import Incident

EXAMPLE: Final = "Example: lmx incidents list"

_ABOUT: Final = "Incidents: what was wrong, whom it hit, what may have caused it."
_STATUSES: Final = ("open", "mitigated", "resolved", "closed", "merged")


group = typer.Typer(help=_ABOUT, epilog=EXAMPLE, no_args_is_help=True, rich_markup_mode="rich")

Id = Annotated[
    str, typer.Argument(metavar="ID", help="As listed, or the beginning of it, or `last`.", show_default=False)
]
IdOrFile = Annotated[
    str,
    typer.Argument(
        metavar="ID|FILE",
        help="As listed, or the beginning of it, or `last`; or a bundle (./NAME where that reads like an id).",
        show_default=False,
    ),
]


@group.callback()
def _incidents() -> None:
    """Incidents: what was wrong, whom it hit, what may have caused it."""


@group.command("list", epilog=EXAMPLE)
def list_incidents(
    status: Annotated[
        list[str] | None,
        typer.Option("--status", metavar="S", help=f"{', '.join(_STATUSES[:-1])} or {_STATUSES[-1]}; again: or."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="That went on then or later: 2h, or a time.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """List incidents, the newest first; without a daemon from the ledger."""
    wanted = status or []
    for name in wanted:
        if name not in _STATUSES:
            raise typer.BadParameter(f"status is one of {', '.join(_STATUSES)}", param_hint="--status")
    since_us = moment(since, "--since") or 0
    connection = Connection(url, api_key)
    try:
        found = connection.get("/lmx/incidents", {"status": wanted, "since": rfc3339(since_us)})["incidents"]
    except NoDaemon:
        with opened(connection, home) as ground:
            found = [one.public() for one in known_to(ground) if one.matches(wanted, since_us)]
    if as_json:
        print_json({"incidents": found})
    elif on_terminal():
        from lmx_ledger.cli.incident_display import show_list  # noqa: PLC0415 - rich is slow to come

        show_list(terminal(), found)
    else:
        for one in found:
            fields = (one["id"], one["status"], one["severity"], one["started_at"], one["mitigated_at"] or "")
            drill = "drill" if one["drill"] else ""
            typer.echo("\t".join(harmless(field) for field in (*fields, drill, ",".join(one["models"]), one["title"])))
    if not found and not as_json:
        note("no incident matches" if wanted or since else "there was no incident")


@group.command("show", epilog="Example: lmx incidents show last")
def show(
    id: IdOrFile,  # noqa: A002
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show one: its times, what opened it, whom it hit, and hypotheses with their evidence."""
    from lmx_ledger.cli.incident_display import show_one  # noqa: PLC0415

    answer = _asked(Connection(url, api_key), home, id, "", _told)
    if as_json:
        print_json(answer)
    else:
        show_one(terminal(), answer, id if bundle_named(id) is not None else answer["id"])


@group.command("timeline", epilog="Example: lmx incidents timeline last")
def show_timeline(
    id: IdOrFile,  # noqa: A002
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show what happened in its time, one line for what repeats: guard, memory, heat, cache, latency, operators."""
    from lmx_ledger.cli.incident_display import show_lines  # noqa: PLC0415

    answer = _asked(Connection(url, api_key), home, id, "/timeline", _told_timeline)
    if as_json:
        print_json(answer)
    elif on_terminal():
        show_lines(terminal(), answer)
    else:
        for line in answer["lines"]:
            seqs = f"{line['first_seq']}..{line['last_seq']}" if line["count"] > 1 else str(line["first_seq"])
            fields = (line["time"], f"{line['offset_s']:+.1f}", seqs, line["severity"], line["kind"], line["text"])
            typer.echo("\t".join(harmless(str(field)) for field in fields))


@group.command("report", epilog="Example: lmx incidents report last --format html --out report.html")
def report(
    id: IdOrFile,  # noqa: A002
    form: FormOption = None,
    out: Out = None,
    into: Into = None,
    home: Home = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Write its postmortem: what happened, whom it hit, timeline, figures, hypotheses, what the guard did, actions."""
    wanted = "json" if as_json or into is not None else (form or Form.MD).value
    if (file := bundle_named(id)) is not None:
        with opened_bundle(file) as ground:
            body = _report_of_bundle(ground, wanted)
    else:
        connection = Connection(url, api_key)
        try:
            body = connection.get_bytes(f"/lmx/incidents/{quote(id, safe='')}/report", {"format": wanted})
        except NoDaemon:
            with opened(connection, home) as ground:
                body = _report(ground, named(known_to(ground), id), wanted)
    if into is not None:
        _write_into(into, body, as_json=as_json)
        return
    deliver(body, out)


group.command("digest", epilog=digest.EXAMPLE)(digest.digest)


group.command("bundle", epilog="Example: lmx incidents bundle last --out incident.bundle.gz")(bundle)


@group.command("ack", epilog="Example: lmx incidents ack last")
def acknowledge(id: Id, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:  # noqa: A002
    """Say that somebody looks after it."""
    _order(Connection(url, api_key), id, "ack", as_json=as_json)


@group.command("close", epilog="Example: lmx incidents close last")
def close(id: Id, as_json: AsJson = False, url: Url = None, api_key: ApiKey = None) -> None:  # noqa: A002
    """Say that nothing more is done about it; a symptom that comes back is another incident."""
    _order(Connection(url, api_key), id, "close", as_json=as_json)


def _order(connection: Connection, name: str, act: str, *, as_json: bool) -> None:
    done = connection.post(f"/lmx/incidents/{quote(name, safe='')}/{act}", {})
    if as_json:
        print_json(done)
        return
    word, at = ("Acknowledged", done["acknowledged_at"]) if act == "ack" else ("Closed", done["closed_at"])
    when = datetime.fromtimestamp(parse_rfc3339(at) / 1e6).astimezone()
    typer.echo(f"{word} {harmless(done['id'])} at {when:%H:%M:%S}: {harmless(done['title'])}")


# --- without a daemon ------------------------------------------------------------------------------------------------


def _asked(
    connection: Connection,
    home: Path | None,
    name: str,
    more: str,
    offline: "Callable[[Ground, Incident], dict[str, Any]]",
) -> Any:
    if (file := bundle_named(name)) is not None:
        with opened_bundle(file) as ground:
            assert ground.bundle is not None  # noqa: S101 - what it is the ground of
            return offline(ground, ground.bundle.incident)
    try:
        return connection.get(f"/lmx/incidents/{quote(name, safe='')}{more}")
    except NoDaemon:
        with opened(connection, home) as ground:
            return offline(ground, named(known_to(ground), name))


def _report(ground: Ground, incident: "Incident", form: str) -> bytes:
    from lmx_ledger.report.from_ledger import as_form, postmortem  # noqa: PLC0415 - HTTP does without SQLAlchemy

    return as_form(postmortem(ground.file, ground.reader, incident, ground.now_us), form)


def _report_of_bundle(ground: Ground, form: str) -> bytes:
    from lmx_ledger.report.from_ledger import as_form, postmortem_of_bundle  # noqa: PLC0415

    assert ground.bundle is not None  # noqa: S101 - as above
    return as_form(postmortem_of_bundle(ground.bundle), form)


def _write_into(folder: Path, body: bytes, *, as_json: bool) -> None:
    from lmx_ledger.report.write import NotWritten, read_json, write  # noqa: PLC0415

    try:
        document = read_json(body)
        written = write(folder, document.header.incident, document)
    except NotWritten as error:
        raise Failure(str(error)) from None
    except msgspec.DecodeError as error:
        raise Failure(f"the report cannot be read ({error}); is the daemon of another version?") from None
    if as_json:
        print_json({name: str(file) for name, file in written._asdict().items()})
    else:
        typer.echo(f"Written to {written.html}, beside it as .md and .json; all reports: {folder / 'index.html'}.")


def _told(ground: Ground, incident: "Incident") -> dict[str, Any]:
    from lmx_ledger.incident.account import openers, told, window  # noqa: PLC0415

    found = window(ground.file, ground.reader, incident, ground.now_us)
    whose = openers(ground.file, ground.reader, incident, found)
    return told(incident, found, whose, ground.distrusted())


def _told_timeline(ground: Ground, incident: "Incident") -> dict[str, Any]:
    from lmx_ledger.incident.account import told_timeline, window  # noqa: PLC0415

    found = window(ground.file, ground.reader, incident, ground.now_us)
    return told_timeline(incident, found, ground.distrusted())
