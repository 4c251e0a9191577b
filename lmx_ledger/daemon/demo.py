"""What is served when nobody names a model: a tiny one with random weights, made on the spot, which says so."""

from pathlib import Path
from typing import Final

from lmx_ledger.core.events import CATALOGUE
from lmx_ledger.engine.llama_folder import write_random_model

ID: Final = "lmx-demo"
IS_RANDOM: Final = "lmx-demo has random weights: it answers with word salad, to show that everything works"


def ensure(home: Path) -> Path:
    """The folder of the demo model under a home; made if it is not there (about 30 ms)."""
    folder = home / "models" / ID
    if not (folder / "config.json").exists():
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_random_model(folder, text=[kind.doc for kind in CATALOGUE.values()])
    return folder
