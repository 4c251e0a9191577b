"""The file: made privately, migrated once, refused when it is not ours."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from lmx_ledger.ledger.query import Reader
from lmx_ledger.ledger.schema import REVISION, AnyValue, metadata
from lmx_ledger.ledger.store import LedgerMissing, LedgerUnusable, migrate, migrations_folder
from lmx_ledger.ledger.writer import Ledger
from tests.ledger.parts import queued, write, writing


def test_the_file_and_its_companions_are_private(path: Path) -> None:
    with writing(path) as ledger:
        ledger.emit(queued())
        assert ledger.flush(30)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600, "ledger.lock": 0o600}


def test_the_migrations_make_the_schema_that_the_code_uses(path: Path) -> None:
    migrate(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        # SQLAlchemy reads SQLite's ANY as a number: that column is compared by hand.
        options = {"compare_type": lambda *given: None if not isinstance(given[4], AnyValue) else False}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        columns = connection.exec_driver_sql("SELECT name, type FROM pragma_table_info('event')").all()
        assert ("request", "ANY") in [tuple(column) for column in columns]
    engine.dispose()


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_opening_again_keeps_what_is_there(path: Path) -> None:
    write(path, queued())
    write(path, queued())
    with writing(path) as ledger:
        assert ledger.last_seq == 2


def test_a_missing_file_says_so(path: Path) -> None:
    with pytest.raises(LedgerMissing, match=r"there is no ledger yet"):
        Reader.open(path)
    assert not path.exists()


def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"these are not the pages of a database " * 40)
    before = path.read_bytes()
    with pytest.raises(LedgerUnusable, match="not a database"):
        Ledger.open(path, boot="b", synchronous="NORMAL")
    with pytest.raises(LedgerUnusable, match="not a database"):
        Reader.open(path)
    assert path.read_bytes() == before


def test_a_file_of_a_newer_program_is_refused(path: Path) -> None:
    write(path, queued())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerUnusable, match="newer lmx"):
        Ledger.open(path, boot="b", synchronous="NORMAL")
    with pytest.raises(LedgerUnusable, match="newer lmx"):
        Reader.open(path)


def test_a_file_from_before_the_first_release_is_refused_and_left_as_it_is(path: Path) -> None:
    write(path, queued())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(LedgerUnusable, match="before the first release"):
        Ledger.open(path, boot="b", synchronous="NORMAL")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (1,)


def test_a_folder_that_does_not_exist_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="No such file or directory"):
        Ledger.open(tmp_path / "absent" / "ledger.db", boot="b", synchronous="NORMAL")
