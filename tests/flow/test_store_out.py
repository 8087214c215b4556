"""The store goes and comes back under a whole service and its callers: nothing is lost or doubled, nobody restarts it.

The long form, with every fault and its figures, is row 14 of docs/reliability.md.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.flow.file_faults import locked
from tests.flow.kit import business, metric, running
from tests.flow.outage_faults import Site, frozen, killed
from tests.flow.outage_kit import outage, settled, watched
from tests.servers import PrivateServer
from tests.store.fault_proxy import open_proxy

pytestmark = pytest.mark.real_time


async def goes_and_comes_back(url: str, directory: Path, *faults: AbstractAsyncContextManager[None]) -> None:
    """`url`: the service's own way to the store."""
    async with running(url, directory) as (service, receiver), business(service) as api:
        pid = service.pid
        async with watched(service, receiver, api) as on:
            for fault in faults:
                seen = await outage(on, "the store", fault, on.felt)
                assert seen.failed, "the store was out"
                assert not seen.improper(), str(seen)
        books = await settled(on, url)
        assert not books.violations, str(books)
        assert books.repeats == 0
        assert (service.running, service.pid) == (True, pid)
        assert await metric(service, "db_up", work="read") == await metric(service, "db_up", work="write") == 1
        assert "the store is back" in service.log_text()


async def test_a_server_that_is_frozen_and_then_killed(mariadb_server: PrivateServer, tmp_path: Path) -> None:
    url = mariadb_server.create_database()
    async with open_proxy(mariadb_server.host, mariadb_server.port) as proxy:
        site = Site(mariadb_server, proxy, url)
        await goes_and_comes_back(url, tmp_path, frozen(site), killed(site))


async def test_a_file_that_another_process_locks(tmp_path: Path) -> None:
    path = tmp_path / "taskcenter.db"
    await goes_and_comes_back(f"sqlite:///{path}", tmp_path, locked(path))
