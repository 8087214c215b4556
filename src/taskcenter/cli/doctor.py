"""`taskcenter doctor`: looks at what has to be right before and while the service runs, and says what to mend."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import httpx
import typer

from taskcenter.cli.misspelt import misspelt
from taskcenter.config import Settings, load_settings, parse_encryption_keys, split_address
from taskcenter.errors import ConfigError, TaskCenterError
from taskcenter.runtime.egress_settings import egress_policy
from taskcenter.store.admin import ServerFacts, server_facts
from taskcenter.store.revision import check
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url

MAX_CLOCK_OFFSET_S = 2.0
MIN_MYSQL, MIN_MARIADB = (8, 0), (10, 6)


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` is None when all is well."""

    check: str
    says: str
    mend: str | None = None


def doctor(
    config: Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.", metavar="FILE")] = None,
) -> None:
    """Check settings, database, clock, keys and reachability; exit status 1 when something has to be mended."""
    bad = False
    for finding in findings(config):
        bad = bad or finding.mend is not None
        typer.echo(f"{'MEND' if finding.mend else 'ok':<5} {finding.check:<12} {finding.says}")
        if finding.mend:
            typer.echo(f"{'':<18} → {finding.mend}")
    if bad:
        raise typer.Exit(1)


def findings(config: Path | None) -> Iterator[Finding]:
    """In the order in which one needs the other; ends early when settings cannot be read."""
    try:
        settings = load_settings(config)
        egress_policy(settings)
        database = parse_database_url(settings.database_url.get_secret_value())
    except ConfigError as error:
        yield Finding("settings", str(error), "correct this setting")
        return
    yield Finding("settings", "all values are in range")
    for name, meant in misspelt(os.environ):
        yield Finding("settings", f"{name} is no setting and is ignored", f"write it {meant}, or take it away")
    yield _keys(settings, database)
    yield _transit(settings, database)
    yield from _database(settings, database)
    for address in settings.bind:
        yield _reachability(address)


def _transit(settings: Settings, database: SqliteUrl | MysqlUrl) -> Finding:
    """What leaves this machine without TLS, as far as the settings tell. No fault: a proxy may well stand before us."""
    clear = []
    if settings.tls_cert is None:
        clear += [f"the API at {address}" for address in settings.bind if not _is_local(split_address(address)[0])]
    if isinstance(database, MysqlUrl) and not (_is_local(database.host) or database.ssl_mode.startswith("verify-")):
        clear.append(f"the database {database.host} (ssl-mode={database.ssl_mode}; safe is verify-full with ssl-ca)")
    if not clear:
        return Finding("transit", "TLS, or not beyond this machine")
    return Finding("transit", f"unless something else protects it, others may read or forge: {', '.join(clear)}")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _keys(settings: Settings, database: SqliteUrl | MysqlUrl) -> Finding:
    if settings.encryption_keys is not None:
        ids = [key_id for key_id, _ in parse_encryption_keys(settings.encryption_keys.get_secret_value())]
        return Finding("keys", f"{len(ids)} in the settings, {ids[0]} seals")
    if isinstance(database, MysqlUrl):
        return Finding(
            "keys", "none", "set TASKCENTER_ENCRYPTION_KEYS, e.g. to the output of: taskcenter keys generate"
        )
    path = Path(f"{database.path}.keys")
    if not path.exists():
        return Finding("keys", "none yet; made beside the database at the first start")
    if path.stat().st_mode & 0o077:
        return Finding("keys", f"{path} can be read by others", f"chmod 600 {path}")
    return Finding("keys", f"in {path}: back it up with the database")


def _database(settings: Settings, database: SqliteUrl | MysqlUrl) -> Iterator[Finding]:
    try:
        state = check(settings.database_url.get_secret_value())
    except TaskCenterError as error:
        yield Finding("database", str(error), "see that it runs, and that address, account and TLS are right")
        return
    if isinstance(database, SqliteUrl):
        yield Finding("database", f"SQLite file {database.path}, schema {state}")
        return
    wanted = None if state == "current" else "run: taskcenter migrate"
    yield Finding("schema", state, wanted)
    facts = _attempt(partial(server_facts, database))
    if isinstance(facts, Finding):
        yield facts
        return
    yield from _server(facts)


def _server(facts: ServerFacts) -> Iterator[Finding]:
    minimum = MIN_MARIADB if facts.kind == "mariadb" else MIN_MYSQL
    old = facts.version < minimum
    shown = ".".join(map(str, facts.version))
    yield Finding("server", f"{facts.kind} {shown}", f"use {minimum[0]}.{minimum[1]} or newer" if old else None)
    missing = sorted({"SELECT", "INSERT", "UPDATE", "DELETE"} - facts.privileges)
    yield Finding(
        "privileges",
        ", ".join(sorted(facts.privileges)) or "none",
        f"GRANT {', '.join(missing)} ON the database TO this account" if missing else None,
    )
    durable = facts.flush_log == 1
    yield Finding(
        "durability",
        f"innodb_flush_log_at_trx_commit = {facts.flush_log}",
        None if durable else "set innodb_flush_log_at_trx_commit = 1, or a crash of the server loses answered creates",
    )
    offset = facts.clock_s - time.time()
    yield Finding(
        "clock",
        f"the server is {offset:+.2f} s from here",
        "run NTP on both machines" if abs(offset) > MAX_CLOCK_OFFSET_S else None,
    )


def _reachability(address: str) -> Finding:
    host, port = split_address(address)
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # where to ask, not where to listen
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=3, trust_env=False)
    except httpx.HTTPError:
        with socket.socket(socket.AF_INET6 if ":" in shown else socket.AF_INET) as probe:
            taken = probe.connect_ex((shown, port)) == 0
        if taken:
            return Finding("service", f"something that is not this service listens at {address}", "free the port")
        return Finding("service", f"not running at {address}")
    if answer.status_code == 200:
        return Finding("service", f"ready at {address}")
    return Finding("service", f"at {address} answers {answer.status_code}", "look at its /health and its log")


def _attempt(work: Callable[[], ServerFacts]) -> ServerFacts | Finding:
    try:
        return work()
    except TaskCenterError as error:
        return Finding("server", str(error), "see that the account may log in")
