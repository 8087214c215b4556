"""What every store promises through `store.connection`: the same tests on SQLite, MariaDB and MySQL."""

import enum
import random
import traceback
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from tests.store.connection_kit import change, executing, fetch, fetching, opened, scalar

from taskcenter.errors import NotFound, StoreUnavailable
from taskcenter.store.connection import Connection, Database, DuplicateKey, QueryFault, StoreFault

INSERT = "INSERT INTO item (code, word, raw, number, ratio) VALUES (?, ?, ?, ?, ?)"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def test_says_what_it_is(database: Database, database_url: str) -> None:
    kind = database_url.partition(":")[0]
    assert database.dialect == kind
    name, _, version = database.server.partition(" ")
    assert name in ({"sqlite"} if kind == "sqlite" else {"mariadb", "mysql"})
    assert version[0].isdigit()
    assert kind in repr(database).lower()

    async def work(connection: Connection) -> tuple[str, str]:
        return connection.dialect, connection.server

    assert await database.read(work) == (kind, database.server)


NASTY_WORDS = [
    "", "plain", "it's", "back\\slash", "\\'", "'; DROP TABLE item; --", '"', "`", "%s %(a)s %%", "?", "\0 nul",
    "a\nb\rc\x1a", "\u00e1 \u4e2d\u6587 \U0001f600", "\uffff", "a ", "x" * 70_000,
]  # fmt: skip


async def test_values_come_back_as_they_went(database: Database) -> None:
    words: list[Any] = [*NASTY_WORDS, None]
    raws = [None, b"", b"\0\xff'\\\"", bytes(range(256)), b"\xf0\x9f", b"z" * 200_000]
    numbers = [None, 0, -1, (1 << 63) - 1, -(1 << 63), 1_700_000_000_000]
    ratios = [None, 0.0, -0.5, 1e300, 0.1, 2.5e-10]
    rows = [
        (b"%d" % i, words[i % len(words)], raws[i % len(raws)], numbers[i % len(numbers)], ratios[i % len(ratios)])
        for i in range(100)
    ]

    async def work(connection: Connection) -> None:
        for row in rows[:30]:
            assert await connection.execute(INSERT, row) == 1
        assert await connection.insert_many(INSERT, rows[30:]) == 70

    await database.write(work)
    seen = await fetch(database, "SELECT code, word, raw, number, ratio FROM item ORDER BY id")
    assert [tuple(row) for row in seen] == rows
    assert {type(row) for row in seen} == {tuple}
    for row in seen:
        assert (await fetch(database, "SELECT word FROM item WHERE code = ?", (row[0],))) == [(row[1],)]


async def test_random_text_and_bytes_survive(database: Database) -> None:
    rng = random.Random(7)
    alphabet = "'\"\\%?_;`#-/* \0\n\r\x1a\u00e9\u20ac\U0001f4a9azAZ09"
    words = ["".join(rng.choices(alphabet, k=rng.randrange(12))) for _ in range(400)]
    rows = [(b"%d" % i, word, rng.randbytes(rng.randrange(12)), i, rng.random()) for i, word in enumerate(words)]

    async def work(connection: Connection) -> None:
        await connection.insert_many(INSERT, rows[:200])
        for row in rows[200:]:
            await connection.execute(INSERT, row)

    await database.write(work)
    assert await fetch(database, "SELECT code, word, raw, number, ratio FROM item ORDER BY number") == rows


