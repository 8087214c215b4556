"""The embedded store's file: one process serves it, what is wrong with it is told in one line, a full disk is 503."""

import multiprocessing
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.store.connection_kit import TABLES, by_hand, change, fetch, fetching, scalar
from tests.store.sqlite_kit import our_threads

from taskcenter.errors import ConfigError, StoreUnavailable
from taskcenter.store.connection import Connection, StoreFault
from taskcenter.store.sqlite import SqliteDatabase


async def test_every_connection_is_set_up(database: SqliteDatabase) -> None:
    async def look(connection: Connection) -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only", "trusted_schema")
        return {name: (await connection.fetch(f"PRAGMA {name}"))[0][0] for name in names}

    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "trusted_schema": 0}
    assert await database.write(look) == wanted | {"query_only": 0}
    assert await database.read(look) == wanted | {"query_only": 1}


def _mode(name: str) -> int:
    return stat.S_IMODE(Path(name).stat().st_mode)


async def test_the_file_is_for_our_eyes_only(database: SqliteDatabase, path: str) -> None:
    for name in (path, path + "-wal", path + ".lock"):
        assert _mode(name) == 0o600


async def test_what_was_written_is_there_after_reopening(path: str) -> None:
    for number in range(3):
        database = SqliteDatabase(path)
        await database.open()
        if number == 0:
            await change(database, TABLES["sqlite"])
        await change(database, "INSERT INTO item (number) VALUES (?)", (number,))
        await database.aclose()
        assert our_threads() == []
    assert by_hand(f"sqlite:///{path}", "SELECT number FROM item") == [(0,), (1,), (2,)]
    assert not _exists(path + "-wal")


def _exists(name: str) -> bool:
    return Path(name).exists()


async def test_one_process_serves_a_file(database: SqliteDatabase, path: str, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(path)
    for name in (path, str(tmp_path / "link.db")):
        with pytest.raises(ConfigError, match="another process serves this database"):
            await SqliteDatabase(name).open()
    assert await scalar(database, "SELECT 1") == 1
    second = SqliteDatabase(path)
    with pytest.raises(ConfigError):
        await second.open()
    await database.aclose()
    await second.open()  # the same object, once the file is free
    await second.aclose()


def _serve(path: str, ready: Any) -> None:
    async def main() -> None:
        await SqliteDatabase(path).open()
        ready.set()
        await trio.sleep_forever()

    trio.run(main)


async def test_a_killed_process_leaves_no_lock(path: str) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_serve, args=(path, ready), daemon=True)
    process.start()
    try:
        assert await trio.to_thread.run_sync(ready.wait, 30)
        database = SqliteDatabase(path)
        with pytest.raises(ConfigError, match="another process"):
            await database.open()
        process.kill()
        await trio.to_thread.run_sync(process.join)
        await database.open()
        await database.aclose()
    finally:
        process.kill()
        process.join()
        process.close()


@pytest.mark.parametrize(
    "make,fault",
    [
        (
            lambda path: path.write_bytes(b"This is no database, but long enough to be one." * 100),
            "not a SQLite database",
        ),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.symlink_to("/nowhere/at/all.db"), "does not exist"),
    ],
    ids=["garbage", "directory", "dangling"],
)
async def test_what_is_no_database_is_told_in_one_line(
    tmp_path: Path, make: Callable[[Path], object], fault: str
) -> None:
    make(tmp_path / "bad.db")
    await _refused(SqliteDatabase(str(tmp_path / "bad.db")), fault)


async def test_a_missing_directory_is_told_in_one_line(tmp_path: Path) -> None:
    await _refused(SqliteDatabase(str(tmp_path / "missing" / "a.db")), "does not exist")
    assert not _exists(str(tmp_path / "missing"))


async def _refused(database: SqliteDatabase, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await database.open()
    message = str(caught.value)
    assert message.startswith("TASKCENTER_DATABASE_URL: ")
    assert fault in message
    assert "example: " in message
    assert "\n" not in message
    assert our_threads() == []
    with pytest.raises(StoreUnavailable):
        await scalar(database, "SELECT 1")


async def test_a_damaged_page_is_the_stores_fault(path: str) -> None:
    by_hand(f"sqlite:///{path}", TABLES["sqlite"])
    by_hand(f"sqlite:///{path}", "INSERT INTO item (word) VALUES ('" + "x" * 50_000 + "')")
    _damage(Path(path))
    database = SqliteDatabase(path)
    await database.open()
    with pytest.raises(StoreFault) as caught:
        await fetch(database, "SELECT * FROM item")
    assert (caught.value.kind, "damaged" in str(caught.value)) == ("server", True)
    await database.aclose()


def _damage(file: Path) -> None:
    """Overwrite all but the first page."""
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


async def test_a_full_disk_is_unavailable_and_nothing_half_written(database: SqliteDatabase) -> None:
    await change(database, "INSERT INTO item (word) VALUES ('kept')")
    pages = await scalar(database, "PRAGMA page_count")

    async def fill(connection: Connection) -> None:
        await connection.fetch(f"PRAGMA max_page_count = {pages + 5}")
        await connection.insert_many("INSERT INTO item (raw) VALUES (?)", [(b"x" * 4000,)] * 5)
        try:
            await connection.insert_many("INSERT INTO item (raw) VALUES (?)", [(b"x" * 4000,)] * 100)
        except StoreFault:  # swallowed: the block must not go on outside its transaction
            await connection.execute("INSERT INTO item (word) VALUES ('outside')")

    with pytest.raises(StoreFault) as caught:
        await database.write(fill)
    assert caught.value.kind == "full"
    assert await fetch(database, "SELECT word FROM item") == [("kept",)]
    await database.write(fetching("PRAGMA max_page_count = 1073741823"))
    assert await change(database, "INSERT INTO item (word) VALUES ('again')") == 1
    assert database.statistics().errors_total == {"full": 1}
