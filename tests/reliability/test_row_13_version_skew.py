"""Row 13: two releases on one database, which is migrated while it serves.

There is no second release yet. The next one is made here: a copy of this one with a further step of the schema, of the
kind that a release may bring (a column that may be NULL, an index). The promise is docs/operations.md, "Upgrades".
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from tests.reliability.cluster import Cluster, Instance, cluster
from tests.reliability.conftest import Figure
from tests.reliability.traffic import Traffic
from tests.servers import PrivateServer

import taskcenter

pytestmark = pytest.mark.real_time
STEP = '''"""What the next release brings."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("next_release", sa.String(40), nullable=True))
    op.create_index("ix_tasks_next_release", "tasks", ["business_id", "next_release"])


def downgrade() -> None:
    op.drop_index("ix_tasks_next_release", "tasks")
    op.drop_column("tasks", "next_release")
'''
MIGRATED_AFTER_S, TOGETHER_S = 4.0, 8.0
SCHEMA_STATUS = 3


def next_release(directory: Path) -> dict[str, str]:
    """The variable with which Python runs it."""
    shutil.copytree(Path(taskcenter.__file__).parent, directory / "taskcenter")
    (directory / "taskcenter/store/migrations/versions/0002_next.py").write_text(STEP)
    return {"PYTHONPATH": str(directory)}


async def command(url: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`taskcenter …` of one of the releases, to its end."""
    given = {**os.environ, "TASKCENTER_DATABASE_URL": url, **variables}
    return await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-m", "taskcenter", *arguments],
            env=given, capture_output=True, text=True, check=False, timeout=90,
        )
    )  # fmt: skip


async def upgraded(trial: Cluster, tmp_path: Path, following: dict[str, str]) -> float:
    """Migrate live, run both releases side by side, replace one instance after the other. How long the step took, s."""
    former = list(trial.instances)
    began = trio.current_time()
    done = await command(trial.url, "migrate", **following)
    took = trio.current_time() - began
    assert (done.returncode, done.stdout.strip()) == (0, "the schema is at 0002"), done.stderr
    for number, old in enumerate(former):
        home = tmp_path / f"next{number}"
        home.mkdir()
        new = Instance(trial.url, home, **dict[str, Any](following))
        trial.instances.append(new)
        await new.start()
        await trio.sleep(TOGETHER_S)
        assert await old.terminate() == 0, old.tail()
    return took


async def test_an_upgrade_under_load_is_noticed_by_nobody(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    following = next_release(tmp_path / "next")
    async with cluster(database_server, tmp_path, 2) as trial:
        callers = [await trial.caller(f"shop{number}") for number in range(6)]
        traffic = Traffic(callers, Random(13))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: traffic.run(callbacks=20, requests=8))
            await trio.sleep(MIGRATED_AFTER_S)
            took = await upgraded(trial, tmp_path, following)
            await trio.sleep(3)
            traffic.stop()
        found = await trial.judged()
        figure("the step, under load", took, "s")
        figure("callbacks", found.sends)
        figure("repeats", found.repeats)
        figure("requests failed", sum(caller.manners.failed for caller in callers))
        figure("worst lateness", found.lateness(1), "ms")
        assert not found.violations, str(found)
        assert found.repeats == 0


async def test_a_release_refuses_a_schema_that_is_not_its_own_in_one_line(
    database_server: PrivateServer, tmp_path: Path
) -> None:
    url = database_server.create_database()
    following = next_release(tmp_path / "next")
    assert (await command(url, "migrate")).returncode == 0
    early = await command(url, "serve", **following)
    assert (early.returncode, early.stderr.strip().splitlines()[1:]) == (SCHEMA_STATUS, [])
    assert "has schema 0001, this release needs 0002: run `taskcenter migrate`" in early.stderr
    assert (await command(url, "migrate", **following)).returncode == 0
    for arguments in (("serve",), ("serve", "--migrate"), ("migrate",)):
        late = await command(url, *arguments)
        assert (late.returncode, late.stderr.strip().splitlines()[1:]) == (SCHEMA_STATUS, []), late.stderr
        assert "has schema 0002, which is newer than this release (0001)" in late.stderr
    lowered = await command(url, "migrate", "--to", "0001", **following)
    assert (lowered.returncode, lowered.stdout.strip()) == (0, "the schema is at 0001")
