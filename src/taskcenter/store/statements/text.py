"""How a statement is written once for two dialects, and how a batch gets into it without a value in its text.

A batch goes in as one JSON parameter, which the server unfolds into rows (`JSON_TABLE`, `json_each`), so the
statement's text is constant. Two things need another way: MySQL refuses a locking read of a JSON table, and compares
binary keys with it badly; such a statement says `IN (...)`, which is filled with as many `?` as there are values,
rounded up to one of a few sizes so that few texts exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeVar

from taskcenter.store.connection import Connection, Dialect, Param, Row

T = TypeVar("T")
IN_SIZES: Final = (1, 4, 16, 64, 256)
ID: Final = "CHAR(26) CHARACTER SET ascii COLLATE ascii_bin"
WORD: Final = "VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin"
NUMBER: Final = "BIGINT"
TEXT: Final = "VARCHAR(1024) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"


@dataclass(frozen=True, slots=True)
class Query:
    """A statement in both dialects."""

    mysql: str
    sqlite: str

    def on(self, dialect: Dialect) -> str:
        return self.mysql if dialect == "mysql" else self.sqlite


@dataclass(frozen=True, slots=True)
class BatchUpdate:
    """An UPDATE of tasks by what a batch says of each, in two forms that do the same."""

    each: Query  # the batch is a JSON table, its only parameter: rows may differ as they like
    alike: Query  # for rows of which the batch says the same: they are named in `IN (...)`
    before: tuple[str, ...]  # the batch's members that are parameters of `alike` before the list
    after: tuple[str, ...]  # and after it


def by_key(text: str, tail: str = "") -> Query:
    """A read or UPDATE of one table by its primary key, locking with `tail` on MySQL.

    A server that reads a small table whole would also wait for rows that are not asked for, so it is told the key. On
    SQLite a transaction has all rows anyway.
    """
    forced = re.sub(r"\b(FROM|UPDATE) (\w+)", r"\1 \2 FORCE INDEX (PRIMARY)", text, count=1)
    return Query(mysql=forced + tail, sqlite=text)


def locking(text: str) -> Query:
    """A read by the primary key that takes the rows for the rest of the transaction."""
    return by_key(text, " FOR UPDATE")


def insert(table: str, columns: Sequence[str], constants: Mapping[str, str] = MappingProxyType({})) -> str:
    """An INSERT of `columns`, given, and of `constants`, the same in each row."""
    values = ", ".join([*["?"] * len(columns), *constants.values()])
    return f"INSERT INTO {table} ({', '.join([*columns, *constants])}) VALUES ({values})"


def insert_missing(
    table: str, columns: Sequence[str], key: str, constants: Mapping[str, str] = MappingProxyType({})
) -> Query:
    """An INSERT that leaves a row that is there already as it is. `key` is a column of its primary key."""
    text = insert(table, columns, constants)
    return Query(mysql=f"{text} ON DUPLICATE KEY UPDATE {key} = {key}", sqlite=f"{text} ON CONFLICT DO NOTHING")


def batch(**columns: str) -> Query:
    """The table `r` that a JSON array of objects with these members becomes; a missing member is NULL.

    SQLite joins on `+r.id`: so it cannot choose to look into the batch for each row of the other table.
    An UPDATE takes all it writes from the batch: its other parameters would stand in another order on the other store.
    """
    mysql = ", ".join(f"{name} {kind} PATH '$.{name}'" for name, kind in columns.items())
    sqlite = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
    return Query(mysql=f"JSON_TABLE(?, '$[*]' COLUMNS ({mysql})) r", sqlite=f"(SELECT {sqlite} FROM json_each(?)) AS r")


def chunks(values: Sequence[T], size: int = IN_SIZES[-1]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


@lru_cache(maxsize=512)
def _widened(text: str, size: int) -> str:
    return text.replace("(...)", f"({', '.join('?' * size)})")


def in_list(text: str, values: Sequence[Param]) -> tuple[str, list[Param]]:
    """`IN (...)` of `text` filled for up to 256 values; the last value is repeated up to the next size."""
    size = next(size for size in IN_SIZES if size >= len(values))
    return _widened(text, size), [*values, *[values[-1]] * (size - len(values))]


async def fetch_in(
    connection: Connection,
    text: str,
    values: Sequence[Param],
    *,
    before: Sequence[Param] = (),
    after: Sequence[Param] = (),
) -> list[Row]:
    """All rows for all values, in chunks; `before` and `after` are the parameters around the list."""
    rows: list[Row] = []
    for chunk in chunks(values):
        statement, padded = in_list(text, chunk)
        rows += await connection.fetch(statement, [*before, *padded, *after])
    return rows
