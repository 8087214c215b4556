"""Every error the service raises on purpose, one small class for each kind of fault.

Each docstring says whose fault it is and what the API answers. `code` is the stable snake_case word
a client may switch on (CONTRACT.md §3). No message here may carry a secret, SQL or an address of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class TaskCenterError(Exception):
    """Base of all. Never raised itself."""

    code = "internal_error"


class ConfigError(TaskCenterError):
    """The operator's: a setting is wrong. One line: setting, fault, example. The process exits with 2."""

    code = "config_error"


class SchemaMismatch(TaskCenterError):
    """The operator's: the database's schema is older or newer than this release. The process exits with 3."""

    code = "schema_mismatch"


class InvalidTransition(TaskCenterError):
    """Ours: code asked for a move the state table does not have. Names state and event; a bug, answered 500."""

    code = "invalid_transition"


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One fault of the input: `field` is a dotted path as the caller wrote it, `message` says fault and example."""

    field: str
    message: str


class InvalidInput(TaskCenterError):
    """The caller's: well-formed JSON that breaks a rule. 422 with `errors: [{field, message}]`."""

    code = "invalid_request"

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.message}".removeprefix(": ") for fault in faults))
        self.faults = tuple(faults)


class Unauthenticated(TaskCenterError):
    """The caller's: no valid credential. 401; `reason` is for audit and metrics, not for the body."""

    code = "unauthenticated"

    def __init__(self, reason: str, *, key_id: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.key_id = key_id


class Forbidden(TaskCenterError):
    """The caller's: a valid credential without this authority. 403."""

    code = "forbidden"


class NotFound(TaskCenterError):
    """The caller's: no such thing, or it is another business's (existence is not told). 404."""

    code = "not_found"


class Conflict(TaskCenterError):
    """The caller's: the thing's present state refuses. 409 with `code` and further members (`existing_task_id` …)."""

    def __init__(self, code: str, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.members = members


class TooMany(TaskCenterError):
    """The caller's: a quota or rate is used up: 429 with `Retry-After`, `quota_exceeded` or `rate_limited`."""

    def __init__(self, code: str, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after_s = retry_after_s


class Overloaded(TaskCenterError):
    """Ours: the service sheds work before latency collapses. 503 with `Retry-After`."""

    code = "overloaded"
    retry_after_s = 1.0


class StoreUnavailable(TaskCenterError):
    """The database's: cannot be reached, refuses, is full or did not answer in time. 503 with `Retry-After`.

    Nothing of the statement was committed, unless it is a `CommitUnknown`.
    """

    code = "store_unavailable"
    retry_after_s = 2.0


class CommitUnknown(StoreUnavailable):
    """The database's: the answer to COMMIT was lost. The work may be there or not; re-read, or repeat if idempotent."""

    code = "commit_unknown"


class Fenced(TaskCenterError):
    """Nobody's: another instance owns the shard now; whatever was asked under the older term did not happen."""

    code = "fenced"
