"""What is served when nobody names a model: a tiny one with random weights, made on the spot, which says so."""

from pathlib import Path
from typing import Final

from lmx_ledger.core.config import load_config
from lmx_ledger.core.events import CATALOGUE

ID: Final = "lmx-demo"
IS_RANDOM: Final = "lmx-demo has random weights: it answers with word salad, to show that everything works"


def ensure(home: Path) -> Path:
    """The folder of the demo model under a home; made if it is not there."""
    folder = home / "models" / ID
    return folder if (folder / "config.json").exists() else write(folder)


def write(folder: Path) -> Path:
    """Make the model anew (about 30 ms); the same bytes each time."""
    # numpy and the trainer cost a daemon with models of its own some 25 MB for nothing.
    from lmx_ledger.engine.llama_folder import write_random_model  # noqa: PLC0415

    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return write_random_model(folder, text=[kind.doc for kind in CATALOGUE.values()])


if __name__ == "__main__":
    print(write(load_config(None).home / "models" / ID))  # noqa: T201 - what `make demo-model` says
