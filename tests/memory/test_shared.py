"""One account for all daemons of a home."""

import json
import subprocess
import sys
from pathlib import Path

from lmx_ledger.memory.shared import SharedAccount

LIMIT = 100

OTHER = """
import sys
from pathlib import Path
from lmx_ledger.memory.shared import SharedAccount
account = SharedAccount(Path(sys.argv[1]), "other")
print(account.reserve(60, 100), flush=True)
sys.stdin.readline()
"""


def test_what_one_daemon_has_another_one_cannot_have(tmp_path: Path) -> None:
    own = SharedAccount(tmp_path, "own")
    assert own.reserve(30, LIMIT)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert own.others() == 60
        assert not own.reserve(41, LIMIT)
        assert own.reserve(40, LIMIT)
        own.release(10)
        other.kill()
        other.wait()
    assert own.others() == 0
    assert own.reserve(LIMIT, LIMIT)


def test_files_that_are_no_account_do_not_count(tmp_path: Path) -> None:
    account = SharedAccount(tmp_path, "own")
    (tmp_path / "memory" / "torn.json").write_text('{"pid": 1')
    (tmp_path / "memory" / "gone.json").write_text(json.dumps({"pid": 2**22 + 1, "create_time": 1.0, "bytes": 50}))
    assert account.others() == 0
    assert account.reserve(1, 1)
    account.close()
    assert not list((tmp_path / "memory").glob("*.json"))
