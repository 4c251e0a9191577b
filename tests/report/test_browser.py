"""Reports in a real browser: nothing is asked of anybody, nothing complains, nothing is wider than the page."""

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from lmx_ledger.report.html import html
from lmx_ledger.report.index import entries_of, index_page
from tests.report.test_hostile import HOSTILE, document_of

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPORTS: Final = Path(__file__).parents[2] / "reports"
_OWN: Final = ("google.com", "googleapis.com", "gstatic.com", "gvt1.com")
"""Whom a browser asks by itself, whatever the page."""
WIDTHS: Final = {"desktop": 1280, "phone": 390}


@contextmanager
def recording() -> Iterator[tuple[int, list[str]]]:
    """A proxy that has nothing for anybody: its port, and who was asked for through it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        do_CONNECT = do_POST = do_HEAD = do_GET  # noqa: N815 - the names that the server looks for

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(page: Path, profile: Path, *flags: str) -> tuple[str, str, list[str]]:
    """What the browser gives, what it complains of, and what the page had it ask for."""
    if CHROMIUM is None:
        message = "chromium is missing, reports were NOT looked at in a browser; run: make test-system"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with recording() as (port, asked):
        common = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
        common += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
        common += [f"--proxy-server=http://127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>"]
        common += ["--enable-logging=stderr", "--virtual-time-budget=4000"]
        done = subprocess.run(
            [CHROMIUM, *common, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
    foreign = [url for url in asked if not re.search("|".join(map(re.escape, _OWN)), url)]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(complaints), foreign


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {"example": REPORTS / "example.html", "hostile": folder / "hostile.html", "index": folder / "index.html"}
    found["hostile"].write_text(html(document_of(HOSTILE["html"] + HOSTILE["long"])))
    found["index"].write_text(index_page(entries_of(REPORTS)))
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["example", "hostile", "index"])
def test_a_page_asks_nobody_complains_of_nothing_and_fits(
    name: str, width: str, pages: dict[str, Path], tmp_path: Path
) -> None:
    # A frame has the width that is asked for, where a window has a least one.
    frame = tmp_path / "frame.html"
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    source = pages[name].read_text()
    assert len(policy.findall(source)) == 1
    inner = tmp_path / "inner.html"
    inner.write_text(policy.sub("", source).replace("</body>", _MEASURE + "</body>"))
    frame.write_text(
        f'<!doctype html><title>-</title><iframe src="{inner.name}" width="{WIDTHS[width]}" height="900"></iframe>'
        "<script>addEventListener('message', (e) => { document.title = e.data; });</script>"
    )
    seen, complaints, asked = run(frame, tmp_path / "profile", "--dump-dom")
    assert (complaints, asked) == ("", [])
    measured = re.search(r"<title>(\d+) of (\d+)</title>", seen)
    assert measured is not None, seen[:400]
    wide, room = map(int, measured.groups())
    assert wide <= room


_MEASURE: Final = (
    "<script>addEventListener('load', () => parent.postMessage("
    "`${document.documentElement.scrollWidth} of ${document.documentElement.clientWidth}`, '*'));</script>"
)


@pytest.mark.parametrize("name", ["example", "hostile"])
def test_a_page_as_it_is_is_printed_whole_and_asks_nobody(name: str, pages: dict[str, Path], tmp_path: Path) -> None:
    printed = tmp_path / "page.pdf"
    _, complaints, asked = run(pages[name], tmp_path / "profile", f"--print-to-pdf={printed}")
    assert (complaints, asked) == ("", [])
    assert printed.read_bytes().startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) >= 2
