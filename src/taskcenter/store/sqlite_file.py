"""The file of an embedded database: who may open it, how a connection to it is set up, what its error codes mean.

Codes: https://www.sqlite.org/rescode.html. A message of SQLite names columns and tables, never values; still only the
columns of a violated key are passed on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from taskcenter.errors import TaskCenterError
from taskcenter.store.connection import DuplicateKey, LockConflict, QueryFault, StoreFault
from taskcenter.store.url import SQLITE_EXAMPLE, fault

MEMORY: Final = ":memory:"
_DUPLICATE: Final = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID}
)
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SERVER: Final = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, *_DAMAGED}
)


def statement_error(error: Exception, sql: str, *, writable: bool) -> TaskCenterError:
    """What an error of the sqlite3 module means to the block that ran `sql`."""
    code = getattr(error, "sqlite_errorcode", 0)  # 0: the module itself objects, to parameters for instance
    primary = code & 0xFF
    if code in _DUPLICATE:
        columns = str(error).partition("failed: ")[2] or "unnamed"
        return DuplicateKey(",".join(name.rpartition(".")[2] for name in columns.split(", ")))
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockConflict("another process holds the database file's lock")
    if primary == sqlite3.SQLITE_FULL:
        return StoreFault("full", "the database's disk is full")
    if primary == sqlite3.SQLITE_INTERRUPT:
        return StoreFault("timeout", "a read of the database took too long")
    if primary == sqlite3.SQLITE_READONLY and writable:
        return StoreFault("read_only", "the database file is read only")
    if primary in _DAMAGED:
        return StoreFault("server", "the database file is damaged")
    if primary in _SERVER:
        return StoreFault("server", f"the database file cannot be used ({_name(error)})")
    return QueryFault(f"the database refused a statement ({_name(error)})", errno=code, statement=sql)


def unusable(error: sqlite3.Error, path: str, *, writable: bool) -> TaskCenterError:
    """What an error before the first statement of ours means: a file that is no database is a wrong setting."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        what = f"{Path(path).name!r} is not a SQLite database, or is damaged; restore it or name another file"
        return fault(what, SQLITE_EXAMPLE)
    return statement_error(error, "", writable=writable)


def _name(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


class FileLock:
    """An advisory lock beside the file: only one process serves it. Ends with `release` or with the process."""

    def __init__(self, path: str) -> None:
        """`path` of the database. Raises ConfigError when it cannot be served: no directory, no right, in use."""
        target = Path(path).resolve()
        wrong: str | None = None
        self._descriptor = -1
        if not target.parent.is_dir():
            raise fault(f"the directory of {path!r} does not exist", SQLITE_EXAMPLE)
        if target.exists() and not target.is_file():
            raise fault(f"{path!r} is not a file", SQLITE_EXAMPLE)
        try:
            self._descriptor = os.open(f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # not for others' eyes
        except BlockingIOError:
            wrong = f"another process serves this database ({path!r} is locked); several processes need MySQL"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                self.release()
                raise StoreFault("full", "the database's disk is full or broken") from None
            wrong = f"{path!r} cannot be opened for writing ({error.strerror})"
        if wrong is not None:
            self.release()
            raise fault(wrong, SQLITE_EXAMPLE)

    def release(self) -> None:
        """May be repeated. The lock file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def connect(path: str, *, reader: bool, busy_timeout_s: float, durable: bool) -> sqlite3.Connection:
    """A connection in WAL mode, set up. Raises ConfigError for what is no database of ours, StoreFault otherwise."""
    raw = sqlite3.connect(
        path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    failure: sqlite3.Error | None = None
    mode = ""
    try:
        mode = raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        raw.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA trusted_schema=OFF")
        raw.execute("PRAGMA temp_store=MEMORY")
        raw.execute("PRAGMA journal_size_limit=67108864")
        raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if reader:
            raw.execute("PRAGMA query_only=ON")
    except sqlite3.Error as error:
        failure = error
    if failure is None and (mode == "wal" or path == MEMORY):
        return raw
    raw.close()
    if failure is None:
        raise fault("the file's system has no write-ahead log (a network share?); use a local disk", SQLITE_EXAMPLE)
    raise unusable(failure, path, writable=not reader)
