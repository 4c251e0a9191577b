"""What a worker imports, and what it leaves to others."""

import subprocess
import sys

ASKED = """
import sys
from lmx_ledger.engine.worker.imports import import_mlx_lm
import_mlx_lm()
import lmx_ledger.engine.worker.loop
assert not [name for name in sys.modules if name.partition(".")[0] == "transformers"], "transformers was imported"
assert sys.modules["torch"] is None
{more}
print("done")
"""


def run(more: str) -> str:
    done = subprocess.run([sys.executable, "-c", ASKED.format(more=more)], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_worker_has_mlx_lm_without_transformers() -> None:
    assert run("import mlx_lm.utils, mlx_lm.models.qwen3_moe, mlx_lm.tool_parsers.json_tools") == "done\n"


def test_whoever_wants_it_after_all_gets_the_real_one() -> None:
    more = (
        "from transformers import PreTrainedTokenizerFast; assert hasattr(PreTrainedTokenizerFast, 'from_pretrained')"
    )
    assert run(more).endswith("done\n")


def test_an_mlx_lm_that_wants_more_than_names_is_imported_as_it_is() -> None:
    more = """
from lmx_ledger.engine.worker import imports
for name in [name for name in sys.modules if name.startswith("mlx_lm")]:
    del sys.modules[name]
imports._Unneeded.__getattr__ = lambda self, name: 1 / 0
imports.import_mlx_lm()
import mlx_lm.utils
assert "transformers" in sys.modules
"""
    assert run(more).endswith("done\n")
