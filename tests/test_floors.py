"""Imports run downward only, and the daemon's process loads no model: the floors of docs/architecture.md hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmx_ledger"
FLOORS = [
    "cli",
    "bench",
    "daemon",
    "server",
    "report",
    "incident",
    "slo",
    "serving",
    "session",
    "store",
    "guard",
    "memory",
    "engine",
    "sensor",
    "ledger",
    "core",
]
WORKER = "engine.worker"
BASELINE = "bench.raw"


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_has_its_floor() -> None:
    rooms = {file.name for file in PACKAGE.iterdir() if file.is_dir() and file.name != "__pycache__"}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_run_downward_only(file: Path) -> None:
    room = name_of(file).split(".")[0]
    if room not in FLOORS:
        return
    above = set(FLOORS[: FLOORS.index(room)])
    for target in imported(file):
        if target.startswith("lmx_ledger."):
            assert target.split(".")[1] not in above, f"{name_of(file)} imports upward: {target}"


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_mlx_is_imported_in_the_worker_alone(file: Path) -> None:
    mlx = {t for t in imported(file) if t.split(".")[0] in {"mlx", "mlx_lm", "transformers", "torch"}}
    assert not mlx or name_of(file).startswith(WORKER) or name_of(file) == BASELINE


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_the_worker_knows_the_protocol_and_nothing_else_of_the_daemon(file: Path) -> None:
    if not name_of(file).startswith(WORKER):
        return
    ours = {t for t in imported(file) if t.startswith("lmx_ledger.")}
    allowed = tuple(f"lmx_ledger.engine.{room}" for room in ("kv", "protocol", "recorder", "worker"))
    assert all(t == "lmx_ledger.engine" or t.startswith(allowed) for t in ours), ours


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_a_module_says_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), f"{name_of(file)} has no docstring"
    assert file.stem not in {"utils", "helpers", "manager", "misc", "common"}


def test_the_daemon_can_be_imported_without_mlx() -> None:
    code = (
        "import sys, lmx_ledger.daemon.main, lmx_ledger.cli.main;"
        "sys.exit(bool({'mlx', 'mlx_lm', 'transformers', 'torch'} & {name.split('.')[0] for name in sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
