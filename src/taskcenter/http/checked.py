"""Hypercorn's h11 connection, with what stands in it looked at before and after h11.

`CheckedConnection` stands before hypercorn's h11 connection, as hypercorn's own H11WSConnection does, and passes
everything on, but shows each head to `check_head` first. It knows where a head begins because h11 tells it: at the
start, and after `start_next_cycle`. Pipelined requests are therefore checked like all others. What h11 took for the end
of a chunked body, trailers included, is shown to `check_trailers` after it.
"""

from __future__ import annotations

from typing import Any, cast

from taskcenter.http.head import Caller, Head, check_head, check_trailers
from taskcenter.http.limits import ServerSettings


class ConnectionOver(Exception):
    """Nobody's: the connection is closing, so nothing more is read from h11's buffer."""


class CheckedConnection:
    """Hypercorn's h11 connection behind `check_head`. `next_event` raises `Refused` and `ConnectionOver` besides."""

    def __init__(self, inner: Any, settings: ServerSettings) -> None:
        self._inner = inner
        self._settings = settings
        self._head = Head.INCOMPLETE  # what stands before, or was last parsed from, h11's buffer
        self._head_bytes = b""
        self._before = b""  # h11's buffer before the last event of a chunked body
        self.over = False  # set by the protocol: nothing is parsed any more
        self.receive_data = inner.receive_data
        self.send = inner.send

    @property
    def our_state(self) -> Any:
        return self._inner.our_state

    @property
    def their_state(self) -> Any:
        return self._inner.their_state

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        return not self.over and bool(self._inner.they_are_waiting_for_100_continue)

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        return cast("tuple[bytes, bool]", self._inner.trailing_data)

    @property
    def caller(self) -> Caller:
        """Who sent the head that was looked at last."""
        return Caller.of(self._head_bytes)

    def next_event(self) -> Any:
        if self.over:
            raise ConnectionOver
        if self._head is Head.INCOMPLETE:
            self._head_bytes = self._inner.trailing_data[0]
            self._head = check_head(self._head_bytes, self._settings)
        if self._head is Head.CHUNKED:
            self._before = self._inner.trailing_data[0]
        return self._inner.next_event()

    def check_ending(self) -> None:
        """The last event was the body's end: look at the bytes h11 took for it. Raises `Refused`."""
        if self._head is Head.CHUNKED:
            check_trailers(self._before[: len(self._before) - len(self.trailing_data[0])])

    def start_next_cycle(self) -> None:
        self._inner.start_next_cycle()
        self._head = Head.INCOMPLETE
        self._head_bytes = self._before = b""  # thousands of idle connections would each keep 64 KiB
