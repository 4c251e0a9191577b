"""A bundle's file: whole, or refused with one line that says why."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_ledger.core.events import Recorded
from lmx_ledger.incident.bundle import form
from lmx_ledger.incident.bundle.form import BadBundle, Bundle, Manifest, file_name, written
from lmx_ledger.incident.bundle.opened import open_bundle
from tests.incident.bundles import Home, home_of_scenario

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return home_of_scenario(tmp_path_factory.mktemp("home"), "thermal")


def read(data: bytes) -> tuple[Manifest, list[Recorded]]:
    bundle = Bundle(io.BytesIO(data), "FILE")
    return bundle.manifest, list(bundle.events())


def again(data: bytes, change: Callable[[Lines], None], *, sealed: bool = True) -> bytes:
    """The file with its lines changed; `sealed`: by somebody who makes the seal right again."""
    lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
    change(lines)
    packed = [msgspec.json.encode(line) + b"\n" for line in lines]
    if sealed and "sha256" in lines[-1]:
        seal = {**lines[-1], "sha256": hashlib.sha256(b"".join(packed[:-1])).hexdigest()}
        packed[-1] = msgspec.json.encode(seal) + b"\n"
    return gzip.compress(b"".join(packed))


def test_what_was_written_is_read(home: Home) -> None:
    manifest, events = read(home.file.read_bytes())
    assert manifest.incident == home.incident.id
    assert len(events) == manifest.events
    assert (events[0].seq, events[-1].seq) == (manifest.first_seq, manifest.last_seq)
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert manifest.since_us < home.incident.started_us < manifest.until_us


def test_the_same_again_gives_the_same_bytes(home: Home) -> None:
    assert home.made() == home.made() == home.file.read_bytes()


def test_it_is_json_lines_that_anybody_can_look_at(home: Home) -> None:
    lines = [json.loads(line) for line in gzip.decompress(home.file.read_bytes()).splitlines()]
    assert lines[0]["format"] == "lmx-bundle"
    assert {"request ids", "model ids"} <= set(lines[0]["kept"])
    assert lines[0]["redacted"]["session"] > 0
    assert set(lines[-1]) == {"sha256", "mac"}


@given(data=st.data())
def test_cut_anywhere_it_is_refused(home: Home, data: st.DataObject) -> None:
    whole = home.file.read_bytes()
    with pytest.raises(BadBundle):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(data=st.data())
def test_with_any_bit_changed_it_is_refused_or_says_the_same(home: Home, data: st.DataObject) -> None:
    whole = bytearray(home.file.read_bytes())
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    whole[at] ^= 1 << bit
    try:
        found = read(bytes(whole))
    except BadBundle as error:
        assert "\n" not in str(error)
    else:
        # gzip's header has a time, an effort and a system that say nothing.
        assert 4 <= at <= 9
        assert found == read(home.file.read_bytes())


@given(junk=st.binary(max_size=2_000), packed=st.booleans())
def test_anything_else_is_no_bundle(junk: bytes, packed: bool) -> None:
    with pytest.raises(BadBundle):
        read(gzip.compress(junk) if packed else junk)


@given(text=st.text(max_size=200))
def test_any_other_json_is_no_bundle(text: str) -> None:
    for value in (text, [text], {"format": text}, {"format": "lmx-bundle", "form": text}):
        with pytest.raises(BadBundle, match="is no bundle of an incident"):
            read(gzip.compress(json.dumps(value).encode() + b"\n"))


def _severity(lines: Lines) -> None:
    lines[5]["severity"] = "critical"


def _without_one(lines: Lines) -> None:
    del lines[5]


def _twice(lines: Lines) -> None:
    lines.insert(5, lines[5])


def _swapped(lines: Lines) -> None:
    lines[5], lines[6] = lines[6], lines[5]


def _without_seal(lines: Lines) -> None:
    del lines[-1]


def _one_more(lines: Lines) -> None:
    lines.append(lines[-1])


def _with_more(lines: Lines) -> None:
    for line in lines:
        line["more"] = 1


@pytest.mark.parametrize("change", [_severity, _without_one, _twice, _swapped])
def test_what_was_altered_is_refused(home: Home, change: Callable[[Lines], None]) -> None:
    with pytest.raises(BadBundle, match="FILE is not as it was written"):
        read(again(home.file.read_bytes(), change, sealed=False))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without_one, "it has no seal|what stands where an event should be"),
        (_twice, "comes behind event"),
        (_swapped, "comes behind event"),
        (_without_seal, "it is cut"),
        (_one_more, "something behind its seal"),
        (lambda lines: lines[1].update(seq=-1), "comes behind event 0"),
        (lambda lines: lines[1].update(seq=2**70), "it begins with event|where an event should be"),
        (lambda lines: lines[1].update(id="evt_1"), "is no id of an event"),
        (lambda lines: lines[1].update(time="2020-01-01T00:00:00.000000Z"), "its id and its time differ"),
        (lambda lines: lines[1].update(time="long ago"), "where an event should be"),
        (lambda lines: lines[1].update(data=[]), "where an event should be"),
        (lambda lines: lines[1].update(severity="loud"), "where an event should be"),
        (lambda lines: lines[0].update(first_seq=0), "its manifest cannot be read"),
        (lambda lines: lines[0].update(events=0), "its manifest cannot be read"),
        (lambda lines: lines[0].update(head_hash="zz"), "its manifest cannot be read"),
        (lambda lines: lines[0].update(until="2020-01-01T00:00:00Z"), "ends before it begins"),
        (lambda lines: lines[0]["objectives"].update(ttft_s=0), "its manifest cannot be read"),
        (lambda lines: lines[0].pop("incident"), "its manifest cannot be read"),
        (lambda lines: lines[0].update(last_seq=3), "it ends with event"),
    ],
)
def test_what_cannot_be_is_refused_even_with_a_right_seal(
    home: Home, change: Callable[[Lines], None], why: str
) -> None:
    with pytest.raises(BadBundle, match=why):
        read(again(home.file.read_bytes(), change))


def test_a_later_form_is_said_and_what_is_added_to_this_one_is_passed_over(home: Home) -> None:
    with pytest.raises(BadBundle, match=r"was written by a newer lmx \(form 2, here 1\)"):
        read(again(home.file.read_bytes(), lambda lines: lines[0].update(form=2, events="all")))
    more = again(home.file.read_bytes(), _with_more)
    assert read(more) == read(home.file.read_bytes())


def test_what_is_behind_its_end_is_no_part_of_it(home: Home) -> None:
    whole = home.file.read_bytes()
    for tail in (b"\0", b"x", gzip.compress(b"{}\n")):
        with pytest.raises(BadBundle, match="has something behind its end"):
            read(whole + tail)


def test_what_unpacks_without_end_is_not_unpacked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadBundle, match="has a line that is longer"):
        read(gzip.compress(b" " * (form.LONGEST_LINE * 3)))
    monkeypatch.setattr(form, "MOST_BYTES", 1 << 17)
    with pytest.raises(BadBundle, match="is larger than any bundle is"):
        read(home.file.read_bytes())
    with pytest.raises(BadBundle, match="is too large for a bundle"):
        written(read_manifest(home), [b"x" * 1_000] * 200, b"key")


def read_manifest(home: Home) -> Manifest:
    return Bundle(io.BytesIO(home.file.read_bytes()), "FILE").manifest


def test_a_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    for file, why in ((tmp_path / "none\x1b[2J", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BadBundle, match=why) as error, open_bundle(file):
            pass
        assert "\x1b" not in str(error.value)


def test_a_seal_that_is_right_makes_no_ledger_of_what_is_none(home: Home, tmp_path: Path) -> None:
    def opener(lines: Lines) -> Any:
        return next(line for line in lines[1:-1] if line["type"] == "incident.opened")

    file = tmp_path / "made-up"
    for change, why in (
        (lambda lines: opener(lines).update(type="incident.none"), "has no event that opens its incident"),
        (lambda lines: opener(lines)["data"].update(started_at="never"), "holds events that this lmx cannot read"),
        (lambda lines: opener(lines)["data"].pop("title"), "holds events that this lmx cannot read"),
        (lambda lines: lines[1].update(v=2**64), "holds what no ledger does"),
    ):
        file.write_bytes(again(home.file.read_bytes(), change))
        with pytest.raises(BadBundle, match=why), open_bundle(file):
            pass


@given(name=st.text(max_size=120))
def test_its_file_has_a_name_that_leads_nowhere_else(name: str) -> None:
    assert Path(file_name(name)).name == file_name(name)
    assert file_name("inc_01KD3Y9A5S6D7F8G9H0J1K2L3M") == "inc_01KD3Y9A5S6D7F8G9H0J1K2L3M.bundle.gz"
