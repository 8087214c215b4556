"""Statements cut at their `?` placeholders. Pure, and remembered for each statement's text."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from taskcenter.store.connection import QueryFault

# Quoted text, quoted names and comments are skipped over; what is left of `?` are placeholders.
_TOKEN: Final = re.compile(
    r"""'(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `[^`]*` | /\*.*?\*/ | --\s[^\n]* | \#[^\n]* | (\?)""",
    re.VERBOSE | re.DOTALL,
)
_VALUES: Final = re.compile(r"\bVALUES\s*(?=\()", re.IGNORECASE)


@lru_cache(maxsize=2048)
def split_placeholders(sql: str) -> tuple[bytes, ...]:
    """The statement cut at its placeholders: one piece more than there are placeholders."""
    pieces, start = [], 0
    for token in _TOKEN.finditer(sql):
        if token[1]:
            pieces.append(sql[start : token.start()].encode())
            start = token.end()
    pieces.append(sql[start:].encode())
    return tuple(pieces)


@lru_cache(maxsize=512)
def split_insert(sql: str) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """An INSERT cut into head, the one row's pieces, and tail. Raises QueryFault when it has no single VALUES (…)."""
    for found in _VALUES.finditer(sql):
        depth = 0
        for at in range(found.end(), len(sql)):
            depth += {"(": 1, ")": -1}.get(sql[at], 0)
            if depth == 0:
                row, tail = sql[found.end() : at + 1], sql[at + 1 :]
                pieces = split_placeholders(row)
                if len(pieces) > 1 and len(split_placeholders(tail)) == 1:
                    return sql[: found.end()].encode(), pieces, tail.rstrip().rstrip(";").encode()
                break
    raise QueryFault("insert_many needs INSERT … VALUES (?, …) and no placeholder after it", statement=sql)
