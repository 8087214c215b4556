"""Creates are refused at the wire while the service is overloaded, for what a refusal costs is taken from useful work.

A create that goes through the framework costs about a millisecond of CPU, and refusing it there most of that: at twice
the capacity the refusals alone would use the process up. Here a whole request that came in one read is looked at
before it is parsed, and answered from a few lines: h11 and hypercorn never see it, and the connection stays as it was.
Whatever is not plainly such a request takes the long way, where the service refuses it as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Final

from taskcenter.http.head import Caller, Head, Refused, check_head
from taskcenter.http.limits import ServerMeter, ServerSettings
from taskcenter.http.problems import Problem

REFUSALS: Final = 300  # a second: what they cost is a small part of a core
MOST_AWAY_S: Final = 10  # on average
MOST_OPEN: Final = 128  # what one process answers in less than 200 ms
_CREATE: Final = (b"POST /api/v1/tasks ", b"POST /api/v1/tasks/batch ")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,8})[ \t]*\r", re.IGNORECASE)
_NOT_PLAIN: Final = re.compile(rb"\n(?:expect|connection|upgrade):", re.IGNORECASE)


class RetryAfter:
    """For how long those who are refused are told to stay away, so that no more than `REFUSALS` come back a second.

    By Little's law: who are away are as many as are refused a second, times how long each stays. That is an average:
    each is told between a half and one and a half of it, for those who were refused together would come back together,
    and wait for each other's refusals. Pure.
    """

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance`: from 0 to 1, 1 excluded."""
        self.seconds = 1  # on average
        self._chance = chance
        self._away = 0.0  # clients, by what the last seconds told; forgotten by a tenth a second
        self._refused = 0  # in the present second
        self._second = 0

    def refused(self, now_s: float) -> int:
        """One more is refused; how long it shall stay away, in s."""
        elapsed = int(now_s) - self._second
        if elapsed:
            self._away = max(self._away * 0.9, float(self._refused * self.seconds)) * 0.9 ** (elapsed - 1)
            self.seconds = min(max(1, math.ceil(self._away / REFUSALS)), MOST_AWAY_S)
            self._refused, self._second = 0, int(now_s)
        self._refused += 1
        least, most = (self.seconds + 1) // 2, self.seconds + self.seconds // 2
        return least + int(self._chance() * (most - least + 1))


class Shedder:
    """Creates are shed while there is a reason, or while `MOST_OPEN` requests are on their way: a flood would otherwise
    be inside before any queue is seen to stand.
    """

    def __init__(
        self, reason: Callable[[], str | None], count: Callable[[], None], chance: Callable[[], float]
    ) -> None:
        """`reason`: why creates are shed now, or None; it is asked for every create. `count`: one was refused.
        `chance`: see `RetryAfter`.
        """
        self._reason = reason
        self._count = count
        self._retry_after = RetryAfter(chance)

    def answer(
        self, data: bytes, settings: ServerSettings, meter: ServerMeter, now_s: float
    ) -> Callable[[str], bytes] | None:
        """To `data`, what a connection at rest has just received: by a request id. None: it is to be served."""
        if not data.startswith(_CREATE):
            return None
        full = f"{meter.requests_open} requests are on their way" if meter.requests_open >= MOST_OPEN else None
        reason = full or self._reason()
        if reason is None or not _is_plain(data, settings):
            return None
        self._count()
        meter.refusal("overloaded")
        return partial(_refusal, reason, self._retry_after.refused(now_s), Caller.of(data))


def _is_plain(data: bytes, settings: ServerSettings) -> bool:
    """Whether it is one whole request with nothing special about it, and nothing after it."""
    end = data.find(b"\r\n\r\n") + 4
    length = _LENGTH.search(data, 0, end)
    if end < 4 or length is None or len(data) != end + int(length[1]) or _NOT_PLAIN.search(data, 0, end):
        return False
    try:
        return check_head(data, settings) is Head.PLAIN
    except Refused:
        return False  # and is told so the long way


def _refusal(reason: str, retry_after_s: int, caller: Caller, new_id: str) -> bytes:
    body = json.dumps(Problem(503, "overloaded", reason).fields(caller.path)).encode("ascii")
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
        b"retry-after: %d\r\nx-request-id: %s\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\n\r\n"
    )
    return head % (len(body), retry_after_s, (caller.request_id or new_id).encode("ascii")) + body
