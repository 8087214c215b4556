"""JSON out: compact text in UTF-8, and the canonical form that tells a repeated request from a different one."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_sorted: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True
).encode


def dump_text(value: Any) -> str:
    """Compact JSON, names in the order they have."""
    return _encode(value)


def dump(value: Any) -> bytes:
    """As `dump_text`, in UTF-8."""
    return _encode(value).encode()


def canonical_hash(value: Any) -> bytes:
    """32 bytes that are equal for bodies that differ in white space, escapes and the order of names only."""
    return hashlib.sha256(_encode_sorted(value).encode()).digest()
