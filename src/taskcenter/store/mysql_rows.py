"""Answers of the MySQL text protocol as Python values. Pure: packets in, values out, at the pace they come.

Numbers become int or float (an exact decimal without fraction, as SUM over integers gives, is an int), text columns
str, binary ones bytes; dates and times stay the text the server wrote, as they do on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from trio_mysql.constants import FIELD_TYPE

from taskcenter.store.connection import Row
from taskcenter.store.mysql_refusal import Refusal, parse_refusal

BINARY_CHARSET: Final = 63
NULL: Final = 251
MARK: Final = 0xFE  # first byte of an end mark, and of a field of 16 MB or more
ERROR: Final = 0xFF
SHORTEST_LONG_FIELD: Final = 9
FIXED_FIELDS: Final = 13  # length byte, charset, length, type, flags, decimals, filler: the end of a column definition
Reader = Callable[[bytes], Any]
_INTEGERS: Final = frozenset(
    {FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.YEAR}
)
_FLOATS: Final = frozenset({FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE})
_DECIMALS: Final = frozenset({FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL})
_MAYBE_BINARY: Final = frozenset(
    {
        FIELD_TYPE.BIT,
        FIELD_TYPE.BLOB,
        FIELD_TYPE.TINY_BLOB,
        FIELD_TYPE.MEDIUM_BLOB,
        FIELD_TYPE.LONG_BLOB,
        FIELD_TYPE.STRING,
        FIELD_TYPE.VAR_STRING,
        FIELD_TYPE.VARCHAR,
        FIELD_TYPE.GEOMETRY,
    }
)


class ProtocolFault(Exception):
    """Bytes that no server sends: the wire is not what we think it is. Never leaves the wire."""


class Answer(NamedTuple):
    """A whole answer. `rows` is None when the statement has no result set; `affected` counts matched rows."""

    rows: list[Row] | None
    affected: int
    insert_id: int
    status: int


def reader_of(definition: bytes) -> Reader:
    """The function that makes values of a column, from its definition packet."""
    fixed = definition[-FIXED_FIELDS:]
    if len(fixed) != FIXED_FIELDS or fixed[0] != 0x0C:
        raise ProtocolFault("column definition")
    charset, kind, decimals = fixed[1] | fixed[2] << 8, fixed[7], fixed[10]
    if kind in _INTEGERS:
        return int
    if kind in _FLOATS:
        return float
    if kind in _DECIMALS:
        return float if decimals else int
    if kind in _MAYBE_BINARY and charset == BINARY_CHARSET:
        return bytes
    return bytes.decode


def parse_row(body: bytes, readers: list[Reader]) -> Row:
    """One row packet. Raises ProtocolFault when its lengths do not add up."""
    row: list[Any] = []
    at = 0
    for read in readers:
        size = body[at]
        at += 1
        if size >= NULL:
            if size == NULL:
                row.append(None)
                continue
            size, at = _long_length(body, size, at)
        end = at + size
        row.append(read(body[at:end]))
        at = end
    if at != len(body):
        raise ProtocolFault("row length")
    return tuple(row)


def _long_length(body: bytes, first: int, at: int) -> tuple[int, int]:
    """A length of more than one byte: its value and where it ends."""
    if first > 254:
        raise ProtocolFault("length")
    end = at + (2, 3, 8)[first - 252]
    if end > len(body):
        raise ProtocolFault("length")
    return int.from_bytes(body[at:end], "little"), end


def length_encoded(body: bytes, at: int) -> tuple[int, int]:
    """The integer at `at` and where it ends."""
    first = body[at]
    return (first, at + 1) if first < NULL else _long_length(body, first, at + 1)


def parse_ok(body: bytes) -> Answer:
    """An OK packet."""
    affected, at = length_encoded(body, 1)
    insert_id, at = length_encoded(body, at)
    if len(body) < at + 4:
        raise ProtocolFault("ok packet")
    return Answer(None, affected, insert_id, body[at] | body[at + 1] << 8)


class AnswerReader:
    """Takes an answer's packets one by one. Keeps its place, so reading may be interrupted and go on.

    An answer is an OK, an error, or a result set: column count, definitions, an end mark, rows, an end mark; an error
    may come in place of any row.
    """

    __slots__ = ("_columns", "_readers", "_rows")

    def __init__(self) -> None:
        self._columns = 0  # definitions, or the end mark after them, still to come
        self._readers: list[Reader] = []
        self._rows: list[Row] | None = None  # a list once rows may come

    def feed(self, body: bytes) -> Answer | Refusal | None:
        """The whole answer when this packet ends it. Raises ProtocolFault, LookupError or ValueError for nonsense."""
        first = body[0]
        rows = self._rows
        if rows is not None and first < MARK:
            rows.append(parse_row(body, self._readers))
            return None
        if first == ERROR:
            return parse_refusal(body)
        if rows is not None:
            if len(body) < SHORTEST_LONG_FIELD:
                return Answer(rows, len(rows), 0, body[3] | body[4] << 8)
            rows.append(parse_row(body, self._readers))
        elif self._columns > 1:
            self._readers.append(reader_of(body))
            self._columns -= 1
        elif self._columns:
            if first != MARK:
                raise ProtocolFault("no end of columns")
            self._rows = []
        elif first == 0:
            return parse_ok(body)
        else:
            count, end = length_encoded(body, 0)
            if end != len(body) or not count:
                raise ProtocolFault("result head")
            self._columns = count + 1
        return None
