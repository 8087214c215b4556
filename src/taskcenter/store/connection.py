"""The one small interface through which the rest of `store/` speaks to a database, whatever its kind.

Both stores take the same `?` placeholders (never inside quotes), return rows as plain tuples and raise the same few
errors, so a statement is written once where the dialects agree. A unit of work is a coroutine function that gets a
`Connection`, and the `Database` decides where it runs, in which transaction, and how often:

* `read(work)` runs in autocommit: each statement sees the newest committed rows. It may not change anything.
* `write(work)` is one transaction. When the server breaks it for a lock (deadlock, lock wait) it is rolled back and
  `work` runs again from its start, so `work` must have no effect outside its connection. On SQLite it runs in another
  thread, so it must await nothing *but* its connection, must not call trio, and must not keep the connection.
* A lost answer to COMMIT is `CommitUnknown`, never repeated here: only the caller knows whether a repeat is harmless.

Whatever ends a block, nothing of it can be seen or committed by the next user of the same connection.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar, get_args

from taskcenter.errors import StoreUnavailable, TaskCenterError

Param = None | int | float | str | bytes
Row = tuple[Any, ...]
Dialect = Literal["mysql", "sqlite"]
T = TypeVar("T")
Work = Callable[["Connection"], Awaitable[T]]
Observe = Callable[[Literal["read", "write"], float], None]  # a block that ended well, and its duration in s
ACQUIRE_TIMEOUT_S = 1.8  # with the answer's own time it keeps a 503 under 2 s
STATEMENT_TIMEOUT_S = 5.0

FaultKind = Literal[
    "refused",  # no connection could be made
    "login",  # the server refused our account or database
    "tls",  # encryption asked for and not to be had, or not trustworthy
    "lost",  # an established connection broke
    "timeout",  # no answer in time
    "busy",  # all our connections are in use
    "lock",  # deadlock or lock wait, after the repeats
    "read_only",  # the server takes no writes now
    "full",  # its disk or its connection slots are used up
    "server",  # it says itself that it cannot serve (shutdown, killed, interrupted, damaged file)
    "closed",  # we closed it
]
FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)


class StoreFault(StoreUnavailable):
    """`StoreUnavailable` with its `kind`, a stable word for `taskcenter_db_errors_total`."""

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind: FaultKind = kind


class LockConflict(StoreFault):
    """Nobody's: two transactions met; this one is over and leaves no trace. `Database.write` repeats it by itself."""

    def __init__(self, message: str) -> None:
        super().__init__("lock", message)


class DuplicateKey(TaskCenterError):
    """Nobody's: a row with this unique key is already there. The transaction goes on.

    `key` names the constraint (MySQL) or the columns (SQLite); it never holds a value.
    """

    code = "duplicate_key"

    def __init__(self, key: str) -> None:
        super().__init__(f"a row with this key exists already ({key})")
        self.key = key


class QueryFault(TaskCenterError):
    """Ours: a statement, its parameters or the use of the connection is wrong. A bug, answered 500.

    `statement` is the text with its placeholders, never with a value; it stays out of the message.
    """

    def __init__(self, message: str, *, errno: int = 0, statement: str = "") -> None:
        super().__init__(message)
        self.errno = errno
        self.statement = statement[:500]


class Connection(Protocol):
    """What a unit of work gets. Valid only until the block it was handed to ends."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def server(self) -> str:
        """Kind and version: "mariadb 10.11.6", "mysql 9.7.4", "sqlite 3.40.1"."""
        ...

    async def execute(self, sql: str, params: Sequence[Param] = ()) -> int:
        """Run a statement that changes rows; returns how many it matched (not: changed)."""
        ...

    async def execute_insert_id(self, sql: str, params: Sequence[Param] = ()) -> int:
        """As `execute`, but returns the id it generated, or that `LAST_INSERT_ID(expr)` set; 0 when neither."""
        ...

    async def last_insert_id(self) -> int:
        """The id of the latest statement of this block that generated one, from memory; 0 when none did."""
        ...

    async def fetch(self, sql: str, params: Sequence[Param] = ()) -> list[Row]:
        """All rows. Numbers are int or float, text is str, binary columns are bytes; date columns come as text."""
        ...

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        """The first row or None."""
        ...

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        """`INSERT INTO t (a, b) VALUES (?, ?)`, with an optional tail, for many rows in as few statements as fit.

        Returns the number the server reports, summed (its meaning under an `ON DUPLICATE KEY UPDATE` is the server's).
        """
        ...


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """One look at a database's connections; all but the totals are of this moment."""

    size: int  # the most there may be
    in_use: int
    waiting: int
    opened_total: int
    discarded_total: int
    errors_total: Mapping[str, int] = field(default_factory=dict)  # by `FaultKind`, and "commit_unknown"


class Database(Protocol):
    """A store. Every method that reaches it raises `StoreUnavailable` (or its children) when it cannot be reached."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def server(self) -> str:
        """As `Connection.server`; the bare dialect until the first connection was made."""
        ...

    async def open(self) -> None:
        """Make the first connection. May be called again. Raises ConfigError for what the operator must mend."""
        ...

    async def aclose(self) -> None:
        """Close all, lanes included. May be repeated. Running blocks are cut off (MySQL) or finished (SQLite)."""
        ...

    async def read(self, work: Work[T]) -> T: ...

    async def write(self, work: Work[T], *, attempts: int = 3) -> T: ...

    async def lane(self, name: str) -> Database:
        """A handle that owns one connection and never waits for the pool: for the committer and the heartbeat."""
        ...

    def statistics(self) -> PoolStatistics: ...


def plain(value: Param) -> Param:
    """The value as one of the exact types a driver may see; a bool becomes an int. Raises QueryFault for any other.

    The whitelist stands between a caller's JSON and the SQL text: a dict or list that slipped through is spliced into
    the statement by some drivers (CVE-2024-36039).
    """
    if isinstance(value, int):  # bool and IntEnum too
        number = int(value)
        if not -(1 << 63) <= number < 1 << 63:
            raise QueryFault("an integer parameter does not fit 64 bits")
        return number
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise QueryFault("a float parameter is not finite")
        return float(value)
    if value is None or isinstance(value, bytes):
        return value
    raise QueryFault(f"a parameter of type {type(value).__name__} is not allowed")


def count_error(totals: dict[str, int], error: TaskCenterError) -> None:
    """Add one to the kind of this error, if it is the store's."""
    if isinstance(error, StoreUnavailable):
        kind = error.kind if isinstance(error, StoreFault) else error.code
        totals[kind] = totals.get(kind, 0) + 1
