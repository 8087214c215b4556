"""JSON in: one strict reading of a request's body, so that no two programs can read it differently. No I/O.

RFC 8259 leaves open what I-JSON (RFC 7493) closes, and so do we: UTF-8 only, no name twice in an object, no lone
surrogate, numbers that a double or 64 bits can hold. Python's parser besides takes NaN and Infinity and lets a deep
body overflow the stack; NUL is refused because databases and C programs behind us end a text there.

The common body pays little for this: numbers are checked one by one only if a suspiciously long one is in the text,
what can only come from an escape (`\\ud800`, `\\u0000`) only if the escape is, and depth only if there are enough
brackets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import isfinite
from typing import Any, Final

from taskcenter.errors import TaskCenterError
from taskcenter.service.json_text import dump_text

MAX_DEPTH: Final = 64
MAX_INT: Final = 2**64 - 1
MIN_INT: Final = -(2**63)

_SUSPECT_TEXT: Final = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
_FOLD: Final = bytes.maketrans(b"123456789E", b"000000000e")  # makes the search for a long number one of fixed strings
_SUSPECT_NUMBERS: Final = (b"0" * 19, b"0e000", b"0e+000")


class MalformedJson(TaskCenterError):
    """The caller's: the body is not JSON as RFC 7493 has it. 400."""

    code = "malformed_json"


def parse(body: bytes) -> Any:
    """The value of a whole body. Raises `MalformedJson`, whose message says what is wrong and where, if known."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The body is not UTF-8 (byte {error.start}).") from None
    if text.startswith("\ufeff"):
        raise MalformedJson("The body starts with a byte order mark; RFC 8259 has none.")
    try:
        folded = body.translate(_FOLD)
        suspect = any(number in folded for number in _SUSPECT_NUMBERS)
        value = (_CAREFUL if suspect else _QUICK).decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None
    except RecursionError:
        raise MalformedJson(f"The body is nested deeper than {MAX_DEPTH} levels.") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise MalformedJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
    if _SUSPECT_TEXT.search(body):
        _check_texts(value)
    return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise MalformedJson(f"The body has an object with the name {json.dumps(twice[:64])} more than once.")
    return members


def _int(digits: str) -> int:
    if len(digits) > 20 or not MIN_INT <= (number := int(digits)) <= MAX_INT:
        raise MalformedJson("The body has a whole number that 64 bits cannot hold; send it as a text.")
    return number


def _float(digits: str) -> float:
    if not isfinite(number := float(digits)):
        raise MalformedJson("The body has a number that a double cannot hold; send it as a text.")
    return number


def _constant(name: str) -> Any:
    raise MalformedJson(f"The body has {name}, which is not JSON.")


_QUICK: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_CAREFUL: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
)


def _depth_exceeds(value: Any, most: int) -> bool:
    """Whether containers stand in each other more than `most` deep. Level by level, so without recursion."""
    level = [value]
    for _ in range(most):
        below: list[Any] = []
        for container in level:
            if type(container) is dict:
                below += [member for member in container.values() if type(member) in _CONTAINERS]
            elif type(container) is list:
                below += [member for member in container if type(member) in _CONTAINERS]
        if not below:
            return False
        level = below
    return True


_CONTAINERS: Final = frozenset({dict, list})


def _check_texts(value: Any) -> None:
    """Refuse NUL and lone surrogates in any text."""
    texts = dump_text(value)
    if "\\u0000" in texts.replace("\\\\", ""):
        raise MalformedJson("The body has the character U+0000, which no text here may hold.")
    try:
        texts.encode()
    except UnicodeEncodeError:
        raise MalformedJson("The body has half of a surrogate pair, which is not a character.") from None
