"""SQL text for the MySQL side: `?` placeholders filled with literals, as bytes, without a trip through `%` formatting.

Safe because of three facts that are checked elsewhere or here: the connection's character set is utf8mb4, in which no
multi-byte character contains a quote or backslash byte; NO_BACKSLASH_ESCAPES is off (checked at login); and only five
exact types have a literal, anything else is refused. Binary values carry `_binary`, so no server takes them for text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from taskcenter.store.connection import Param, QueryFault, plain
from taskcenter.store.sql_text import split_insert, split_placeholders


def _text(value: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise QueryFault("a text parameter holds a lone surrogate") from None
    if b"\\" in raw:
        raw = raw.replace(b"\\", b"\\\\")
    if b"'" in raw:
        raw = raw.replace(b"'", b"\\'")
    return b"'" + raw + b"'"


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


_LITERALS: Final[dict[type, Callable[[Any], bytes]]] = {
    str: _text, bytes: _binary, int: _integer, float: _float, type(None): _null,
}  # fmt: skip


def literal(value: Param) -> bytes:
    """One value as SQL. Raises QueryFault for a type or value that has none."""
    writer = _LITERALS.get(type(value))
    if writer is not None:
        return writer(value)
    value = plain(value)
    return _LITERALS[type(value)](value)


def render(sql: str, params: Sequence[Param]) -> bytes:
    """The statement with its values. Raises QueryFault when numbers differ."""
    pieces = split_placeholders(sql)
    if len(pieces) != len(params) + 1:
        raise QueryFault(f"{len(pieces) - 1} placeholders, {len(params)} parameters", statement=sql)
    if not params:
        return pieces[0]
    out = [pieces[0]]
    for value, piece in zip(params, pieces[1:], strict=True):
        out.append(literal(value))
        out.append(piece)
    return b"".join(out)


def render_insert(sql: str, rows: Sequence[Sequence[Param]], max_bytes: int) -> Iterator[bytes]:
    """INSERT statements for all rows, each at most `max_bytes` long unless a single row is longer."""
    head, pieces, tail = split_insert(sql)
    wanted, first, rest = len(pieces) - 1, pieces[0], pieces[1:]
    chunk: list[bytes] = []
    room = budget = max_bytes - len(head) - len(tail)
    for row in rows:
        if len(row) != wanted:
            raise QueryFault(f"{wanted} placeholders, {len(row)} parameters in a row", statement=sql)
        out = [first]
        for value, piece in zip(row, rest, strict=True):
            out.append(literal(value))
            out.append(piece)
        text = b"".join(out)
        if len(text) + 1 > room and chunk:
            yield head + b",".join(chunk) + tail
            chunk, room = [], budget
        chunk.append(text)
        room -= len(text) + 1
    if chunk:
        yield head + b",".join(chunk) + tail
