"""`lmx incidents digest`, `/lmx/digest`: the same bytes with and without a daemon; words for what is asked wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from lmx_ledger.core.clock import rfc3339, utc_us
from lmx_ledger.core.week import week_before
from lmx_ledger.report.digest.write import read_json
from tests.cli.parts import document, lmx, nowhere
from tests.conftest import RunningDaemon
from tests.report.digest import parts
from tests.report.digest.parts import WEEK


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    parts.write(folder, parts.two_weeks())
    return folder


def digest(home: Path, *arguments: str, url: str | None = None) -> str:
    done = lmx("incidents", "digest", *arguments, "--url", url or nowhere(), home=home)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_daemon_the_ledger_is_read_and_stderr_says_so(home: Path) -> None:
    done = lmx("incidents", "digest", "--week", "2026-W11", "--url", nowhere(), home=home)
    assert "reading" in done.stderr
    assert done.stdout.startswith("# Week 2026-W11\n")
    told = document(lmx("incidents", "digest", "--week", "2026-W11", "--json", "--url", nowhere(), home=home))
    assert told["header"]["requests"] == 74
    since = ("--since", rfc3339(WEEK.since_us), "--until", rfc3339(WEEK.until_us))
    assert digest(home, *since) == done.stdout


def test_the_week_that_ended_last_is_told_of_without_a_word(home: Path) -> None:
    text = digest(home)
    assert text.startswith(f"# Week {week_before(utc_us()).week}")
    assert "The ledger has nothing of this time" in text


@pytest.mark.parametrize("form", ["md", "html", "json"])
def test_it_is_written_the_same_twice(home: Path, tmp_path: Path, form: str) -> None:
    written = []
    for name in ("one", "two"):
        digest(home, "--week", "2026-W11", "--format", form, "--out", str(tmp_path / name))
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_a_folder_gets_all_three_forms_and_an_index(home: Path, tmp_path: Path) -> None:
    files = document(
        lmx(
            *("incidents", "digest", "--week", "2026-W11", "--into", str(tmp_path / "reports"), "--json"),
            *("--url", nowhere()),
            home=home,
        )
    )
    assert {Path(file).name for file in files.values()} == {
        f"digest-2026-W11.{form}" for form in ("json", "md", "html")
    }
    assert "digest-2026-W11" in (tmp_path / "reports" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--week", "last"), "write it like 2026-W47"),
        (("--week", "2026-W99"), "there is no week 99"),
        (("--week", "9998-W01"), "has not begun yet"),
        (("--week", "2026-W11", "--since", "7d"), "give week, or since and until"),
        (("--since", "never"), "neither a duration"),
        (("--since", "90d"), "at most 31 days"),
        (("--format", "pdf"), "'md', 'html', 'json'"),
        (("--out", "a", "--into", "b"), "--out or --into"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_asked_wrong_is_said_with_what_to_do(home: Path, arguments: tuple[str, ...], said: str) -> None:
    done = lmx("incidents", "digest", *arguments, "--url", nowhere(), home=home)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_a_place_that_cannot_be_written_says_why(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for option, place in (("--out", tmp_path / "no" / "x"), ("--into", tmp_path / "file")):
        done = lmx("incidents", "digest", "--week", "2026-W11", option, str(place), "--url", nowhere(), home=home)
        assert done.returncode == 1
        assert str(place) in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_what_strangers_wrote_cannot_fool_a_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;owned\x07<img src=x onerror=alert(1)> **bold** \u202egnp.exe"
    events = [
        msgspec.structs.replace(event, session=event.session and bad, model=event.model and bad)
        for event in parts.two_weeks()
    ]
    parts.write(tmp_path, events)
    text = digest(tmp_path, "--week", "2026-W11")
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "gnp.exe" in text


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_config: str) -> Iterator[RunningDaemon]:
    """A daemon on a ledger that has two weeks already."""
    folder = tmp_path_factory.mktemp("served")
    parts.write(folder, parts.two_weeks())
    running = RunningDaemon(folder, model_config).wait_ready()
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.mark.parametrize("form", ["md", "html", "json"])
def test_a_daemon_gives_the_same_bytes_as_the_ledger_alone(home: Path, served: RunningDaemon, form: str) -> None:
    alone = digest(home, "--week", "2026-W11", "--format", form)
    assert digest(served.home, "--week", "2026-W11", "--format", form, url=served.url) == alone
    answer = httpx.get(f"{served.url}/lmx/digest", params={"week": "2026-W11", "format": form}, timeout=60)
    assert answer.text == alone
    kind = {"md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8", "json": "application/json"}
    assert answer.headers["content-type"] == kind[form]


def test_a_request_of_just_now_is_in_the_digest_of_today(served: RunningDaemon) -> None:
    served.chat()
    served.wait_event("request.finished")
    told = read_json(httpx.get(f"{served.url}/lmx/digest?since=1h&format=json", timeout=60).content)
    assert told.total.answered == 1
    assert told.models[0].name == "chain"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("week=soon", "week"),
        ("week=9998-W01", "week"),
        ("since=yesterday", "since"),
        ("since=90d", "since"),
        ("format=pdf", "format"),
        ("model=m0", "model"),
        ("week=%1b%5b31m", "week"),
    ],
)
def test_the_route_says_what_is_wrong(served: RunningDaemon, query: str, param: str) -> None:
    answer = httpx.get(f"{served.url}/lmx/digest?{query}", timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_ledger_that_cannot_be_read_is_a_typed_answer(
    start_daemon: Callable[[str], RunningDaemon], model_config: str
) -> None:
    running = start_daemon(model_config)
    (running.home / "ledger.db").rename(running.home / "moved.db")
    answer = httpx.get(f"{running.url}/lmx/digest", timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "ledger_unavailable"
    (running.home / "moved.db").rename(running.home / "ledger.db")
    assert httpx.get(f"{running.url}/lmx/digest", timeout=30).status_code == 200
