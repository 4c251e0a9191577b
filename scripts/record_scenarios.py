"""Records the ledgers that incidents are tested with: a real daemon, a load, and one fault put into it.

`make scenarios`, or `python scripts/record_scenarios.py NAME...`. Each is NAME.ndjson.gz in tests/incident/scenarios/,
all events as the contract has them, with NAME.json beside it: what was injected, when, and which hypothesis is the
right one. A recording takes about a minute and a half; what it measures is this machine's. `prevented/NAME` is the same
load under a setting that a replay of NAME says would have prevented it.
"""

import contextlib
import gzip
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from lmx_ledger.bench.model import Shape, write_bench_model
from lmx_ledger.core.clock import parse_rfc3339, rfc3339, utc_us
from tests.conftest import RunningDaemon

FOLDER: Final = Path(__file__).parents[1] / "tests" / "incident" / "scenarios"
_VOCABULARY: Final = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "model", "pages")
_BASELINE_S: Final = 20.0
_MOST_EVENTS: Final = 2_000
_COMMON: Final = """
[sensors]
every = "500ms"
[guard]
queue_wait = "2s"
dwell = "1s"
exit_after = "3s"
shed_after = "60s"
cool_after = "3s"
safe_dwell = "2s"
[drills]
enabled = true
"""


@dataclass
class Load:
    """Clients that each go on with conversations of their own; what they ask can be changed while they run."""

    url: str
    models: list[str]
    pause_s: float = 1.4
    clients: int = 3
    max_tokens: int = 12
    system: Callable[[int], str] = lambda _: "You are a helper of few words, and polite to everybody who asks you."
    sessions_each: int = 1
    turns: int = 6
    model_of: Callable[[int, int], int] = lambda *_: 0
    stopped: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        for number in range(self.clients):
            thread = threading.Thread(target=self._client, args=(number,), daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self) -> None:
        """End, when what was asked is answered."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def _client(self, number: int) -> None:
        histories: dict[int, list[dict[str, str]]] = {}
        asked = 0
        rng = random.Random(number)
        self.stopped.wait(number * self.pause_s / self.clients)
        while not self.stopped.is_set():
            which = asked % self.sessions_each
            history = histories.setdefault(which, [])
            if len(history) >= 2 * self.turns:
                history.clear()
            history.append({"role": "user", "content": f"Question {asked} of {number}: {_words(rng, 30)}"})
            messages = [{"role": "system", "content": self.system(asked)}, *history]
            body = {
                "model": self.models[self.model_of(number, asked)],
                "messages": messages,
                "max_tokens": self.max_tokens,
                "temperature": 0,
            }
            headers = {"X-Session-ID": f"team-{number}-{which}-{asked // (self.turns * self.sessions_each)}"}
            answer = post(self.url, body, headers)
            text = answer["choices"][0]["message"]["content"] if answer else ""
            history.append({"role": "assistant", "content": text or "-"})
            asked += 1
            self.stopped.wait(self.pause_s)


def post(url: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any] | None:
    """The answer; None where it was refused."""
    with contextlib.suppress(httpx.HTTPError):
        response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
        if response.status_code == 200:
            found: dict[str, Any] = response.json()
            return found
    return None


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(_VOCABULARY) for _ in range(count))


@dataclass(frozen=True)
class Scenario:
    """One fault: what makes it, how the daemon is set up, what is asked, and which hypothesis is right."""

    kind: str
    title: str
    inject: Callable[[RunningDaemon, Load], int]
    config: str = ""
    models: int = 1
    layers: int = 2
    for_s: float = 15.0
    after_s: float = 12.0
    load: dict[str, Any] = field(default_factory=dict)


def drill(kind: str, for_s: float, **arguments: Any) -> Callable[[RunningDaemon, Load], int]:
    """A rehearsal of the daemon's own."""

    def inject(daemon: RunningDaemon, _: Load) -> int:
        daemon.post("/lmx/drills", {"kind": kind, "for_s": for_s, **arguments}).raise_for_status()
        return parse_rfc3339(daemon.wait_event("drill.started")["time"])

    return inject


