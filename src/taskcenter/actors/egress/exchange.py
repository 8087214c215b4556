"""What goes into one HTTP exchange and what comes out: plain values, so that policy over them stays pure.

A fault is a value, not an exception: whoever sends must record every outcome, and a type cannot be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Final, Literal

from taskcenter.actors.egress.targets import ParsedTarget
from taskcenter.values import value_class

MAX_BODY_BYTES: Final = 1024 * 1024  # a larger answer is a fault
KEPT_BODY_BYTES: Final = 64 * 1024  # what is kept of it, to look for an action in; the rest is read and dropped
STORED_BODY_BYTES: Final = 4 * 1024  # what goes into the history

FaultKind = Literal["timeout", "connection_error", "blocked", "invalid_response"]


@value_class(frozen=True, slots=True)
class CallbackRequest:
    """One request. The transport writes Host, Content-Length, Accept-Encoding and Connection itself and drops a
    caller's; every other header goes out as given, in order."""

    method: str
    target: ParsedTarget
    headers: Iterable[tuple[str, str]] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    bearer: str | None = field(default=None, repr=False)  # the business's token among the headers, if it put one there
    may_send: Callable[[], bool] | None = field(default=None, repr=False)  # asked just before the first byte goes out


@value_class(frozen=True, slots=True)
class Answered:
    """The receiver answered in full, within the deadline and the limits."""

    status: int
    headers: tuple[tuple[str, str], ...]  # names in lower case, in the order they came
    body: bytes = field(repr=False)  # the first KEPT_BODY_BYTES
    body_size: int  # of the whole body
    reused: bool  # on a connection that an earlier exchange had used

    @property
    def stored_body(self) -> bytes:
        """What the history keeps."""
        return self.body[:STORED_BODY_BYTES]

    def header(self, name: str) -> str | None:
        """The first header of that name (lower case)."""
        for known, value in self.headers:
            if known == name:
                return value
        return None


@value_class(frozen=True, slots=True)
class Faulted:
    """There is no answer to go by. `message` is for the task's owner: it says what happened, with no secret in it."""

    kind: FaultKind
    message: str
    sent: bool  # any byte of the request may have reached the receiver


Exchange = Answered | Faulted


class Withheld(Exception):
    """Nobody's: when the connection was there at last, the request was not to be sent any more. No byte of it was."""