class Colour(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


async def test_kinds_of_str_and_int_go_as_what_they_are(database: Database) -> None:
    await change(database, INSERT, (b"a", Colour.RED, None, Size.BIG, 1.0))
    await change(database, INSERT, (b"b", "x", None, True, 1.0))
    assert await fetch(database, "SELECT word, number FROM item ORDER BY code") == [("red", 3), ("x", 1)]


UNFIT: dict[str, Any] = {
    "dict": {"a": 1},
    "hostile dict": {"1 or 1=1 -- ": "1"},
    "list": [1, 2],
    "tuple": (1,),
    "set": {1},
    "object": object(),
    "bytearray": bytearray(b"x"),
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "too big": 1 << 63,
    "too small": -(1 << 63) - 1,
    "low surrogate": "lone \udcff",
    "high surrogate": "lone \ud800",
}


@pytest.mark.parametrize("name", UNFIT)
async def test_refuses_values_that_have_no_literal(database: Database, name: str) -> None:
    value = UNFIT[name]
    await change(database, INSERT, (b"a", "kept", None, 1, 1.0))
    for sql in ("UPDATE item SET word = ? WHERE number = 1", "UPDATE item SET word = 'lost' WHERE number = ?"):
        with pytest.raises(QueryFault):
            await change(database, sql, (value,))
    with pytest.raises(QueryFault):
        await database.write(lambda c: c.insert_many("INSERT INTO item (word) VALUES (?)", [(value,)]))
    with pytest.raises(QueryFault):
        await fetch(database, "SELECT ? FROM item", (value,))
    assert await fetch(database, "SELECT word FROM item") == [("kept",)]
    assert database.statistics().in_use == 0


async def test_placeholders_are_counted_and_not_seen_in_quotes(database: Database) -> None:
    assert await fetch(database, "SELECT '?', ?, 'it''s ?' /* ? */", (5,)) == [("?", 5, "it's ?")]
    for params in [(), (1, 2)]:
        with pytest.raises(QueryFault):
            await fetch(database, "SELECT ?", params)


async def test_counts_matched_rows_not_changed_ones(database: Database) -> None:
    await change(database, INSERT, (b"a", "same", None, 1, 1.0))
    assert await change(database, "UPDATE item SET word = 'same' WHERE code = ?", (b"a",)) == 1
    assert await change(database, "UPDATE item SET word = 'same' WHERE code = ?", (b"z",)) == 0
    assert await change(database, "DELETE FROM item WHERE code = ?", (b"a",)) == 1


async def test_whole_sums_are_int_and_averages_are_float(database: Database) -> None:
    rows = [(b"%d" % i, "w", None, i, 0.5) for i in range(1, 5)]
    await database.write(lambda connection: connection.insert_many(INSERT, rows))
    total, average, count, nothing = (
        await fetch(database, "SELECT SUM(number), AVG(number), COUNT(*), MAX(raw) FROM item")
    )[0]
    assert (total, average, count, nothing) == (10, 2.5, 4, None)
    assert (type(total), type(average), type(count)) == (int, float, int)


async def test_fetch_one_is_the_first_row_or_none(database: Database) -> None:
    await database.write(lambda connection: connection.insert_many(INSERT, [(b"a", "w", None, i, 0.5) for i in (1,)]))

    async def work(connection: Connection) -> tuple[Any, Any]:
        sql = "SELECT number FROM item WHERE number >= ? ORDER BY number"
        return await connection.fetch_one(sql, (1,)), await connection.fetch_one(sql, (99,))

    assert await database.read(work) == ((1,), None)


async def test_ids_of_inserted_rows(database: Database) -> None:
    async def work(connection: Connection) -> list[int]:
        none_yet = await connection.last_insert_id()
        first = await connection.execute_insert_id("INSERT INTO item (word) VALUES (?)", ("a",))
        await connection.execute("INSERT INTO item (word) VALUES (?)", ("b",))
        second = await connection.last_insert_id()
        await connection.execute("UPDATE item SET number = 1")
        still = await connection.last_insert_id()
        return [none_yet, first, second, still, await connection.execute_insert_id("DELETE FROM item")]

    none_yet, first, second, still, of_delete = await database.write(work)
    assert (none_yet, of_delete) == (0, 0)
    assert first > 0
    assert still == second == first + 1


async def test_insert_many_takes_none_one_or_thousands(database: Database) -> None:
    async def work(connection: Connection) -> list[int]:
        sql = "INSERT INTO item (word, number) VALUES (?, ?)"
        return [
            await connection.insert_many(sql, []),
            await connection.insert_many(sql, [("a", 0)]),
            await connection.insert_many(sql + ";", [("b", i) for i in range(3001)]),
            await connection.insert_many("INSERT INTO item (word, number, ratio) VALUES ('(?)', ?, 1 + (2))", [(5,)]),
        ]

    assert await database.write(work) == [0, 1, 3001, 1]
    assert await fetch(database, "SELECT COUNT(*), COUNT(DISTINCT number) FROM item") == [(3003, 3001)]
    assert await fetch(database, "SELECT DISTINCT ratio FROM item WHERE word = '(?)'") == [(3.0,)]
    for sql, rows in [
        ("INSERT INTO item (word) VALUES (?)", [("a",), ("b", "c")]),
        ("INSERT INTO item (word) SELECT ?", [("a",)]),
        ("INSERT INTO item (word) VALUES ('a')", [()]),
    ]:
        with pytest.raises(QueryFault):
            await database.write(lambda connection, sql=sql, rows=rows: connection.insert_many(sql, rows))  # type: ignore[misc]  # bound now
    assert await scalar(database, "SELECT COUNT(*) FROM item") == 3003


async def test_large_rows_are_split_over_statements(database: Database) -> None:
    rows = [(b"%d" % i, b"\\" * 600_000) for i in range(12)]
    assert await database.write(lambda c: c.insert_many("INSERT INTO item (code, raw) VALUES (?, ?)", rows)) == 12
    assert await fetch(database, "SELECT COUNT(*), MIN(LENGTH(raw)) FROM item") == [(12, 600_000)]


async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    class Surprise(Exception):
        pass

    for error in (NotFound("no"), Surprise()):

        async def work(connection: Connection, error: Exception = error) -> None:
            await connection.execute(INSERT, (b"a", "w", None, 1, 1.0))
            raise error

        with pytest.raises(type(error)) as caught:
            await database.write(work)
        assert caught.value is error
        assert await scalar(database, "SELECT COUNT(*) FROM item") == 0
        await change(database, "DELETE FROM item")  # the next transaction is a whole one


async def test_a_duplicate_does_not_end_the_transaction(database: Database) -> None:
    secret = b"value-not-to-be-told"

    async def work(connection: Connection) -> str:
        await connection.execute(INSERT, (secret, "first", None, 1, 1.0))
        with pytest.raises(DuplicateKey) as caught:
            await connection.execute(INSERT, (secret, "second", None, 1, 1.0))
        await connection.execute(INSERT, (b"other", "third", None, 1, 1.0))
        assert caught.value.key == "code"
        return "".join(traceback.format_exception(caught.value))

    text = await database.write(work)
    assert secret.decode() not in text
    assert await fetch(database, "SELECT word FROM item ORDER BY id") == [("first",), ("third",)]
    with pytest.raises(DuplicateKey):
        await change(database, "INSERT INTO item (id) SELECT id FROM item")


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT nothing_here FROM item", "SELECT * FROM no_table", "SELECT 1 AS 'secret-value"]
)
async def test_a_wrong_statement_is_our_fault_and_told_without_values(database: Database, sql: str) -> None:
    with pytest.raises(QueryFault) as caught:
        await fetch(database, sql)
    text = "".join(traceback.format_exception(caught.value))
    assert "secret-value" not in str(caught.value)
    assert caught.value.statement == sql
    assert caught.value.__cause__ is None
    assert "trio_mysql" not in text
    assert await scalar(database, "SELECT 1") == 1