def crash_again_and_again(daemon: RunningDaemon, _: Load) -> int:
    """Whatever worker serves gets SIGSEGV, until the breaker opens."""
    pids = daemon.worker_pids()
    began_us = utc_us()
    for pid in pids:
        os.kill(pid, signal.SIGSEGV)
    until = time.monotonic() + 12
    while time.monotonic() < until and not daemon.events(type="breaker.opened"):
        for pid in daemon.worker_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSEGV)
        time.sleep(0.3)
    return began_us


def nonce(_: RunningDaemon, load: Load) -> int:
    """Each request begins with a number of its own: nothing behind it can be used again."""
    before = load.system
    rng = random.Random(1)
    load.system = lambda asked: f"cch={rng.randrange(16**8):08x}; {before(asked)}"
    return utc_us()


def alternate(_: RunningDaemon, load: Load) -> int:
    """Requests go to models in turn that do not fit together."""
    load.model_of = lambda client, asked: (client + asked) % len(load.models)
    return utc_us()


def long_prompts(daemon: RunningDaemon, load: Load) -> int:
    """One tenant asks with whole books."""

    def tenant(number: int) -> None:
        rng = random.Random(99 + number)
        while not load.stopped.is_set():
            body = {
                "model": load.models[0],
                "messages": [{"role": "user", "content": _words(rng, 900)}],
                "max_tokens": 8,
                "temperature": 0,
            }
            post(daemon.url, body, {"User-Agent": "bulk-import/1.0"})

    began_us = utc_us()
    for number in range(2):
        thread = threading.Thread(target=tenant, args=(number,), daemon=True)
        thread.start()
        load.threads.append(thread)
    return began_us


def no_line(daemon: RunningDaemon, _: Load) -> int:
    """A configuration that lets nobody wait is read (SIGHUP)."""
    file = daemon.home / "config.toml"
    file.write_text(file.read_text().replace("max_waiting = 64", "max_waiting = 0"))
    daemon.process.send_signal(signal.SIGHUP)
    return utc_us()


_LONG_SYSTEM: Final = " ".join(f"Rule {n}: answer politely, briefly and in whole sentences." for n in range(30))
_TTFT: Final = '[slo.ttft]\nthreshold = "{}"\ntarget = 0.95\nmin_events = 5\n'

SCENARIOS: Final[dict[str, Scenario]] = {
    "thermal": Scenario(
        "thermal", "the GPU's clock drops by 21 %", drill("thermal", 12.0), after_s=14.0,
        config="[context]\nsafe_mode_tokens = 600\n",
    ),
    "swap": Scenario("swap_thrash", "the machine swaps", drill("swap", 18.0), for_s=18.0, after_s=22.0),
    "engine-hang": Scenario(
        "engine_hang", "the worker is stopped while it has work", drill("engine-hang", 10.0), for_s=12.0,
        load={"pause_s": 0.8},
    ),
    "crash-loop": Scenario(
        "worker_crash", "the worker dies again and again", crash_again_and_again, config="[engine]\nstandby = false\n",
        for_s=14.0, load={"pause_s": 0.8},
    ),
    "flood": Scenario(
        "session_flood", "forty clients with new sessions", drill("flood", 10.0, sessions=40), for_s=12.0, layers=4,
        load={"pause_s": 2.0, "clients": 2}, config="[queue]\nmax_running = 2\nmax_choices = 1\n",
    ),
    "paging-storm": Scenario(
        "paging_storm", "requests go to models in turn that do not fit together", alternate, models=3, layers=8,
        config=f"[memory]\nlimit = 100000000\n{_TTFT.format('150ms')}", for_s=40.0, after_s=2.0, load={"pause_s": 1.0},
    ),
    "broken-prefix": Scenario(
        "broken_prefix", "each request begins with a nonce", nonce, for_s=40.0, after_s=2.0,
        config="[slo.cache_hit]\ntarget = 0.97\nmin_events = 5\n" + _TTFT.format("100ms"),
        load={"system": lambda _: _LONG_SYSTEM, "pause_s": 1.6, "turns": 40},
    ),
    "slow-disk": Scenario(
        "slow_disk", "the disk reads and writes 300 KB a second", drill("slow-disk", 40.0, bytes_per_s=300_000),
        config="[kv]\nram = 3000000\n" + _TTFT.format("400ms"), for_s=42.0, after_s=2.0,
        load={"sessions_each": 4, "pause_s": 1.6, "system": lambda _: _LONG_SYSTEM[:1500]},
    ),
    "long-prompts": Scenario(
        "long_prompts", "one tenant asks with whole books", long_prompts, for_s=40.0, after_s=2.0,
        config="[queue]\nmax_running = 4\nmax_choices = 1\n" + _TTFT.format("300ms"), load={"pause_s": 1.6},
    ),
    "bad-config": Scenario(
        "bad_configuration", "a configuration that lets nobody wait is read", no_line, for_s=40.0, after_s=2.0,
        config="[queue]\nmax_running = 1\nmax_waiting = 64\nmax_choices = 1\n[slo.admission]\n"
        "target = 0.97\nmin_events = 5\n", load={"pause_s": 0.3, "max_tokens": 60},
    ),
}  # fmt: skip

