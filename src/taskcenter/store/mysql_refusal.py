"""A server's error packet. Pure.

Its message may quote values, accounts and addresses, so none is kept: only from 1062 the name of the key, which stands
last in the message on both servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DUPLICATE: Final = 1062
_KEY: Final = re.compile(rb"for key '([^']+)'\s*\Z")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error packet: the server's own decision about one command. The connection is in step afterwards."""

    errno: int
    sqlstate: str
    key: str = ""  # of 1062


def parse_refusal(payload: bytes) -> Refusal:
    """Take an error packet apart. Errors before the handshake have no sqlstate (1040 for one)."""
    errno = int.from_bytes(payload[1:3], "little")
    if payload[3:4] == b"#":
        sqlstate, message = payload[4:9].decode("ascii", "replace"), payload[9:]
    else:
        sqlstate, message = "", payload[3:]
    key = ""
    if errno == DUPLICATE and (found := _KEY.search(message)):
        key = found[1].decode("utf-8", "replace").rpartition(".")[2]  # MySQL 8 puts the table before it
    return Refusal(errno, sqlstate, key)
