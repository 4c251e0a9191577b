"""What the tab key does, in a real shell."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.parts import environment
from tests.models import write_test_model

BIN = Path(sys.executable).parent


def in_bash(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**environment(home), "HOME": str(home), "PATH": f"{BIN}:/usr/bin:/bin"}
    # The trailing `true` keeps bash from replacing itself by the command: it looks for the shell that called it.
    return subprocess.run(
        ["bash", "--norc", "-c", script + "\ntrue"], capture_output=True, text=True, env=environ, timeout=60, check=True
    )


def completed(line: str, home: Path, program: str = "lmx") -> list[str]:
    """What is offered behind a line; the last word is the one that is being typed."""
    words = line.split(" ")
    script = f"""
        eval "$({program} --show-completion)"
        COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}")
        COMP_CWORD={len(words) - 1}
        _{program}_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return in_bash(script, home).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lmx se", ["serve", "sessions"]),
        ("lmx serve st", ["start", "stop", "status"]),
        ("lmx events --sev", ["--severity"]),
    ],
)
def test_commands_and_options_are_completed(line: str, offered: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == offered


def test_the_group_under_its_other_name_is_completed_too(tmp_path: Path) -> None:
    assert completed("opta serve sto", tmp_path, "opta") == ["stop"]


def test_models_are_completed_from_the_store(tmp_path: Path) -> None:
    write_test_model(tmp_path / "models" / "some-org" / "tiny")
    assert completed("lmx serve start --model ", tmp_path) == ["lmx-demo", "some-org/tiny"]
    assert completed("lmx chat --model some", tmp_path) == ["some-org/tiny"]


def test_it_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    done = in_bash("lmx --install-completion", tmp_path)
    assert "bash completion installed" in done.stdout
    assert ".bash_completions/lmx.sh" in (tmp_path / ".bashrc").read_text()
