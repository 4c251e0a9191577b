"""A postmortem from a bundle: the ledger's, but for the names, and the same on every machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmx_ledger.core.slo_section import TtftSection
from lmx_ledger.incident.bundle.form import Manifest
from lmx_ledger.incident.bundle.opened import Opened, open_bundle
from lmx_ledger.ledger.filter import EventFilter
from lmx_ledger.report.from_ledger import FORMS, as_form, postmortem, postmortem_of_bundle
from lmx_ledger.report.write import json_of
from tests.incident.bundles import Home, differences, home_of_scenario, renamed
from tests.incident.parts import NAMES

FOOTER = (".integrity.verify", ".integrity.bundle", ".notes")


@pytest.fixture(scope="module", params=NAMES)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    found = home_of_scenario(tmp_path_factory.mktemp(request.param), request.param)
    yield found
    found.reader.close()


@pytest.fixture(scope="module")
def opened(home: Home) -> Iterator[Opened]:
    with open_bundle(home.file) as found:
        yield found


def of_ledger(home: Home, opened: Opened) -> dict[str, Any]:
    """The ledger's own postmortem under the objectives that were in force, its names exchanged for the bundle's."""
    document = postmortem(home.ledger, home.reader, home.incident, opened.manifest.until_us)
    events = home.reader.events(EventFilter(limit=100_000))
    found: dict[str, Any] = json.loads(renamed(home, json_of(document).decode(), events))
    return found


def test_it_says_what_the_ledgers_says_but_for_names_and_free_text(home: Home, opened: Opened) -> None:
    mine, its = of_ledger(home, opened), json.loads(json_of(postmortem_of_bundle(opened)))
    differ = [one for one in differences(mine, its) if one[0] not in FOOTER]
    assert [one for one in differ if "[redacted]" not in str(one[2])] == []
    assert mine["notes"] == its["notes"][1:]


def test_its_footer_has_the_ledgers_own_head_and_says_what_it_was_written_from(home: Home, opened: Opened) -> None:
    mine, its = of_ledger(home, opened)["integrity"], postmortem_of_bundle(opened)
    assert its.integrity is not None
    assert (its.integrity.head_seq, its.integrity.head_hash) == (mine["head_seq"], mine["head_hash"])
    assert its.integrity.signed_seq == mine["signed_seq"] > 0
    assert its.notes[0].startswith("This was written from a redacted bundle")
    for form in ("md", "html"):
        text = as_form(its, form).decode()
        assert "lmx ledger verify --bundle FILE" in text
        assert "For its owner, to prove the bundle" in text or "For the ledger's owner, to prove the bundle" in text
        assert mine["head_hash"] in text


def test_the_objectives_are_those_that_were_in_force(home: Home, opened: Opened) -> None:
    (loaded,) = home.reader.events(EventFilter(types=("config.loaded",), limit=1))
    configured = loaded.data["changed"].get("slo", {}).get("ttft", {}).get("threshold")
    assert opened.manifest.objectives.ttft_s == (configured or TtftSection().threshold)


def test_a_ledger_that_was_altered_is_told_of_first(home: Home) -> None:
    with open_bundle(home.file) as found:
        altered = found._replace(manifest=_broken(found))
        document = postmortem_of_bundle(altered)
    assert document.notes[0].startswith(
        "The ledger that the bundle was made from is not as it was written from event 7"
    )
    assert document.notes[1].startswith("This was written from a redacted bundle")


def _broken(opened: Opened) -> Manifest:
    return msgspec.structs.replace(opened.manifest, broken_from=7)


_ELSEWHERE = """
import sys
from pathlib import Path
from lmx_ledger.incident.bundle.form import Manifest
from lmx_ledger.incident.bundle.opened import open_bundle
from lmx_ledger.report.from_ledger import as_form, postmortem_of_bundle
with open_bundle(Path(sys.argv[1])) as opened:
    sys.stdout.buffer.write(as_form(postmortem_of_bundle(opened), sys.argv[2]))
"""


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_same_in_another_zone_in_another_folder_at_another_time(tmp_path: Path, form: str) -> None:
    home = home_of_scenario(tmp_path, "engine-hang")
    home.reader.close()
    written = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        there = tmp_path / f"machine-{number}"
        there.mkdir()
        file = Path(shutil.copy(home.file, there / f"name-{number}.gz"))
        env = {**os.environ, "TZ": zone, "PYTHONHASHSEED": str(number), "TMPDIR": str(there), "LMX_HOME": str(there)}
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE, str(file), form], capture_output=True, check=True, env=env
        )
        written.append(done.stdout)
    assert written[0] == written[1]
    assert len(written[0]) > 5_000
