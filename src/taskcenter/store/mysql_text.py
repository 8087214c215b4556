"""SQL text for the MySQL side: `?` placeholders filled with literals, as bytes, without a trip through `%` formatting.

Safe because of three facts that are checked elsewhere or here: the connection's character set is utf8mb4, in which no
multi-byte character contains a quote or backslash byte; NO_BACKSLASH_ESCAPES is off (checked at login); and only five
exact types have a literal, anything else is refused. Binary values carry `_binary`, so no server takes them for text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from taskcenter.store.connection import Param, QueryFault, plain
from taskcenter.store.sql_text import split_insert, split_placeholders


def _text(value: str) -> bytes:
    if "\\" in value or "'" in value:
        value = value.replace("\\", "\\\\").replace("'", "\\'")
    try:
        return f"'{value}'".encode()
    except UnicodeEncodeError:
        raise QueryFault("a text parameter holds a lone surrogate") from None


def _binary(value: bytes) -> bytes:
    return b"_binary'" + value.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


def _integer(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        plain(value)  # words the refusal
    return b"%d" % value


def _float(value: float) -> bytes:
    if not math.isfinite(value):
        plain(value)  # words the refusal
    text = repr(value)
    return (text if "e" in text else text + "e0").encode()


def _null(value: None) -> bytes:
    return b"NULL"


def _other(value: Any) -> bytes:
    """Of a subclass, e.g. a bool or an enum: as the type it stands for."""
    exact = plain(value)
    return _WRITERS[type(exact)](exact)


class _Writers(dict[type, Callable[[Any], bytes]]):
    def __missing__(self, _kind: type) -> Callable[[Any], bytes]:
        return _other


_WRITERS: Final = _Writers({str: _text, bytes: _binary, int: _integer, float: _float, type(None): _null})


def literal(value: Param) -> bytes:
    """One value as SQL. Raises QueryFault for a type or value that has none."""
    return _WRITERS[type(value)](value)


def render(sql: str, params: Sequence[Param]) -> bytes:
    """The statement with its values. Raises QueryFault when numbers differ."""
    pieces = split_placeholders(sql)
    if len(pieces) != len(params) + 1:
        raise QueryFault(f"{len(pieces) - 1} placeholders, {len(params)} parameters", statement=sql)
    return _filled(pieces, params) if params else pieces[0]


def render_insert(sql: str, rows: Sequence[Sequence[Param]], max_bytes: int) -> Iterator[bytes]:
    """INSERT statements for all rows, each at most `max_bytes` long unless a single row is longer."""
    head, pieces, tail = split_insert(sql)
    wanted = len(pieces) - 1
    chunk: list[bytes] = []
    room = budget = max_bytes - len(head) - len(tail)
    for row in rows:
        if len(row) != wanted:
            raise QueryFault(f"{wanted} placeholders, {len(row)} parameters in a row", statement=sql)
        text = _filled(pieces, row)
        if len(text) + 1 > room and chunk:
            yield head + b",".join(chunk) + tail
            chunk, room = [], budget
        chunk.append(text)
        room -= len(text) + 1
    if chunk:
        yield head + b",".join(chunk) + tail


def _filled(pieces: tuple[bytes, ...], params: Sequence[Param]) -> bytes:
    """The pieces with the values between them."""
    return _template(pieces) % tuple([_WRITERS[type(value)](value) for value in params])


@lru_cache(maxsize=2048)
def _template(pieces: tuple[bytes, ...]) -> bytes:
    """A format that puts a value into each gap: one step of C for a whole statement."""
    return b"%b".join([piece.replace(b"%", b"%%") for piece in pieces])
