"""JSON in: one strict reading of a request's body, so that no two programs can read it differently. No I/O.

A payload is any JSON, handed on as it is, with whole numbers beyond 64 bits and U+0000 among it; other fields have
bounds of their own. Refused is what cannot be handed on or could be read in two ways: what is not UTF-8, a name twice
in an object, a lone surrogate, a number that no double holds. Python's parser besides takes NaN and Infinity, lets a
deep body overflow the stack, and takes time quadratic in the digits of a number.

The common body pays little for this: numbers are checked one by one only if a suspiciously long one is in the text,
what can only come from an escape (`\\ud800`) only if the escape is, and depth only if there are enough brackets.
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
MAX_DIGITS: Final = 1000

_SUSPECT_TEXT: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_FOLD: Final = bytes.maketrans(b"123456789E", b"000000000e")  # makes the search for a long number one of fixed strings
_SUSPECT_NUMBERS: Final = (b"0" * 200, b"0e000", b"0e+000")  # a double ends at 10**308, and e99 is no reason


class MalformedJson(TaskCenterError):
    """The caller's: the body is not JSON, or not JSON that can be handed on. 400."""

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
    if len(digits) > MAX_DIGITS:
        raise MalformedJson(f"The body has a whole number of more than {MAX_DIGITS} digits; send it as a text.")
    return int(digits)


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
    """Refuse lone surrogates in any text."""
    try:
        dump_text(value).encode()
    except UnicodeEncodeError:
        raise MalformedJson("The body has half of a surrogate pair, which is not a character.") from None
