"""Makes the postmortem that reports/ has as its example: the demo model, people who ask, and a rehearsed flood.

`make example`, about three minutes. The daemon writes the postmortem itself, when the incident is resolved; the three
files of it are then put into reports/ as example.md, example.html and example.json.
"""

import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from lmx_ledger.report.html import html
from lmx_ledger.report.markdown import markdown
from lmx_ledger.report.write import json_of, read_json
from tests.conftest import RunningDaemon

REPORTS: Final = Path(__file__).parents[1] / "reports"
_CONFIG: Final = """
[queue]
max_running = 4
max_choices = 2
[guard]
queue_wait = "3s"
[slo.ttft]
threshold = "2s"
min_events = 100000
[slo.admission]
enabled = false
[slo.queue_wait]
enabled = false
[incidents]
resolve_after = "30s"
[drills]
enabled = true
"""
_QUESTIONS: Final = (
    "What is LMX?",
    "How do I get a real model?",
    "What happens when memory is full?",
    "How do I stop the server?",
    "Where is the ledger?",
    "What does 429 mean?",
    "How do I see why a request was slow?",
    "What is a drill?",
)
_PEOPLE: Final = ("ada", "grace", "edsger")
_QUIET_S: Final = 45.0
_FLOOD_S: Final = 25.0
_SESSIONS: Final = 80
_TURNS: Final = 8


def person(url: str, name: str, stopped: threading.Event) -> None:
    """Somebody who goes on with conversations, at the pace of one who reads the answers."""
    rng = random.Random(name)
    conversation, history = 0, list[dict[str, str]]()
    while not stopped.wait(rng.uniform(1.0, 3.0)):
        if len(history) >= 2 * _TURNS:
            conversation, history = conversation + 1, []
        history.append({"role": "user", "content": rng.choice(_QUESTIONS)})
        answer = httpx.post(
            f"{url}/v1/chat/completions",
            json={"messages": history, "max_tokens": 64},
            headers={"X-Session-ID": f"{name}-{conversation}", "User-Agent": "notebook/1.4"},
            timeout=120,
        )
        if answer.status_code != 200:
            history.pop()
            stopped.wait(float(answer.headers.get("Retry-After", 1)))
            continue
        history.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})


def main() -> None:
    """Load, flood, wait, copy."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = RunningDaemon(Path(folder) / "home", _CONFIG).wait_ready()
        stopped = threading.Event()
        people = [threading.Thread(target=person, args=(daemon.url, name, stopped)) for name in _PEOPLE]
        try:
            for one in people:
                one.start()
            time.sleep(_QUIET_S)
            order = {"kind": "flood", "for_s": _FLOOD_S, "sessions": _SESSIONS}
            daemon.post("/lmx/drills", order).raise_for_status()
            opened = daemon.wait_event("incident.opened")
            time.sleep(8)
            daemon.post(f"/lmx/incidents/{opened['incident']}/ack", {}).raise_for_status()
            until = time.monotonic() + 600
            while not (written := daemon.events(type="incident.report_written", incident=opened["incident"])):
                if time.monotonic() > until:
                    raise SystemExit("the incident is not over")
                time.sleep(1)
            stopped.set()
            for one in people:
                one.join()
        finally:
            stopped.set()
            daemon.stop()
        names = {Path(name).suffix: name for name in written[-1]["data"]["files"]}
        made = (Path(written[-1]["data"]["folder"]) / names[".json"]).read_bytes()
        # Where the daemon's home lay is nobody's business.
        document = read_json(made.replace(folder.encode(), b"/srv/lmx"))
    for suffix, content in (
        (".json", json_of(document)),
        (".md", markdown(document).encode()),
        (".html", html(document).encode()),
    ):
        (REPORTS / f"example{suffix}").write_bytes(content)
        print(REPORTS / f"example{suffix}")


if __name__ == "__main__":
    main()
