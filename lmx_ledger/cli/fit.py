"""`lmx fit`: whether a model fits, before it is downloaded."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from lmx_ledger.cli.connection import Connection, Failure, NoDaemon, home_folder
from lmx_ledger.cli.display import harmless, note, on_terminal, print_json, terminal
from lmx_ledger.cli.options import ApiKey, AsJson, ConfigFile, Home, Url, stored_models
from lmx_ledger.core.units import show_bytes

if TYPE_CHECKING:
    from lmx_ledger.core.config import Config
    from lmx_ledger.memory.fit import Candidate, Fit, PagedOut, Room

EXAMPLE: Final = "Example: lmx fit mlx-community/Qwen3-4B-4bit --context 64k --beside lmx-demo"

_TOKENS: Final = re.compile(r"(\d{1,12})([kKmM]?)")
_FACTORS: Final = {"": 1, "k": 1024, "m": 1024**2}
_LONGEST_NAME: Final = 40


def fit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder, a stored or served model, or ORG/NAME on the hub.",
            show_default=False,
            autocompletion=stored_models,
        ),
    ],
    context: Annotated[
        str | None,
        typer.Option(
            "--context", metavar="N", help="Tokens of one stream: 65536, 64k.", show_default="what the model can take"
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="ID", help="With this one in memory; again: more.", show_default="none"),
    ] = None,
    home: Home = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Say whether a model fits under the memory limit, what would be paged out for it, or how much is missing.

    Of a model on the hub only the description is fetched. HF_ENDPOINT names another hub, HF_TOKEN opens private models.
    """
    from lmx_ledger.memory import fit as fitting  # noqa: PLC0415

    tokens = _tokens(context) if context is not None else None
    connection = Connection(url, api_key)
    connection.must_be_local("the models are")
    settings = _configured(config, home)
    served, limit = _served(connection)
    names = _Names(settings, served)
    one = names.find(model)
    others = [other for other in map(names.find, dict.fromkeys(beside or [])) if other.model != one.model]
    most = min(one.shape.context or settings.context.max_tokens, settings.context.max_tokens)
    if tokens and one.shape.context and tokens > one.shape.context:
        note(f"{harmless(one.model)} was made for {one.shape.context:,} tokens")
    room = _room(settings, limit)
    answer = fitting.fit(one, tokens or most, others, room, most)
    if as_json:
        print_json(_document(one, answer, others, room))
    else:
        _show(one, answer, others, room)
    if answer.verdict == "short":
        note(_verdict(answer))
        raise typer.Exit(1)


class _Names:
    """What the names of models mean, in the order in which a start takes them; then the hub."""

    def __init__(self, config: "Config", served: Mapping[str, Path]) -> None:
        self._config = config
        self._rank = {model.id: (model.priority, model.pin) for model in config.models}
        self._folders = {**{model.id: Path(model.path).expanduser() for model in config.models}, **served}

    def find(self, name: str) -> "Candidate":
        """The model of that name, with its shape.

        Raises:
            Failure: there is none, or its sizes cannot be told.
        """
        from lmx_ledger.memory.fit import Candidate  # noqa: PLC0415
        from lmx_ledger.memory.model_config import ShapeUnknown  # noqa: PLC0415
        from lmx_ledger.memory.shape import shape_of  # noqa: PLC0415
        from lmx_ledger.store.errors import StoreError  # noqa: PLC0415
        from lmx_ledger.store.folder import ModelFolderError, read_json, tensors_of  # noqa: PLC0415

        try:
            found = self._folder(name)
            if found is None:
                return _on_hub(name)
            known, folder = found
            shape = shape_of(read_json(folder / "config.json"), tensors_of(folder))
            priority, pinned = self._rank.get(known, (0, False))
            return Candidate(known, shape, priority, pinned)
        except (StoreError, ModelFolderError) as error:
            raise Failure(harmless(str(error))) from None
        except ShapeUnknown as error:
            raise Failure(f"{harmless(name)} cannot be sized: {harmless(str(error))}") from None

    def _folder(self, name: str) -> tuple[str, Path] | None:
        from lmx_ledger.store import embedded, shelf  # noqa: PLC0415
        from lmx_ledger.store.errors import BadModelId, UnknownModel  # noqa: PLC0415

        if name in self._folders:
            return name, self._folders[name]
        folder = Path(name).expanduser().absolute()
        if folder.is_dir() and ("/" in name or (folder / "config.json").exists()):
            return folder.name, folder
        if name == embedded.ID:
            return name, embedded.FOLDER
        try:
            stored = shelf.find(self._config.home, name)
        except BadModelId:
            raise UnknownModel(f"{name[:80]!r} is neither a model folder nor an id; write it as org/name") from None
        if stored is not None:
            return stored.id, stored.folder
        if "/" not in name:
            known = ", ".join(dict.fromkeys((*self._folders, embedded.ID)))
            raise UnknownModel(
                f"there is no model {name}: no folder, not in the store, not served ({known}); "
                "one on the hub is written ORG/NAME"
            )
        return None


def _on_hub(name: str) -> "Candidate":
    # 300 ms of imports that a model on this machine does not need.
    from lmx_ledger.memory.fit import Candidate  # noqa: PLC0415
    from lmx_ledger.memory.shape import shape_of  # noqa: PLC0415
    from lmx_ledger.store.glance import glance  # noqa: PLC0415

    found = glance(name, say=lambda text: note(harmless(text)))
    return Candidate(found.id, shape_of(found.config, total_bytes=found.weights_bytes))


