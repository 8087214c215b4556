"""Where encryption keys come from: the setting, or a file of mode 0600 beside an embedded database, made on first
start.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

from taskcenter.config import Settings, parse_encryption_keys
from taskcenter.errors import ConfigError
from taskcenter.store.url import MysqlUrl, SqliteUrl

EXAMPLE = "TASKCENTER_ENCRYPTION_KEYS=k1:$(openssl rand -base64 32)"


def load_keys(
    settings: Settings, database: SqliteUrl | MysqlUrl, random_bytes: Callable[[int], bytes] = os.urandom
) -> tuple[tuple[str, bytes], ...]:
    """(id, 32 bytes), newest first. Raises `ConfigError` when a MySQL database comes without keys."""
    if settings.encryption_keys is not None:
        return parse_encryption_keys(settings.encryption_keys.get_secret_value())
    if isinstance(database, MysqlUrl):
        raise ConfigError(f"TASKCENTER_ENCRYPTION_KEYS: is required with a MySQL database; e.g. {EXAMPLE}")
    path = Path(f"{database.path}.keys")
    if not path.exists():
        _write(path, f"k1:{base64.b64encode(random_bytes(32)).decode()}\n")
    try:
        return parse_encryption_keys(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: {error}; restore it from your backup, the database cannot be read without"
        ) from None


def _write(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
