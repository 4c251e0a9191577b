"""A real browser on a page of another origin, and one that was rebound here, read, write and spend nothing."""

import http.server
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningDaemon

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PAGE = """<!doctype html><body><pre id="seen"></pre>
<form id="form" method="post" enctype="text/plain" target="frame" action="URL/v1/chat/completions">
<input name='{"messages":[{"role":"user","content":"spend' value='"}],"max_tokens":2}'></form>
<iframe name="frame"></iframe><img src="URL/v1/models"><script>
const seen = [];
const body = JSON.stringify({messages: [{role: "user", content: "spend"}], max_tokens: 2});
async function attempt(name, path, options) {
  try {
    const response = await fetch("URL" + path, options);
    const text = response.type === "opaque" ? "" : await response.text();
    seen.push(name + (text ? ": READ " + text : ": nothing"));
  } catch (error) { seen.push(name + ": nothing"); }
}
(async () => {
  await attempt("models", "/v1/models");
  await attempt("events", "/lmx/events");
  await attempt("health", "/healthz");
  await attempt("simple post", "/v1/chat/completions", {method: "POST", body});
  await attempt("blind post", "/v1/chat/completions", {method: "POST", body, mode: "no-cors"});
  await attempt("json post", "/v1/chat/completions",
    {method: "POST", body, headers: {"Content-Type": "application/json", "Authorization": "Bearer x"}});
  document.getElementById("form").submit();
  document.getElementById("seen").textContent = seen.join("\\n") + "\\ndone";
})();
</script></body>"""


@pytest.fixture(scope="module")
def foreign_origin(daemon: RunningDaemon) -> Iterator[str]:
    """A page on another port, which is another origin."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = PAGE.replace("URL", daemon.url).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def visit(url: str, profile: Path) -> str:
    """The page as it is after its scripts have run."""
    if CHROMIUM is None:
        message = "chromium is missing, what a browser may do was NOT tested; run: make test-system"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    flags += ["--host-resolver-rules=MAP evil.example 127.0.0.1", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *flags, url], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_a_page_of_another_origin_reads_nothing_and_spends_nothing(
    daemon: RunningDaemon, foreign_origin: str, tmp_path: Path
) -> None:
    before = len(daemon.events(type="request.received"))
    found = re.search(r'<pre id="seen">(.*?)</pre>', visit(foreign_origin, tmp_path), re.DOTALL)
    assert found is not None
    *attempts, last = found.group(1).splitlines()
    assert last == "done"
    assert len(attempts) == 6
    assert all(attempt.endswith(": nothing") for attempt in attempts), attempts
    assert len(daemon.events(type="request.received")) == before
    assert daemon.events(type="request.rejected")[-1]["data"]["code"] == "forbidden"


def test_a_name_that_was_rebound_to_this_machine_gets_a_refusal(daemon: RunningDaemon, tmp_path: Path) -> None:
    page = visit(f"http://evil.example:{daemon.port}/v1/models", tmp_path)
    assert "forbidden" in page
    assert "random" not in page


def test_the_same_address_typed_by_a_person_is_answered(daemon: RunningDaemon, tmp_path: Path) -> None:
    assert "random" in visit(f"{daemon.url}/v1/models", tmp_path)