def _tokens(text: str) -> int:
    match = _TOKENS.fullmatch(text.strip())
    count = int(match[1]) * _FACTORS[match[2].lower()] if match else 0
    if not count:
        raise typer.BadParameter(f"{text!r} is no number of tokens; write it like 65536 or 64k", param_hint="--context")
    return count


def _configured(file: Path | None, home: Path | None) -> "Config":
    from lmx_ledger.core.config import load_config  # noqa: PLC0415

    folder = home_folder(home)
    if file is None and (folder / "config.toml").is_file():
        file = folder / "config.toml"
    return load_config(file, {} if home is None else {"storage": {"home": str(folder)}})


def _served(connection: Connection) -> tuple[dict[str, Path], int | None]:
    """The folders of what the daemon serves, and the limit that it is under; nothing where none runs."""
    try:
        models = connection.get("/lmx/models")["models"]
        limit = connection.get("/lmx/status")["memory"]["limit_bytes"]
    except NoDaemon:
        return {}, None
    return {model["id"]: Path(model["path"]) for model in models if model.get("path")}, limit or None


def _room(config: "Config", limit: int | None) -> "Room":
    from lmx_ledger.memory.fit import Room  # noqa: PLC0415
    from lmx_ledger.memory.limit import limit_bytes  # noqa: PLC0415
    from lmx_ledger.memory.plan import Policy, reserve_of  # noqa: PLC0415
    from lmx_ledger.memory.shape import FUSED_ON_METAL  # noqa: PLC0415

    on_mac = sys.platform == "darwin"
    if limit is None:
        recommended = 0
        if on_mac and config.memory.limit == "auto":
            from lmx_ledger.cli.checks import mlx_and_back_end  # noqa: PLC0415

            _, recommended = mlx_and_back_end()
        limit = limit_bytes(config.memory.limit, recommended)
    return Room(
        limit,
        config.engine.prefill_step,
        FUSED_ON_METAL if on_mac else frozenset(),
        reserve_of(limit),
        policy=Policy(config.memory.page_at, config.memory.page_to),
    )


def _document(one: "Candidate", answer: "Fit", others: "list[Candidate]", room: "Room") -> dict[str, Any]:
    return {
        "model": one.model,
        "verdict": answer.verdict,
        "context_tokens": answer.context,
        "longest_context_tokens": answer.longest,
        "prefill_tokens": answer.chunk,
        "weights_bytes": answer.weights,
        "kv_bytes": answer.kv,
        "working_bytes": answer.working,
        "need_bytes": answer.need,
        "beside": [{"model": other.model, "weights_bytes": other.shape.weights_bytes} for other in others],
        "reserve_bytes": room.reserve,
        "limit_bytes": room.limit,
        "spare_bytes": answer.spare,
        "short_by_bytes": answer.short_by,
        "page_out": [
            {
                "model": paged.model,
                "first_layer": paged.first,
                "last_layer": paged.last,
                "whole": paged.whole,
                "bytes": paged.bytes,
            }
            for paged in answer.paged
        ],
        "layers_exact": one.shape.exact,
    }


class _Row(NamedTuple):
    name: str
    bytes: int
    about: str = ""


def _rows(one: "Candidate", answer: "Fit", others: "list[Candidate]", room: "Room") -> list[_Row]:
    read = f"a prompt read {answer.chunk:,} tokens at a time"
    rows = [
        _Row("weights", answer.weights, one.model),
        _Row("KV", answer.kv, f"one stream of {answer.context:,} tokens"),
        _Row("working memory", answer.working, read),
        *(_Row("beside", other.shape.weights_bytes, other.model) for other in others),
    ]
    return [*rows, *([_Row("reserve", room.reserve)] if room.reserve else []), _Row("limit", room.limit)]


def _show(one: "Candidate", answer: "Fit", others: "list[Candidate]", room: "Room") -> None:
    rows = _rows(one, answer, others, room)
    fits = answer.verdict != "short"
    if not on_terminal():
        for row in rows:
            typer.echo(f"{row.name}\t{row.bytes}\t{harmless(row.about)}")
        if fits:
            typer.echo(_verdict(answer))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for row in rows:
        table.add_row(row.name, show_bytes(row.bytes), harmless(row.about))
    console = terminal()
    console.print(table)
    if fits:
        console.print(Text(_verdict(answer), style="green" if answer.verdict == "fits" else "yellow"))


def _verdict(answer: "Fit") -> str:
    if answer.verdict == "fits":
        return f"fits with {show_bytes(answer.spare)} to spare"
    if answer.verdict == "pages":
        one = len(answer.paged) == 1 and (answer.paged[0].whole or answer.paged[0].first == answer.paged[0].last)
        return f"fits once {' and '.join(map(_paged, answer.paged))} {'is' if one else 'are'} paged out"
    short = f"short by {show_bytes(answer.short_by)}"
    if not answer.longest:
        return f"{short}: no context fits; take a smaller model or raise the limit"
    return f"{short}: the longest context that fits is {answer.longest:,} tokens"


def _paged(paged: "PagedOut") -> str:
    name = harmless(paged.model)
    name = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    size = show_bytes(paged.bytes)
    if paged.whole:
        return f"all of {name} ({size})"
    if paged.first == paged.last:
        return f"layer {paged.first} of {name} ({size})"
    return f"layers {paged.first}-{paged.last} of {name} ({size})"
