"""Cursors: where a page ended, opaque to the caller and good only for the question it came from.

They are no secret and not signed: a made-up one shows no more than the list that it is used with.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from taskcenter.errors import FieldFault, InvalidInput

_TAG_BYTES: Final = 9
MAX_DIGITS: Final = 18  # of a BIGINT
MAX_POSITION_CHARS: Final = 128


def encode_cursor(position: str, question: str) -> str:
    """`position`: the last item's key. `question`: everything the pages have in common (business, filter)."""
    return base64.urlsafe_b64encode(_tag(question) + position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, question: str) -> str:
    """The position. Raises `InvalidInput` for what is no cursor, or one of another question."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        tag, position = raw[:_TAG_BYTES], raw[_TAG_BYTES:].decode("ascii")
    except (binascii.Error, ValueError):
        raise InvalidInput([_fault("is not a cursor of ours")]) from None
    if tag != _tag(question) or not position.isprintable() or not 0 < len(position) <= MAX_POSITION_CHARS:
        raise InvalidInput([_fault("belongs to a list with other filters")])
    return position


def decode_number(cursor: str, question: str) -> int:
    """A position that is a number, as above: anybody can make a cursor, so it may be one that no column can hold."""
    position = decode_cursor(cursor, question)
    if not position.isdecimal() or len(position) > MAX_DIGITS:
        raise InvalidInput([_fault("is not a cursor of ours")])
    return int(position)


def _tag(question: str) -> bytes:
    return hashlib.blake2s(question.encode("utf-8", "surrogatepass"), digest_size=_TAG_BYTES).digest()


def _fault(what: str) -> FieldFault:
    return FieldFault("cursor", f"{what}; pass `next_cursor` of the page before unchanged, with the same filters")
