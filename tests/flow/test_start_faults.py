"""A start that cannot succeed says why in one line, sets the exit status and damages nothing; a start with much to load
succeeds.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from tests.flow.kit import ADMIN_TOKEN, ENCRYPTION_KEYS, Service, business, running
from tests.servers import PrivateServer
from tests.store.connection_kit import by_hand

from taskcenter.store import migrate

pytestmark = pytest.mark.real_time

REFUSED, USAGE, SCHEMA = 1, 2, 3
ENDS_WITHIN_S = 60.0  # no measure of speed: a start that hangs fails
SEEDED = 100_000
# No file may grow beyond 8 KiB, less than a schema or SQLite's shared index takes: the kernel refuses a write as on a
# full disk.
FULL = "taskcenter: TASKCENTER_DATABASE_URL: the database"
FULL_DISK = ["sh", "-c", 'ulimit -f 16; exec "$@"', "sh"]


def serve(directory: Path, *around: str, **settings: str | None) -> tuple[int, str]:
    """`taskcenter serve` in `directory`, to its end: exit status, and the one line it left."""
    environment: dict[str, str | None] = {
        **os.environ,
        "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN,
        "TASKCENTER_ENCRYPTION_KEYS": ENCRYPTION_KEYS,
        "TASKCENTER_BIND": "127.0.0.1:0",
        "TASKCENTER_LOG_LEVEL": "error",
        **settings,
    }
    command = [*around, sys.executable, "-m", "taskcenter", "serve"]
    given = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        command, cwd=directory, env=given, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("taskcenter: ")
    return done.returncode, lines[0]


def serve_on_full_disk(directory: Path, url: str) -> tuple[int, str]:
    return serve(directory, *FULL_DISK, TASKCENTER_DATABASE_URL=url)


@pytest.mark.parametrize(
    "name, value, fault, example",
    [
        ("TASKCENTER_LEASE_TTL", "soon", "valid number", "e.g. 10"),
        ("TASKCENTER_BIND", "localhost", "'localhost' is not host:port", "e.g. 0.0.0.0:8080"),
        ("TASKCENTER_ENCRYPTION_KEYS", "k1:c2hvcnQ=", "has 5 bytes, not 32", "e.g. k1:"),
        ("TASKCENTER_ALLOWED_CALLBACK_NETWORKS", "10.0.0.0/33", "10.0.0.0/33", "e.g. 127.0.0.0/8"),
        ("TASKCENTER_DENIED_CALLBACK_HOSTS", "a.example/x", "is not a host pattern", "e.g. *.internal.example"),
        ("TASKCENTER_ALLOWED_CALLBACK_PORTS", "443,70000", "'70000' is no port from 1 to 65535", "e.g. 80,443,8443"),
        ("TASKCENTER_ALLOWED_CALLBACK_PORTS", "https", "'https' is no port from 1 to 65535", "e.g. 80,443,8443"),
        ("TASKCENTER_ALERT_PLUGINS", "nowhere_at_all:page", "No module named", "e.g. ops_alerts:page"),
        ("TASKCENTER_LOG_FORMAT", "xml", "should be 'json' or 'console'", "e.g. json"),
        ("TASKCENTER_KEY_ENVIRONMENT", "admin", "what the admin token begins with", "e.g. staging"),
        ("TASKCENTER_JWT_SECRET", "sixteen-letters-and-more,short", "is shorter than 16", "e.g. "),
        ("TASKCENTER_DATABASE_URL", "postgres://db/tasks", "must begin with sqlite:/// or mysql://", "sqlite:///"),
    ],
)
def test_wrong_setting_is_named_with_its_fault_and_an_example(
    tmp_path: Path, name: str, value: str, fault: str, example: str
) -> None:
    status, line = serve(tmp_path, **{name: value})
    assert status == USAGE
    assert line.startswith(f"taskcenter: {name}: ")
    assert fault in line
    assert example in line
    assert list(tmp_path.iterdir()) == []


def test_unreachable_database_ends_the_start_without_its_password(tmp_path: Path) -> None:
    status, line = serve(tmp_path, TASKCENTER_DATABASE_URL="mysql://someone:hush-hush@127.0.0.1:1/tasks")
    assert status == REFUSED
    assert line.startswith("taskcenter: TASKCENTER_DATABASE_URL: the database cannot be reached")
    assert "e.g. mysql://" in line
    assert "hush" not in line


def test_newer_schema_is_left_alone(database_url: str, tmp_path: Path) -> None:
    migrate.up(database_url)
    by_hand(database_url, "UPDATE alembic_version SET version_num = '9999'")
    status, line = serve(tmp_path, TASKCENTER_DATABASE_URL=database_url)
    assert status == SCHEMA
    assert "schema 9999, which is newer than this release" in line
    assert by_hand(database_url, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert by_hand(database_url, "SELECT COUNT(*) FROM instances") == [(0,)], "nothing was registered"


@pytest.mark.parametrize("store", ["mariadb", "mysql"])
def test_server_without_schema_is_not_migrated_unasked(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    server = request.getfixturevalue(f"{store}_server")
    url = server.create_database()
    try:
        status, line = serve(tmp_path, TASKCENTER_DATABASE_URL=url)
        assert status == SCHEMA
        assert "run `taskcenter migrate`" in line
        assert by_hand(url, "SHOW TABLES") == []
    finally:
        server.drop_database(url)


def test_missing_directory_is_named_and_not_made(tmp_path: Path) -> None:
    status, line = serve(tmp_path, TASKCENTER_DATABASE_URL="sqlite:///var/taskcenter.db")
    assert status == USAGE
    assert "the directory of 'var/taskcenter.db' does not exist" in line
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.db"
    notes.write_bytes(b"the minutes of the last meeting\n" * 400)
    before = notes.read_bytes()
    status, line = serve(tmp_path, TASKCENTER_DATABASE_URL="sqlite:///notes.db")
    assert status == USAGE
    assert "'notes.db' is not a SQLite database" in line
    assert notes.read_bytes() == before


def test_full_disk_at_the_first_start_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    status, line = serve_on_full_disk(tmp_path, url)
    assert status == REFUSED
    assert line.startswith(FULL)
    assert "see that its disk has room" in line
    assert migrate.up(url) == "0001"
    assert by_hand(url, "PRAGMA integrity_check") == [("ok",)]


async def test_full_disk_at_a_later_start_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with running(url, tmp_path) as (service, receiver), business(service) as api:
        task = await api.ok("POST", "/tasks", {"business_id": "a", "callback_url": receiver.url, "delay": 3600})
        assert await service.terminate() == 0
        status, line = await trio.to_thread.run_sync(serve_on_full_disk, tmp_path, url)
        assert status == REFUSED
        assert line.startswith(FULL)
        assert by_hand(url, "PRAGMA integrity_check") == [("ok",)]
        await service.start()
        assert (await api.ok("GET", f"/tasks/{task['id']}"))["status"] == "pending"
        await api.ok("POST", f"/tasks/{task['id']}/run")
        await receiver.wait_for(1)


async def test_keys_that_do_not_open_the_database_are_refused(tmp_path: Path) -> None:
    url, former = f"sqlite:///{tmp_path / 'a.db'}", ENCRYPTION_KEYS.partition(":")[0]
    forged = f"{former}:{base64.b64encode(bytes(32)).decode()}"
    async with running(url, tmp_path) as (service, _), business(service):
        assert await service.terminate() == 0
    status, line = await trio.to_thread.run_sync(
        lambda: serve(tmp_path, TASKCENTER_DATABASE_URL=url, TASKCENTER_ENCRYPTION_KEYS=forged)
    )
    assert status == USAGE
    assert line.startswith("taskcenter: TASKCENTER_ENCRYPTION_KEYS: does not open what this database holds")
    assert f"is not what was sealed here with key '{former}'" in line
    assert "e.g. k2:<new>,k1:<former>" in line


async def test_a_lost_key_file_is_asked_for_and_not_made_anew(tmp_path: Path) -> None:
    url, keys = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a.db.keys"
    service = Service(url, tmp_path, TASKCENTER_ENCRYPTION_KEYS=None)
    await service.start()
    async with business(service):
        assert await service.terminate() == 0
    backup = keys.rename(tmp_path / "backup")
    status, line = await trio.to_thread.run_sync(
        lambda: serve(tmp_path, TASKCENTER_DATABASE_URL=url, TASKCENTER_ENCRYPTION_KEYS=None)
    )
    assert status == USAGE and "from a backup of the .keys file" in line
    assert not keys.exists()
    backup.rename(keys)
    await service.start()
    assert await service.terminate() == 0


def test_a_database_whose_certificate_is_not_trusted_is_told_as_that(
    mysql_server: PrivateServer, tmp_path: Path
) -> None:
    url = mysql_server.create_database()
    try:
        status, line = serve(tmp_path, TASKCENTER_DATABASE_URL=f"{url}?ssl-mode=verify-full")
        assert status == REFUSED
        assert "the database's certificate or encryption is refused" in line
    finally:
        mysql_server.drop_database(url)


async def test_second_process_on_a_file_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    async with running(url, tmp_path) as (service, receiver), business(service) as api:
        status, line = await trio.to_thread.run_sync(lambda: serve(tmp_path, TASKCENTER_DATABASE_URL=url))
        assert status == USAGE
        assert "another process serves this database" in line
        assert "several processes need MySQL" in line
        await api.ok("POST", "/tasks", {"business_id": "a", "callback_url": receiver.url})
        await receiver.wait_for(1)


def copy_task(path: Path, task_id: str, count: int, first_due_at: int, last_due_at: int) -> None:
    """`count` waiting copies of a task, none to be called here: what they seal opens for the original alone."""
    url = f"sqlite:///{path}"
    columns = [row[1] for row in by_hand(url, "PRAGMA table_info(tasks)")]
    new = {
        "id": "printf('7%025d', n)",
        "business_unique_id": "CAST('copy' || n AS BLOB)",
        "next_execute_at": f"{first_due_at} + n * {last_due_at - first_due_at} / {count}",
    }
    values = ", ".join(new.get(column, column) for column in columns)
    by_hand(
        url,
        f"WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count})"
        f" INSERT INTO tasks ({', '.join(columns)}) SELECT {values} FROM tasks, number WHERE id = '{task_id}'",
    )
    by_hand(
        url,
        f"UPDATE business_ledger SET active = active + {count}, created = created + {count}"
        f" WHERE business_id = (SELECT business_id FROM tasks WHERE id = '{task_id}')",
    )


async def test_hundred_thousand_waiting_tasks_do_not_keep_it_from_starting_and_calling(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with running(f"sqlite:///{path}", tmp_path) as (service, receiver):
        async with business(service, max_active_tasks=2 * SEEDED) as api:
            items = [{"business_id": f"due{n}", "callback_url": receiver.url, "delay": 3} for n in range(20)]
            await api.ok("POST", "/tasks/batch", {"tasks": items})
            far = await api.ok("POST", "/tasks", {"business_id": "far", "callback_url": receiver.url, "delay": 7200})
            assert await service.terminate() == 0
            now = int(time.time() * 1000)
            copy_task(path, far["id"], SEEDED, now + 120_000, now + 1_200_000)
            await service.start()
            calls = await receiver.wait_for(20)
            assert {call.headers["x-taskcenter-business-id"] for call in calls} == {f"due{n}" for n in range(20)}
            stats = await api.ok("GET", "/businesses/shop/stats")
            assert stats["tasks"]["pending"] == SEEDED + 1
            await api.ok("POST", "/tasks", {"business_id": "new", "callback_url": receiver.url})
            await receiver.wait_for(21)
            assert await service.terminate() == 0
