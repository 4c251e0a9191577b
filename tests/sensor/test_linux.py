"""/proc and cgroups, as files: what is read, what is left out, and what is an error."""

import shutil
import sys
from pathlib import Path

import pytest

from lmx_ledger.core.sensed import MemoryReading
from lmx_ledger.sensor.linux import LinuxMemory
from lmx_ledger.sensor.reading import SensorError

RECORDED = Path(__file__).parents[1] / "fixtures" / "linux"
TOTAL = 24_684_084 * 1024
CACHE = 619_212_800 + 143_740_928
GB = 10**9


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    for name in ("meminfo", "vmstat"):
        shutil.copy(RECORDED / name, folder / name)
    return folder


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroup"
    folder.mkdir()
    return folder


def v2(folder: Path, limit: str, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    shutil.copy(RECORDED / "memory.stat", folder / "memory.stat")


def v1(folder: Path, limit: int, used: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("cache 9\ninactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200\n")


def bound(proc: Path, cgroup: Path, own: str) -> tuple[int | None, int | None]:
    (proc / "self" / "cgroup").write_text(own)
    reading = LinuxMemory(proc, cgroup).read()
    return reading.cgroup_limit_bytes, reading.cgroup_used_bytes


def test_a_recorded_machine_is_read(proc: Path, cgroup: Path) -> None:
    assert LinuxMemory(proc, cgroup, page_bytes=4096).read() == MemoryReading(
        total_bytes=TOTAL,
        available_bytes=9_542_940 * 1024,
        swap_used_bytes=2_097_152 * 1024,
        swap_in_bytes=1203 * 4096,
        swap_out_bytes=524_288 * 4096,
    )


def test_of_the_cgroups_up_to_the_root_the_one_with_the_least_room_counts(proc: Path, cgroup: Path) -> None:
    v2(cgroup / "lmx.slice", str(16 * GB), 15 * GB)
    v2(cgroup / "lmx.slice" / "lmx.service", str(8 * GB), 2 * GB)
    (cgroup / "lmx.slice" / "lmx.service" / "worker").mkdir()
    assert bound(proc, cgroup, "0::/lmx.slice/lmx.service/worker\n") == (16 * GB, 15 * GB - CACHE)


def test_the_pages_of_files_do_not_count_for_they_go_first(proc: Path, cgroup: Path) -> None:
    v2(cgroup / "a", str(8 * GB), CACHE // 2)
    assert bound(proc, cgroup, "0::/a\n") == (8 * GB, 0)


def test_what_stands_still_for_want_of_memory_is_read_where_the_kernel_keeps_it(proc: Path, cgroup: Path) -> None:
    (proc / "pressure").mkdir()
    file = proc / "pressure" / "memory"
    shutil.copy(RECORDED / "pressure_memory", file)
    reading = LinuxMemory(proc, cgroup).read()
    assert reading.stalled_some == pytest.approx(0.1234)
    assert reading.stalled_full == pytest.approx(0.035)
    for text in (b"some avg10=12.34 avg60=0.00\n", b"", b"\xff"):
        file.write_bytes(text)
        assert LinuxMemory(proc, cgroup).read().stalled_full is None


def test_no_limit_is_none(proc: Path, cgroup: Path) -> None:
    v2(cgroup / "a", "max", 2 * GB)
    v2(cgroup / "b", str(TOTAL), 2 * GB)
    assert bound(proc, cgroup, "0::/a\n") == bound(proc, cgroup, "0::/b\n") == (None, None)


def test_a_container_that_sees_its_own_cgroup_as_the_root_finds_its_limit(proc: Path, cgroup: Path) -> None:
    v2(cgroup, str(4 * GB), 2 * GB)
    expected = (4 * GB, 2 * GB - CACHE)
    for own in ("0::/\n", "0::/docker/0123\n", "0::/../0123\n"):
        assert bound(proc, cgroup, own) == expected


def test_version_1_is_read_where_it_has_the_memory(proc: Path, cgroup: Path) -> None:
    own = "9:name=systemd:/\n4:cpu,memory:/lmx/one\n0::/lmx\n"
    v2(cgroup / "lmx", str(1 * GB), 1 * GB)
    v1(cgroup / "memory", 9_223_372_036_854_771_712, 3 * GB)
    assert bound(proc, cgroup, own) == (None, None)
    v1(cgroup / "memory" / "lmx", 2 * GB, 1 * GB)
    v1(cgroup / "memory" / "lmx" / "one", 9_223_372_036_854_771_712, 1 * GB)
    assert bound(proc, cgroup, own) == (2 * GB, 1 * GB - 500)


def test_what_is_not_there_or_cannot_be_understood_is_left_out(proc: Path, cgroup: Path) -> None:
    v2(cgroup / "a", "many", 2 * GB)
    (proc / "vmstat").write_bytes(b"\xff\xfe")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 2000 kB\nSwapTotal: 5 kB\n")
    assert bound(proc, cgroup, "0::/a\n") == (None, None)
    assert LinuxMemory(proc, cgroup).read() == MemoryReading(total_bytes=1_024_000, available_bytes=1_024_000)
    (proc / "self" / "cgroup").unlink()
    (proc / "vmstat").unlink()
    assert LinuxMemory(proc, cgroup).read().total_bytes == 1_024_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"MemTotal: 1000 kB\n", "has no MemAvailable"),
        (b"MemAvailable: 1000 kB\n", "has no MemTotal"),
        (b"MemTotal: 0 kB\nMemAvailable: 0 kB\n", "no memory"),
        (b"", "has no MemTotal"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_without_its_size_and_what_is_available_there_is_no_reading(
    proc: Path, cgroup: Path, content: bytes | None, says: str
) -> None:
    (proc / "meminfo").unlink()
    if content is not None:
        (proc / "meminfo").write_bytes(content)
    with pytest.raises(SensorError, match=f"meminfo.*{says}"):
        LinuxMemory(proc, cgroup).read()


@pytest.mark.skipif(sys.platform != "linux", reason="reads this machine's /proc")
def test_this_machine_is_read() -> None:
    reading = LinuxMemory().read()
    assert 0 < reading.available_bytes <= reading.total_bytes
    assert reading.swap_out_bytes is not None
