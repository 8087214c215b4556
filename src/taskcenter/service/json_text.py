"""JSON out: compact text in UTF-8, and the canonical form that tells a repeated request from a different one."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pydantic_core import to_json

# What comes here was parsed from text, so it holds no circle to look for.
_encode: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False
).encode
_encode_sorted: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False, sort_keys=True
).encode


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8, names in the order they have. For values that hold no NaN and no half of a surrogate."""
    return to_json(value)


def dump_text(value: Any) -> str:
    """As `dump`, but takes halves of surrogates, and escapes control characters as `\\uXXXX`."""
    return _encode(value)


def canonical_hash(value: Any) -> bytes:
    """32 bytes that are equal for bodies that differ in white space, escapes and the order of names only."""
    return hashlib.sha256(_encode_sorted(value).encode()).digest()
