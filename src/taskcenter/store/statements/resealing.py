"""Statements that walk over everything sealed. They change ciphertexts only: no version, no time, no state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from taskcenter.store.connection import Param
from taskcenter.store.statements.text import Query

SET_META: Final = "UPDATE meta SET value = ? WHERE name = ?"


@dataclass(frozen=True, slots=True)
class Place:
    """Where sealed values lie: a table, walked by its primary key."""

    table: str
    columns: tuple[str, ...]
    first: tuple[Param, ...]  # a key before all keys
    scan: Query  # the keys after one, each with the beginning of its values: enough to tell the encryption key
    read: str  # by key: the values, and what guards the write
    write: str

    def after(self, key: tuple[Param, ...]) -> tuple[Param, ...]:
        """The parameters of `scan`, but for its limit."""
        return key if len(key) == 1 else (key[0], *key)

    def context(self, column: str, key: tuple[Param, ...]) -> str:
        """What `rows` binds a value of this place to."""
        return f"{self.table}.{column}:{'-'.join(str(part) for part in key)}"


def _same(text: str) -> Query:
    return Query(mysql=text, sqlite=text)


_ATTEMPTS: Final = (
    "SELECT task_id, number, SUBSTR(request_data, 1, 32), SUBSTR(response_data, 1, 32) FROM task_executions"
    " WHERE task_id >= ? AND {behind} ORDER BY task_id, number LIMIT ?"
)
PLACES: Final = (
    Place(
        "signing_secrets", ("secret",), ("",),
        _same("SELECT id, SUBSTR(secret, 1, 32) FROM signing_secrets WHERE id > ? ORDER BY id LIMIT ?"),
        "SELECT secret FROM signing_secrets WHERE id = ?",
        "UPDATE signing_secrets SET secret = ? WHERE id = ?",
    ),
    # whatever writes headers or payload raises the version: a row that was changed meanwhile is left as it is
    Place(
        "tasks", ("headers", "payload", "request_hash"), ("",),
        _same(
            "SELECT id, SUBSTR(headers, 1, 32), SUBSTR(payload, 1, 32), SUBSTR(request_hash, 1, 32) FROM tasks"
            " WHERE id > ? ORDER BY id LIMIT ?"
        ),
        "SELECT headers, payload, request_hash, version FROM tasks WHERE id = ?",
        "UPDATE tasks SET headers = ?, payload = ?, request_hash = ? WHERE id = ? AND version = ?",
    ),
    Place(
        "task_executions", ("request_data", "response_data"), ("", -1),
        Query(  # each server walks its primary key from here on, told in the form that it understands
            mysql=_ATTEMPTS.format(behind="(task_id > ? OR number > ?)"),
            sqlite=_ATTEMPTS.format(behind="(task_id, number) > (?, ?)"),
        ),
        "SELECT request_data, response_data FROM task_executions WHERE task_id = ? AND number = ?",
        "UPDATE task_executions SET request_data = ?, response_data = ? WHERE task_id = ? AND number = ?",
    ),
    # guarded like tasks: a change through the API raises the version
    Place(
        "business_systems", ("callback_auth", "callback_tls"), (-1,),
        _same(
            "SELECT id, SUBSTR(callback_auth, 1, 32), SUBSTR(callback_tls, 1, 32) FROM business_systems"
            " WHERE id > ? ORDER BY id LIMIT ?"
        ),
        "SELECT callback_auth, callback_tls, version FROM business_systems WHERE id = ?",
        "UPDATE business_systems SET callback_auth = ?, callback_tls = ? WHERE id = ? AND version = ?",
    ),
)  # fmt: skip