_STORM: Final = SCENARIOS["paging-storm"]
PREVENTED: Final[dict[str, Scenario]] = {
    "prevented/paging-storm": replace(_STORM, config=_STORM.config.replace("limit = 100000000", "limit = 220000000")),
}


def record(name: str, scenario: Scenario) -> int:
    """One recording; how many events it has."""
    with tempfile.TemporaryDirectory() as folder:
        models = [
            write_bench_model(Path(folder) / f"m{n}", Shape(scenario.layers), seed=n) for n in range(scenario.models)
        ]
        served = "".join(f'[[models]]\nid = "m{n}"\npath = "{path}"\n' for n, path in enumerate(models))
        engine = '[engine]\nblas = "openblas"\nhang_timeout = "4s"\n'
        more = scenario.config
        if "[engine]\n" in more:
            more = more.replace("[engine]\n", engine)
            engine = ""
        daemon = RunningDaemon(Path(folder) / "home", _COMMON + engine + more + served).wait_ready()
        try:
            load = Load(daemon.url, [f"m{n}" for n in range(scenario.models)], **scenario.load)
            load.start()
            time.sleep(_BASELINE_S)
            injected_us = scenario.inject(daemon, load)
            time.sleep(max(scenario.for_s - (utc_us() - injected_us) / 1e6, 0))
            load.stopped.wait(scenario.after_s)
            # Objectives are judged by the minute: what burns is told at the next one.
            load.stop()
            time.sleep(max(0.0, _next_minute(daemon)) if scenario.after_s <= 2.0 else 0.0)
            daemon.wait_event("incident.opened")
            events = _all_events(daemon)
        finally:
            daemon.stop()
    (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
    (FOLDER / f"{name}.ndjson.gz").write_bytes(gzip.compress(_of_no_machine(lines, Path(folder)).encode(), mtime=0))
    told = {"injected_at": rfc3339(injected_us), "kind": scenario.kind, "what": scenario.title, "events": len(events)}
    (FOLDER / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n")
    return len(events)


def _of_no_machine(lines: str, folder: Path) -> str:
    """Without what only names the machine that it was recorded on: where things lay, and its kernel."""
    places = {str(folder): "/srv/models", str(Path(__file__).parents[1]): "/opt/lmx", sys.base_prefix: "/usr"}
    for place, instead in sorted(places.items(), key=lambda pair: -len(pair[0])):
        lines = lines.replace(place, instead)
    return lines.replace(platform.platform(), "Linux-6.12.0-x86_64-with-glibc2.36")


def _next_minute(daemon: RunningDaemon) -> float:
    """Seconds until the objectives have been judged once more, if nothing burns yet."""
    if daemon.events(type="slo.burn_alerted"):
        return 0.0
    uptime = daemon.get("/lmx/status")["uptime_s"]
    return 60.0 - float(uptime) % 60.0 + 6.0


def _all_events(daemon: RunningDaemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := daemon.events(after=found[-1]["seq"] if found else 0):
        found += page
    return found


def main() -> None:
    """Record what is named, or all."""
    known = SCENARIOS | PREVENTED
    for name in sys.argv[1:] or known:
        began = time.monotonic()
        count = record(name, known[name])
        much = "" if count <= _MOST_EVENTS else ", more than there should be"
        print(f"{name}: {count} events in {time.monotonic() - began:.0f} s{much}", flush=True)


if __name__ == "__main__":
    main()
