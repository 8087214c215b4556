"""The servers that all other tests rely on are what they are promised to be."""

import os
import signal
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
import pytest
from tests.meta.tree import ROOT
from tests.servers import Fleet, PrivateServer
from tests.servers.rundir import process_state

KINDS = ["mariadb", "mysql"]


@pytest.fixture(params=KINDS, ids=KINDS)
def server(request: pytest.FixtureRequest, server_fleet: Fleet) -> PrivateServer:
    found = request.getfixturevalue(f"{request.param}_server")
    assert found is server_fleet.get(request.param)
    assert found.kind == request.param
    return found


def _connect(url: str, **options: Any) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
    parts = urlsplit(url)
    assert parts.scheme == "mysql"
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 0,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/") or None,
        autocommit=True,
        connect_timeout=5,
        read_timeout=20,
        **options,
    )


def _one(url: str, sql: str, **options: Any) -> object:
    with closing(_connect(url, **options)) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
        assert row is not None
        return row[0]


def _version(server: PrivateServer) -> tuple[int, int]:
    major, minor, *_ = str(server.execute("SELECT VERSION()")[0][0]).split(".")
    return int(major), int(minor)


def test_mariadb_is_a_supported_mariadb(mariadb_server: PrivateServer) -> None:
    mariadb_server.ensure_running()
    assert "MariaDB" in mariadb_server.execute("SELECT VERSION()")[0][0]
    assert _version(mariadb_server) >= (10, 6)
    plugin = mariadb_server.execute("SELECT plugin FROM mysql.user WHERE user = 'taskcenter'")
    assert plugin == [("mysql_native_password",)]


def test_mysql_is_a_real_mysql_with_its_default_accounts(mysql_server: PrivateServer) -> None:
    mysql_server.ensure_running()
    assert "MariaDB" not in mysql_server.execute("SELECT VERSION()")[0][0]
    assert _version(mysql_server) >= (8, 0)
    plugin = mysql_server.execute("SELECT plugin FROM mysql.user WHERE user = 'taskcenter'")
    assert plugin == [("caching_sha2_password",)]


def test_commits_are_durable_when_they_return(server: PrivateServer) -> None:
    assert server.execute("SELECT @@innodb_flush_log_at_trx_commit") == [(1,)]


def test_only_loopback_listens(server: PrivateServer) -> None:
    assert server.host == "127.0.0.1"
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
    }
    assert listening == {f"0100007F:{server.port:04X}"}


def test_tls_is_on_and_its_certificate_verifies(server: PrivateServer) -> None:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with closing(_connect(server.admin_url, ssl=context)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        row = cursor.fetchone()
        assert row is not None and row[1]


def test_account_owns_its_database_and_nothing_else(server: PrivateServer) -> None:
    first, second = server.create_database(), server.create_database()
    try:
        assert first != second
        with closing(_connect(first)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (n INT) ENGINE = InnoDB")
            cursor.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(pymysql.err.OperationalError):
                cursor.execute("CREATE DATABASE elsewhere")
    finally:
        server.drop_database(first)
        server.drop_database(second)
    assert server.execute("SHOW DATABASES LIKE %s", (urlsplit(first).path[1:],)) == []
    assert _one(server.admin_url, "SELECT 1") == 1


def test_a_database_is_dropped_from_under_a_session_that_still_uses_it(server: PrivateServer) -> None:
    url = server.create_database()
    connection = _connect(url)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n INT) ENGINE = InnoDB")
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1)")
        server.drop_database(url)
    assert server.execute("SHOW DATABASES LIKE %s", (urlsplit(url).path[1:],)) == []


def test_killed_server_comes_back_with_what_was_committed(server: PrivateServer) -> None:
    url = server.create_database()
    port, pid = server.port, server.pid
    with closing(_connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (n INT) ENGINE = InnoDB")
        cursor.execute("INSERT INTO t VALUES (7)")
        server.kill()
        assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(pymysql.err.OperationalError):
        _connect(url)
    server.start()
    assert (server.port, server.pid != pid) == (port, True)
    assert _one(url, "SELECT n FROM t") == 7
    server.restart()
    assert _one(url, "SELECT n FROM t") == 7
    server.drop_database(url)


def test_frozen_server_answers_nothing_until_it_goes_on(server: PrivateServer) -> None:
    with closing(_connect(server.admin_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        server.stop_signal()
        assert process_state(server.pid) == "T"
        server.cont()
        cursor.execute("SELECT 2")
        assert cursor.fetchone() == (2,)


def test_a_server_that_died_by_itself_is_not_brought_back_in_silence(server_fleet: Fleet) -> None:
    server = server_fleet.new("mariadb")
    server.start()
    os.kill(server.pid, signal.SIGKILL)
    server.wait_until_ended()
    with pytest.raises(RuntimeError, match="died by itself"):
        server.ensure_running()


_KILLED = """
import os, signal
from tests.servers import Fleet
server = Fleet().get("mariadb")
print(server.pid, server.run.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("server_fleet")
def test_what_a_killed_run_left_is_cleared_by_the_next() -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pid, run = killed.stdout.split()
    with Fleet() as fleet:
        fleet.new("mariadb")  # makes its run directory, which sweeps
        until = time.monotonic() + 30
        while Path(run).exists() or process_state(pid) not in "ZX":
            assert time.monotonic() < until, "neither this sweep nor one beside it cleared it"
            time.sleep(0.02)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_embedded_store_gets_a_file_of_its_own(database_url: str, tmp_path: Path) -> None:
    assert database_url == f"sqlite:///{tmp_path}/taskcenter.db"
    assert not (tmp_path / "taskcenter.db").exists()


def test_database_url_is_an_empty_database_on_each_store(database_url: str) -> None:
    if database_url.startswith("mysql://"):
        assert _one(database_url, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()") == 0
    else:
        assert database_url.startswith("sqlite:////")
