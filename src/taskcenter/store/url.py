"""TASKCENTER_DATABASE_URL taken apart, with a fault named for every way to write it wrong (CONTRACT.md §2).

No message repeats the URL or any part that may be the password: a password with an unescaped `@`, `/` or `#` moves
the borders of all other parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from taskcenter.errors import ConfigError

SETTING: Final = "TASKCENTER_DATABASE_URL"
SQLITE_EXAMPLE: Final = "sqlite:///taskcenter.db"
MYSQL_EXAMPLE: Final = "mysql://user:password@host:3306/name?ssl-mode=verify-full&ssl-ca=/etc/ssl/db.pem"
DEFAULT_PORT: Final = 3306

SslMode = Literal["disabled", "preferred", "required", "verify-ca", "verify-full"]
SSL_MODES: Final = cast("tuple[SslMode, ...]", get_args(SslMode))


@dataclass(frozen=True, slots=True)
class SqliteUrl:
    """An embedded database file. `sqlite:///a.db` is relative to the working directory, `sqlite:////a.db` absolute."""

    path: str

    def __str__(self) -> str:
        return f"sqlite:///{self.path}"


@dataclass(frozen=True, slots=True)
class MysqlUrl:
    """A server of the MySQL protocol. `password` is decoded text and never in a repr."""

    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False, default="")
    ssl_mode: SslMode = "preferred"
    ssl_ca: str | None = None
    ssl_cert: str | None = None
    ssl_key: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mysql://{self.user}:***@{host}:{self.port}/{self.database}"


def fault(what: str, example: str = MYSQL_EXAMPLE) -> ConfigError:
    """The one line an operator sees: setting, fault, example."""
    return ConfigError(f"{SETTING}: {what}; example: {example}")


def parse_database_url(url: str) -> SqliteUrl | MysqlUrl:
    """Raises ConfigError with setting, fault and example."""
    if not url.strip():
        raise fault("is empty", SQLITE_EXAMPLE)
    if any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise fault("holds a blank or control character; write it percent-encoded")
    scheme = url.partition(":")[0].lower()
    if scheme == "sqlite":
        return _sqlite(url)
    if scheme in ("mysql", "mariadb"):
        return _mysql(url)
    raise fault("must begin with sqlite:/// or mysql://", SQLITE_EXAMPLE)


def _sqlite(url: str) -> SqliteUrl:
    rest = url.partition(":")[2]
    if not rest.startswith("///"):
        raise fault("needs three slashes before a relative path, four before an absolute one", SQLITE_EXAMPLE)
    if "?" in rest or "#" in rest:
        raise fault("a SQLite path takes no options; write ? as %3F and # as %23", SQLITE_EXAMPLE)
    path = _decoded(rest[3:], "path", SQLITE_EXAMPLE)
    if not path:
        raise fault("names no file", SQLITE_EXAMPLE)
    if path == ":memory:":
        raise fault("must be a file: what is only in memory is lost at the first stop", SQLITE_EXAMPLE)
    return SqliteUrl(path)


def _mysql(url: str) -> MysqlUrl:
    if "#" in url:
        raise fault("holds a '#', which must be written %23 in a password")
    split, port = _split(url)
    database = _decoded(split.path.removeprefix("/"), "database name")
    if not split.hostname:
        raise fault("names no host")
    if not database or "/" in database:
        raise fault("must end in one database name after the host, as in /taskcenter")
    user, separator, password = split.netloc.rpartition("@")[0].partition(":")
    if not user:
        raise fault("names no user")
    options = _options(split.query)
    return MysqlUrl(
        host=_decoded(split.hostname, "host"),
        port=port,
        user=_decoded(user, "user"),
        password=_decoded(password, "password") if separator else "",
        database=database,
        ssl_mode=_ssl_mode(options),
        ssl_ca=options.get("ssl-ca"),
        ssl_cert=options.get("ssl-cert"),
        ssl_key=options.get("ssl-key"),
    )


def _split(url: str) -> tuple[SplitResult, int]:
    """The URL's parts and its port. What urllib refuses is mostly a raw character in the password."""
    hint = "cannot be taken apart; write / ? # @ : [ ] in user or password percent-encoded (/ is %2F)"
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        split, port = None, None
    if split is None or "@" in split.path or "@" in split.query or split.netloc.count("@") > 1:
        raise fault(hint)
    if port == 0:
        raise fault("has port 0")
    return split, DEFAULT_PORT if port is None else port


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"):
            raise fault("takes the options ssl-mode, ssl-ca, ssl-cert and ssl-key only")
        if name in options or not value:
            raise fault(f"gives {name} twice or without a value")
        options[name] = value
    return options


def _ssl_mode(options: dict[str, str]) -> SslMode:
    """The mode asked for; a CA without a mode means it is to be checked (as with MySQL's own clients)."""
    asked = options.get("ssl-mode", "verify-ca" if "ssl-ca" in options else "preferred").lower()
    mode = next((mode for mode in SSL_MODES if mode == asked), None)
    if mode is None:
        raise fault(f"ssl-mode must be one of {', '.join(SSL_MODES)}")
    if "ssl-ca" in options and not mode.startswith("verify-"):
        raise fault(f"ssl-ca is not checked with ssl-mode={mode}; use verify-ca or verify-full")
    if ("ssl-key" in options) and ("ssl-cert" not in options):
        raise fault("ssl-key needs ssl-cert")
    if "ssl-cert" in options and mode == "disabled":
        raise fault("ssl-cert is not used with ssl-mode=disabled")
    return mode


def _decoded(text: str, what: str, example: str = MYSQL_EXAMPLE) -> str:
    """Percent-decoded. Raises ConfigError for what is no UTF-8 or holds a NUL."""
    decoded: str | None
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        decoded = None
    if decoded is None or "\0" in decoded:
        raise fault(f"the {what} is not UTF-8 after percent-decoding, or holds a NUL", example)
    return decoded
