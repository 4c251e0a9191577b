"""Output that cannot be written, streams that are closed, arguments that are no text: one line, exit status 1."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.parts import PATIENCE_S, command, environment, nowhere

COMMANDS = [("--version",), ("--help",), ("doctor",), ("doctor", "--json"), ("serve", "start", "--help")]


def shell(redirect: str, *arguments: str | bytes, home: Path) -> subprocess.CompletedProcess[bytes]:
    script = f'exec "$@" {redirect}'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command(), *arguments],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        env=environment(home),
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_output_to_a_full_disk_is_one_line_and_status_1(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = shell(">/dev/full", *arguments, home=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lmx: the output could not be written: ")
    assert "No space left" in line


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_stdout_is_one_line_and_status_1(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = shell(">&-", *arguments, home=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("lmx: stdout is closed")


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_leaves_the_exit_status_as_it_is(redirect: str, tmp_path: Path) -> None:
    if "full" in redirect and not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    done = shell(redirect, "serve", "status", "--url", nowhere(), home=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"", b"")


def test_a_file_that_is_opened_never_becomes_stderr(tmp_path: Path) -> None:
    script = "import os, sys; from lmx_ledger.cli.main import lmx; sys.argv = ['lmx', '--version']\n"
    script += "try: lmx()\nexcept SystemExit: pass\nassert os.open('/dev/null', os.O_RDONLY) > 2\nprint('fine')"
    python = command()[0]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- 2>&-', "sh", python, "-c", script], capture_output=True, check=False
    )
    assert done.stdout.decode().splitlines()[-1] == "fine"


@pytest.mark.parametrize(
    "arguments",
    [
        ("events", "--request", b"\xff"),
        ("serve", "start", "--config", b"/tmp/\xff"),
        (b"\xfe",),
        ("doctor", "--home", b"\xff"),
    ],
    ids=str,
)
def test_an_argument_that_is_not_utf8_is_one_line_and_status_1(
    arguments: tuple[str | bytes, ...], tmp_path: Path
) -> None:
    done = shell("", *arguments, home=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"lmx: argument {len(arguments)} is not UTF-8: ")
