"""What a MySQL or MariaDB error code means to us, in one table; checked on MariaDB 10.11 and MySQL 9.7.

An error of ours says the server's code and our own words, never the server's.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

import trio
from trio_mysql import err

from taskcenter.errors import CommitUnknown, TaskCenterError
from taskcenter.store.connection import DuplicateKey, FaultKind, LockConflict, QueryFault, StoreFault
from taskcenter.store.mysql_refusal import DUPLICATE, Refusal

# The server has ended (1213, 1020) or must be made to end (1205, 3572: ROLLBACK) the transaction; a repeat may succeed.
CONFLICTS: Final = {1205: "lock wait", 1213: "deadlock", 1020: "row changed", 3572: "row locked"}
FAULTS: Final[dict[int, tuple[FaultKind, str]]] = {
    1290: ("read_only", "takes no writes (read only)"),
    1792: ("read_only", "takes no writes (read-only transaction)"),
    1836: ("read_only", "takes no writes (read-only mode)"),
    1021: ("full", "has no disk space left"),
    1114: ("full", "has no room left for the table"),
    3675: ("full", "has no room left for the table"),
    1040: ("full", "has no free connection (max_connections)"),
    1203: ("full", "has no free connection for this user (max_user_connections)"),
    1226: ("full", "has no free connection for this user (resource limit)"),
    1037: ("full", "is out of memory"),
    1038: ("full", "is out of sort memory"),
    1041: ("full", "is out of memory"),
    1206: ("full", "is out of lock memory"),
    1044: ("login", "refuses this user the database"),
    1045: ("login", "refuses the user or the password"),
    1049: ("login", "has no database of this name"),
    1129: ("login", "blocks this host after failed connections"),
    1130: ("login", "does not let this host in"),
    1184: ("lost", "aborted a new connection"),
    1251: ("login", "wants a login method that is not supported"),
    1698: ("login", "refuses the user or the password"),
    1820: ("login", "wants the password changed"),
    1862: ("login", "wants the expired password changed"),
    3118: ("login", "has locked the account"),
    4151: ("login", "has locked the account"),
    2059: ("login", "wants a login method that is not supported"),
    2061: ("login", "broke off the login"),
    3159: ("tls", "takes encrypted connections only (ssl-mode)"),
    1028: ("timeout", "aborted a sort"),
    1159: ("lost", "timed out reading from us"),
    1969: ("timeout", "stopped a statement that took too long"),
    3024: ("timeout", "stopped a statement that took too long"),
    1030: ("server", "got an error from its storage engine"),
    1034: ("server", "has a damaged table"),
    1053: ("server", "is shutting down"),
    1077: ("server", "is shutting down"),
    1079: ("server", "is shutting down"),
    1194: ("server", "has a damaged table"),
    1195: ("server", "has a damaged table"),
    1317: ("server", "was told to interrupt a statement"),
    1927: ("server", "was told to end this connection"),
    3032: ("server", "is in offline mode"),
    3169: ("server", "was told to end this connection"),
    3058: ("server", "is in offline mode"),
    4031: ("server", "ended an idle connection"),
    1047: ("server", "is not ready for commands"),
    1153: ("lost", "refused an oversized packet"),
    1158: ("lost", "lost this connection"),
    1160: ("lost", "lost this connection"),
    1161: ("lost", "lost this connection"),
    2003: ("refused", "cannot be reached"),
    2006: ("lost", "is gone"),
    2013: ("lost", "closed the connection in the middle of an answer"),
}
# The only answers to COMMIT after which nothing can have been committed.
NOT_COMMITTED: Final = frozenset({1205, 1213, 1290, 1792, 1836})


def statement_error(refusal: Refusal, statement: str) -> TaskCenterError:
    """The error a unit of work sees for a refused statement."""
    errno = refusal.errno
    if errno == DUPLICATE:
        return DuplicateKey(refusal.key or "unnamed")
    if errno in CONFLICTS:
        return LockConflict(f"the database broke off a transaction for a {CONFLICTS[errno]} ({errno})")
    if errno in FAULTS:
        return refused(errno)
    words = f"the database refused a statement ({errno}, {refusal.sqlstate})"
    return QueryFault(words, errno=errno, statement=statement)


def commit_error(refusal: Refusal) -> TaskCenterError:
    """The error for a refused COMMIT: unknown unless the code rules out that it took effect."""
    if refusal.errno in NOT_COMMITTED:
        return statement_error(refusal, "COMMIT")
    return CommitUnknown(f"the database answered COMMIT with an error ({refusal.errno}); it may have taken effect")


def refused(errno: int) -> StoreFault:
    """The fault a listed code stands for; any other one is the server's own."""
    kind, words = FAULTS.get(errno, ("server", "reported an error"))
    return StoreFault(kind, f"the database {words} ({errno})")


# Whatever a stranger, a half-dead server or a cut connection can make the driver's parser raise.
CONNECT_ERRORS: Final = (
    err.MySQLError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    LookupError,
    ValueError,
    AssertionError,
    NameError,  # the driver's greeting parser, on a greeting that is too short
)


def connect_error(error: BaseException) -> StoreFault:
    """The fault for anything that went wrong before a connection was ready."""
    if isinstance(error, StoreFault):
        return error
    if isinstance(error, trio.TooSlowError):
        return StoreFault("timeout", "the database did not answer a new connection in time")
    if isinstance(error, err.MySQLError):
        errno = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        return refused(errno) if errno else StoreFault("lost", "the database broke off the login")
    if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, ssl.SSLError | ssl.CertificateError):
        return tls_fault(error.__cause__)
    if isinstance(error, socket.gaierror):
        return StoreFault("refused", "the database's host name cannot be resolved")
    if isinstance(error, OSError):
        return StoreFault("refused", f"the database cannot be reached ({error.strerror or type(error).__name__})")
    return StoreFault("lost", f"the database did not speak the MySQL protocol ({type(error).__name__})")


def tls_fault(error: ssl.SSLError | ssl.CertificateError) -> StoreFault:
    """The fault for a handshake that failed."""
    return StoreFault("tls", f"the database's certificate or encryption is refused ({_reason(error)})")


_OTHER_HOST: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH


def _reason(error: BaseException) -> str:
    """OpenSSL's own words for a failed handshake; they hold names of checks, no addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "it is another host's" if error.verify_code in _OTHER_HOST else error.verify_message
    return (getattr(error, "reason", None) or type(error).__name__).lower().replace("_", " ")
