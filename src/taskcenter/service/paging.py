"""Cursors: where a page ended, opaque to the caller and good only for the question it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from taskcenter.errors import FieldFault, InvalidInput

_TAG_BYTES: Final = 9


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
    if tag != _tag(question) or not position:
        raise InvalidInput([_fault("belongs to a list with other filters")])
    return position


def _tag(question: str) -> bytes:
    return hashlib.blake2s(question.encode("utf-8", "surrogatepass"), digest_size=_TAG_BYTES).digest()


def _fault(what: str) -> FieldFault:
    return FieldFault("cursor", f"{what}; pass `next_cursor` of the page before unchanged, with the same filters")
