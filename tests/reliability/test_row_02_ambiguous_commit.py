"""Row 2: COMMITs, or the answers to them, are eaten under a whole service: creates, changes, cancels, claims, outcomes.

Nothing is lost, nothing done twice, and a client that repeats its create is told of the same task. The default is 200
eaten COMMITs a server; TASKCENTER_TRIALS=1000 is the full size.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import trio
from tests.flow.kit import business, running
from tests.flow.outage_faults import Site, commits_lost, refused
from tests.flow.outage_kit import CODES, settled, watched
from tests.flow.outage_traffic import now_ms
from tests.reliability.conftest import Figure
from tests.reliability.ledger import Create
from tests.servers import PrivateServer
from tests.store.fault_proxy import open_proxy

from taskcenter.times import format_time

pytestmark = pytest.mark.real_time
TRIALS: Final = int(os.environ.get("TASKCENTER_TRIALS", "200"))
SILENT: Final = 5  # of them end in silence, not in a reset


def riddles(creates: Sequence[Create]) -> Counter[str]:
    """How creates ended whose first answer left it open: it had landed, or it had not."""
    first: dict[str, str] = {}
    ends: Counter[str] = Counter()
    for create in creates:
        if create.result == "unknown":
            first.setdefault(create.business_id, "open")
        elif first.pop(create.business_id, None):
            ends[create.result] += 1
    return ends


async def test_a_claim_of_unknown_end_is_left_running_by_nobody(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    """The answers to claims are lost, then the store is gone, and the tasks' deadlines pass before it is back."""
    server = database_server
    url = f"{server.create_database()}?ssl-mode=disabled"
    async with (
        open_proxy(server.host, server.port) as proxy,
        running(proxy.url(url), tmp_path) as (service, receiver),
        business(service) as api,
    ):
        due, deadline = now_ms() + 1500, now_ms() + 3500
        times = {"execute_at": format_time(int(due)), "deadline": format_time(int(deadline)), "retry_intervals": []}
        tasks = [{"business_id": f"t{n}", "callback_url": receiver.url, **times} for n in range(40)]
        made = (await api.ok("POST", "/tasks/batch", {"tasks": tasks}))["results"]
        await trio.sleep((due - 200 - now_ms()) / 1000)
        proxy.commit_fault = "reply"
        await trio.sleep(0.4)
        eaten = proxy.commits_eaten
        async with refused(Site(server, proxy, url)):
            await trio.sleep(4)
        ends: Counter[str] = Counter()
        for result in made:
            ends[(await api.until_status(result["task"]["id"], "succeeded", "failed", timeout_s=40))["status"]] += 1
        figure("COMMITs of unknown end before the outage", eaten)
        figure("tasks ended: deadline passed, called", f"{ends['failed']}, {ends['succeeded']}")
        assert len(receiver.calls) == ends["succeeded"]


async def test_a_lost_commit_loses_and_doubles_nothing(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    server = database_server
    url = f"{server.create_database()}?ssl-mode=disabled"
    async with (
        open_proxy(server.host, server.port, seed=2) as proxy,
        running(proxy.url(url), tmp_path) as (service, receiver),
        business(service) as api,
    ):
        async with watched(service, receiver, api) as on:
            async with commits_lost(Site(server, proxy, url)):
                while proxy.commits_eaten < TRIALS:
                    await trio.sleep(0.1)
                for _ in range(SILENT):
                    before = proxy.commits_eaten
                    proxy.commit_faults_left, proxy.commit_silent, proxy.commit_share = 1, True, 1.0
                    while proxy.commits_eaten == before:
                        await trio.sleep(0.02)
            await on.normal(trio.current_time())
        books = await settled(on, url)
        codes = Counter(one.code for one in on.traffic.said if one.status == 503)
        ends = riddles(on.traffic.ledger.creates)
        figure("COMMITs eaten, of all", f"{proxy.commits_eaten} of {proxy.commits_total}")
        figure("calls answered commit_unknown", codes["commit_unknown"])
        figure("creates repeated by their client: had landed, had not", f"{ends['replayed']}, {ends['created']}")
        figure("acknowledged tasks, lost 0, doubled 0", books.acknowledged)
        figure("callbacks, repeated 0", books.sends)
        assert not books.violations, str(books)
        assert books.repeats == 0
        assert set(codes) <= CODES
        assert ends["replayed"], "no client met a create of its own that had landed"
        assert service.running