async def test_a_read_block_changes_nothing(database: Database) -> None:
    for work in (
        executing("INSERT INTO item (word) VALUES ('a')"),
        fetching("INSERT INTO item (word) VALUES ('a')"),
        lambda connection: connection.insert_many("INSERT INTO item (word) VALUES (?)", [("a",)]),
        lambda connection: connection.execute_insert_id("INSERT INTO item (word) VALUES ('a')"),
    ):
        for handle in (database, await database.lane("test")):
            with pytest.raises(QueryFault):
                await handle.read(work)
    assert await scalar(database, "SELECT COUNT(*) FROM item") == 0
    await change(database, "INSERT INTO item (word) VALUES ('a')")


async def test_reads_see_what_was_committed_before_each_statement(database: Database) -> None:
    seen: list[Any] = []
    await change(database, "INSERT INTO item (word) VALUES ('a')")
    seen.append(await scalar(database, "SELECT COUNT(*) FROM item"))
    lane = await database.lane("test")
    await change(lane, "INSERT INTO item (word) VALUES ('b')")
    seen.append(await scalar(database, "SELECT COUNT(*) FROM item"))
    seen.append(await scalar(lane, "SELECT COUNT(*) FROM item"))
    assert seen == [1, 2, 2]


async def test_a_connection_ends_with_its_block(database: Database) -> None:
    kept: list[Connection] = []

    async def keep(connection: Connection) -> None:
        kept.append(connection)

    async def keep_and_fail(connection: Connection) -> None:
        kept.append(connection)
        raise ZeroDivisionError

    await database.read(keep)
    await database.write(keep)
    with pytest.raises(ZeroDivisionError):
        await database.write(keep_and_fail)
    assert len(kept) == 3
    for connection in kept:
        with pytest.raises(QueryFault, match="after its block"):
            await connection.fetch("SELECT 1")


async def test_many_tasks_at_once_lose_no_update(database: Database) -> None:
    await change(database, INSERT, (b"a", "w", None, 0, 1.0))

    async def add() -> None:
        async def work(connection: Connection) -> None:
            lock = " FOR UPDATE" if connection.dialect == "mysql" else ""
            row = await connection.fetch_one("SELECT number FROM item WHERE code = ?" + lock, (b"a",))
            assert row is not None
            await connection.execute("UPDATE item SET number = ? WHERE code = ?", (row[0] + 1, b"a"))

        await database.write(work)

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(add)
    assert await scalar(database, "SELECT number FROM item") == 40
    statistics = database.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert 1 <= statistics.opened_total <= statistics.size


async def test_after_the_end_it_is_unavailable(database: Database) -> None:
    lane = await database.lane("test")
    await database.aclose()
    await database.aclose()
    for handle in (database, lane):
        with pytest.raises(StoreUnavailable) as caught:
            await scalar(handle, "SELECT 1")
        assert isinstance(caught.value, StoreFault)
        assert caught.value.kind == "closed"
        with pytest.raises(StoreUnavailable):
            await change(handle, "DELETE FROM item")
    assert database.statistics().errors_total["closed"] >= 2
