"""Whether the store is out, by what became of the latest reads and writes. Pure: `now` is passed in, in s.

Reads and writes are told apart: a server that is read only and a full disk answer every read. One failure is no outage
(a connection that broke, a lock): it is one when nothing but failures came for `OUT_AFTER_S`. The first success ends
it. Nobody asks the store for this alone: the sweep reads it every second, the heartbeat writes every few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

OUT_AFTER_S: Final = 1.0
Kind = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class Turn:
    """The store went out for this kind of work, or came back."""

    work: Kind
    out: bool
    fault: str  # the kind of the latest failure: a `FaultKind`, or "commit_unknown"
    lasted_s: float  # since the first failure
    failures: int


class Listener(Protocol):
    """Both are plain functions, and must not fail."""

    def turned(self, turn: Turn) -> None:
        """Once for each turn."""

    def failed(self, work: Kind, fault: str) -> None:
        """Once for each failure, an outage or not."""


@dataclass(slots=True)
class _Row:
    """Failures without a success between them."""

    began_at: float = 0.0
    failures: int = 0
    fault: str = ""
    out: bool = False


class StoreWatch:
    """One a process; told by `MeteredDatabase`."""

    def __init__(self) -> None:
        self._rows: dict[Kind, _Row] = {"read": _Row(), "write": _Row()}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def succeeded(self, work: Kind, now: float) -> None:
        row = self._rows[work]
        if not row.failures:
            return
        self._rows[work] = _Row()
        if row.out:
            self._tell(work, row, now, out=False)

    def failed(self, work: Kind, fault: str, now: float) -> None:
        row = self._rows[work]
        if not row.failures:
            row.began_at = now
        row.failures += 1
        row.fault = fault
        for listener in self._listeners:
            listener.failed(work, fault)
        if not row.out and now - row.began_at >= OUT_AFTER_S:
            row.out = True
            self._tell(work, row, now, out=True)

    def trouble(self) -> str | None:
        """What fails now, in words; None while all is well."""
        out = [f"{work}s fail ({row.fault})" for work, row in self._rows.items() if row.out]
        return " and ".join(out) or None

    def _tell(self, work: Kind, row: _Row, now: float, *, out: bool) -> None:
        for listener in self._listeners:
            listener.turned(Turn(work, out, row.fault, now - row.began_at, row.failures))

    def __repr__(self) -> str:
        return f"<StoreWatch {self.trouble() or 'all well'}>"
