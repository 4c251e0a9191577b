"""A real browser on a digest: it finds nothing to complain of, runs nothing and fetches nothing."""

import os
import subprocess
from pathlib import Path

import pytest

from lmx_ledger.report.digest.html import html
from tests.report.digest import parts
from tests.server.test_browser import CHROMIUM


def complaints(page: str, folder: Path) -> list[str]:
    """What stands on the browser's console behind the page: the page forbids all fetching, so each try is there."""
    if CHROMIUM is None:
        message = "chromium is missing, what a browser makes of a digest was NOT tested; run: make test-system"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    file = folder / "page.html"
    file.write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-sync", "--disable-component-update", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "</html>" in done.stdout
    return [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]


def test_a_digest_is_shown_without_a_complaint_and_fetches_nothing(tmp_path: Path) -> None:
    page = html(parts.made(parts.write(tmp_path / "home", parts.two_weeks())))
    assert complaints(page, tmp_path) == []
    fetching = page.replace("</main>", '<img src="https://evil.example/a.png"></main>')
    assert "evil.example" in "".join(complaints(fetching, tmp_path))
