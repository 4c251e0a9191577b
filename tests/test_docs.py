"""The docs say what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATH = re.compile(r"`((?:lmx_ledger|tests|migrations|scripts|docs)/[\w./-]+)`")


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in PATH.findall(page.read_text()):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_functions_that_the_architecture_names_are_in_the_file_it_names() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`(lmx_ledger/[\w/]+\.py)`[^`\n]*`(\w+)(?:\.(\w+))?`", text)
    assert len(named) >= 12, "the page follows a request through named functions"
    for file, name, member in named:
        source = (ROOT / file).read_text()
        assert re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", source, re.M), f"{file} has no {name}"
        if member:
            assert re.search(rf"^\s+(?:async )?def {member}\b", source, re.M), f"{file} has no {name}.{member}"


def test_the_lock_holds_names_and_versions_only() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line), line


def test_the_commands_in_the_readme_exist() -> None:
    commands = re.findall(r"^    \$ (?:.*\| )?lmx ([a-z ]+?)(?: -.*)?$", (ROOT / "README.md").read_text(), re.M)
    assert len(commands) >= 4
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", "lmx_ledger.cli", *words.split(), "--help"], check=False, capture_output=True
        )
        assert done.returncode == 0, words
