"""What the migrations build is what is declared, on every server; they come and go without a trace."""

import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool
from tests.store.connection_kit import by_hand
from tests.store.store_kit import opened_store, vault

from taskcenter.errors import ConfigError, SchemaMismatch, StoreUnavailable
from taskcenter.store import migrate, revision
from taskcenter.store.schema import metadata, sqlite_ddl
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.url import SqliteUrl, parse_database_url
from taskcenter.task import SHARDS


def tables_of(url: str) -> list[str]:
    if url.startswith("sqlite"):
        rows = by_hand(url, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    else:
        rows = by_hand(url, "SHOW TABLES")
    return sorted(row[0] for row in rows)


def shape_of(url: str) -> dict[str, str]:
    """Every table and index in the server's own words: columns, types, collations, nullability, defaults, keys.

    The order in which indexes were added is not part of it.
    """
    if url.startswith("sqlite"):
        rows = by_hand(url, "SELECT type || ' ' || name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        shape = {name: re.sub(r"\s+", " ", sql) for name, sql in rows}
    else:
        shape = {name: _in_order(by_hand(url, f"SHOW CREATE TABLE {name}")[0][1]) for name in tables_of(url)}
    return {name: sql for name, sql in shape.items() if "alembic" not in name}


def _in_order(sql: str) -> str:
    lines = [line.removesuffix(",") for line in sql.splitlines()]
    return "\n".join(sorted(lines, key=lambda line: line if " KEY `" in line else ""))


def engine_of(url: str) -> Engine:
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl):
        return create_engine(f"sqlite:///{parsed.path}", poolclass=NullPool)
    return create_engine(url.replace("mysql://", "mysql+pymysql://"), poolclass=NullPool)


def test_migrated_is_declared(database_url: str) -> None:
    assert migrate.up(database_url) == revision.head()
    migrated = shape_of(database_url)
    assert len(migrated) >= len(metadata.tables)
    migrate.down(database_url, "base")
    assert tables_of(database_url) == []
    metadata.create_all(engine_of(database_url))
    assert shape_of(database_url) == migrated


def test_up_and_down_and_up_again(database_url: str) -> None:
    assert revision.check(database_url) == "empty"
    migrate.up(database_url)
    assert revision.check(database_url) == "current"
    first = shape_of(database_url)
    assert migrate.down(database_url, "base") is None
    assert revision.check(database_url) == "empty"
    assert tables_of(database_url) == []
    migrate.up(database_url)
    assert shape_of(database_url) == first
    assert revision.current(database_url) == revision.head()


def test_every_shard_has_its_row_and_the_system_its_ledger(database_url: str) -> None:
    migrate.up(database_url)
    assert by_hand(database_url, "SELECT COUNT(*), MIN(shard), MAX(shard), MAX(term) FROM shards") == [
        (SHARDS, 0, SHARDS - 1, 0)
    ]
    assert by_hand(database_url, "SELECT business_id, active, audit_seq, audit_head FROM business_ledger") == [
        (0, 0, 0, bytes(32))
    ]


def test_repeating_changes_nothing(database_url: str) -> None:
    migrate.up(database_url)
    by_hand(database_url, "UPDATE shards SET term = 5")
    assert migrate.up(database_url) == revision.head()
    assert by_hand(database_url, "SELECT COUNT(*), MIN(term) FROM shards") == [(SHARDS, 5)]


def test_run_that_was_cut_off_is_completed(database_url: str) -> None:
    """A server commits each CREATE by itself, so a crash leaves tables without a revision."""
    migrate.up(database_url)
    whole = shape_of(database_url)
    for table in ("alembic_version", "meta", "instances", "task_executions"):
        by_hand(database_url, f"DROP TABLE {table}")
    on_table = "" if database_url.startswith("sqlite") else " ON tasks"
    by_hand(database_url, f"DROP INDEX ix_tasks_due{on_table}")
    by_hand(database_url, "DELETE FROM shards WHERE shard > 100")
    assert revision.check(database_url) == "empty"
    migrate.up(database_url)
    assert shape_of(database_url) == whole
    assert by_hand(database_url, "SELECT COUNT(*) FROM shards") == [(SHARDS,)]


def test_newer_database_is_refused(database_url: str) -> None:
    migrate.up(database_url)
    by_hand(database_url, "UPDATE alembic_version SET version_num = '9999'")
    assert revision.check(database_url) == "newer"
    for refused in (revision.require_current, migrate.up):
        with pytest.raises(SchemaMismatch, match=r"schema 9999, which is newer than this release") as caught:
            refused(database_url)
        assert "\n" not in str(caught.value)
    with pytest.raises(SchemaMismatch, match="newer"):
        migrate.down(database_url, "base")
    assert "tasks" in tables_of(database_url)


def test_missing_schema_is_named(database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no schema yet, this release needs \d+: run `taskcenter migrate`"):
        revision.require_current(database_url)
    migrate.up(database_url)
    revision.require_current(database_url)


def test_unknown_target_is_refused(database_url: str) -> None:
    with pytest.raises(SchemaMismatch, match="no schema revision '0815'"):
        migrate.up(database_url, "0815")
    assert tables_of(database_url) == []


def test_two_instances_do_not_migrate_at_once(database_url: str) -> None:
    """On a server they queue at a named lock; a file is one process's, so the second is refused or finds it done."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(migrate.up(database_url))
        except ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [outcome for outcome in outcomes if outcome == revision.head()]
    assert done
    if not database_url.startswith("sqlite"):
        assert len(done) == len(threads), outcomes
    assert revision.check(database_url) == "current"
    assert by_hand(database_url, "SELECT COUNT(*) FROM shards") == [(SHARDS,)]


async def test_file_in_use_is_not_migrated(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    migrate.up(url)
    async with opened_store(url):
        assert revision.check(url) == "current"
        with pytest.raises(ConfigError, match="locked"):
            migrate.down(url, "base")
    migrate.down(url, "base")


def test_checking_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    assert revision.check(f"sqlite:///{path}") == "empty"
    assert not path.exists()


def test_migrated_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrate.up(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o077 == 0


def test_unreachable_server_is_told_without_its_secrets() -> None:
    with pytest.raises(StoreUnavailable) as caught:
        revision.check("mysql://someone:hush-hush@127.0.0.1:1/taskcenter")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigError, match=r"'a\.db' is not a SQLite database"):
        revision.check(f"sqlite:///{path}")


async def test_schema_in_memory_is_the_declared_one(tmp_path: Path) -> None:
    """What `create_schema` builds where no migration reaches: the same statements, here run on a file."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        for statement in sqlite_ddl():
            connection.execute(statement)
    declared = shape_of(url)
    migrated_url = f"sqlite:///{tmp_path / 'b.db'}"
    migrate.up(migrated_url)
    assert declared == shape_of(migrated_url)
    store = SqlStore(SqliteDatabase(":memory:", in_loop=True), vault())
    await store.open()
    try:
        await store.create_schema()
        assert len(await store.leases.shards()) == SHARDS
        await store.audit.append([])
    finally:
        await store.aclose()


def test_revisions_told_by_name_are_those_of_alembic() -> None:
    scripts = ScriptDirectory(str(revision.VERSIONS.parent))
    assert revision.head() == scripts.get_current_head()
    assert revision.known() == {script.revision for script in scripts.walk_revisions()}


def test_asking_for_the_schema_loads_neither_sqlalchemy_nor_alembic(database_url: str) -> None:
    """They cost a start a third of its time and 20 MiB; a database that is current needs neither."""
    migrate.up(database_url)
    asks = (
        "import sys, taskcenter.cli; from taskcenter.store import revision; revision.require_current(sys.argv[1]);"
        "print(sorted({'sqlalchemy', 'alembic'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", asks, database_url], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
