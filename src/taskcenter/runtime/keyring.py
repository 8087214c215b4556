"""Where encryption keys come from: the setting, or a file of mode 0600 beside an embedded database, made on first
start.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from taskcenter.config import Settings, parse_encryption_keys
from taskcenter.errors import ConfigError
from taskcenter.store.url import MysqlUrl, SqliteUrl

EXAMPLE = "TASKCENTER_ENCRYPTION_KEYS=k1:$(openssl rand -base64 32)"


def load_keys(
    settings: Settings, database: SqliteUrl | MysqlUrl, random_bytes: Callable[[int], bytes] = os.urandom
) -> tuple[tuple[str, bytes], ...]:
    """(id, 32 bytes), newest first. Raises `ConfigError` when a MySQL database comes without keys.

    The first key of an embedded database is made here, and is in memory only until `keep_keys` is called.
    """
    if settings.encryption_keys is not None:
        return parse_encryption_keys(settings.encryption_keys.get_secret_value())
    if isinstance(database, MysqlUrl):
        raise ConfigError(f"TASKCENTER_ENCRYPTION_KEYS: is required with a MySQL database; e.g. {EXAMPLE}")
    path = _beside(database)
    if not path.exists():
        return (("k1", random_bytes(32)),)
    try:
        return parse_encryption_keys(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}; restore it from your backup, the database cannot be read without"
        ) from None


def keep_keys(settings: Settings, database: SqliteUrl | MysqlUrl, keys: Sequence[tuple[str, bytes]]) -> None:
    """Write what `load_keys` has made, once it is known that the database holds nothing sealed with another."""
    if settings.encryption_keys is None and isinstance(database, SqliteUrl) and not _beside(database).exists():
        text = ",".join(f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys)
        _write(_beside(database), f"{text}\n")


def _beside(database: SqliteUrl) -> Path:
    return Path(f"{database.path}.keys")


def _write(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
