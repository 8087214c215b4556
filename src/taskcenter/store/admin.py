"""What an operator's check asks of a MySQL-protocol server, over the synchronous driver; never on the service's way."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

import pymysql

from taskcenter.store.connection import StoreFault
from taskcenter.store.url import MysqlUrl

TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class ServerFacts:
    kind: str  # mysql | mariadb
    version: tuple[int, int]
    privileges: frozenset[str]  # upper case, of this account on this database
    flush_log: int  # innodb_flush_log_at_trx_commit
    clock_s: float  # the server's UTC, s since 1970


def server_facts(url: MysqlUrl) -> ServerFacts:
    """Raises `StoreUnavailable`."""
    try:
        connection = pymysql.connect(
            host=url.host,
            port=url.port,
            user=url.user,
            password=url.password,
            database=url.database,
            connect_timeout=TIMEOUT_S,
            read_timeout=TIMEOUT_S,
            ssl=_tls(url),
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT VERSION(), @@innodb_flush_log_at_trx_commit, UNIX_TIMESTAMP(UTC_TIMESTAMP(6)),"
                " TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())"
            )
            [(version, flush_log, clock_s, zone_s)] = cursor.fetchall()
            cursor.execute("SHOW GRANTS")
            grants = [row[0] for row in cursor.fetchall()]
    except (pymysql.MySQLError, OSError) as error:
        code = error.args[0] if error.args else ""
        raise StoreFault("refused", f"{url.host}:{url.port} refuses (error {code})") from None
    major, minor = re.match(r"(\d+)\.(\d+)", version).groups()  # type: ignore[union-attr]  # every server says one
    kind = "mariadb" if "mariadb" in version.lower() else "mysql"
    return ServerFacts(
        kind,
        (int(major), int(minor)),
        privileges(grants, url.database),
        int(flush_log),
        float(clock_s) + float(zone_s),
    )


def privileges(grants: list[str], database: str) -> frozenset[str]:
    """What lines of SHOW GRANTS allow on the database, in upper case; a grant may name it by a pattern."""
    found: set[str] = set()
    for grant in grants:
        match = re.match(r"GRANT (.+?) ON (?:`((?:[^`]|``)*)`|([^`.\s]+))\.", grant)
        if match and (match[3] == "*" or _named(match[2] or match[3]).fullmatch(database)):
            words = {word.strip().upper() for word in match[1].split(",")}
            found |= (
                {"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX"}
                if ("ALL PRIVILEGES" in words)
                else words
            )
    return frozenset(found)


def _named(pattern: str) -> re.Pattern[str]:
    """Of the database names that a grant's pattern stands for: `%` any text, `_` any character, a backslash before."""
    words = {"%": ".*", "_": "."}
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    return re.compile("".join(words.get(part, re.escape(part[-1])) for part in parts), re.DOTALL)


def _tls(url: MysqlUrl) -> ssl.SSLContext | None:
    if url.ssl_mode == "disabled":
        return None
    context = ssl.create_default_context(cafile=url.ssl_ca)
    if url.ssl_mode != "verify-full":
        context.check_hostname = False
    if url.ssl_mode in ("preferred", "required"):
        context.verify_mode = ssl.CERT_NONE
    return context
