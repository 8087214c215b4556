"""What the contract says of time that passes without us: misfire, redelivery, readiness, private addresses."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from tests.flow.contract_kit import Live, refused, serving
from tests.flow.kit import ADMIN_TOKEN, Answer

pytestmark = pytest.mark.real_time


def test_after_a_crash(database_url: str, tmp_path: Path) -> None:
    """Misfire `once` makes up with one run, `skip` with none; what was on its way is sent again, marked as such."""
    with serving(database_url, tmp_path) as live:
        business = live.business()
        paths = {name: f"{business.path}-{name}" for name in ("once", "skip", "held")}
        for misfire in ("once", "skip"):
            task = business.task(
                live, callback_url=f"{live.receiver.url}{paths[misfire]}",
                schedule={"every": 1, "misfire": misfire, "max_runs": 100},
            )  # fmt: skip
            business.api.until(f"/tasks/{task['id']}", lambda seen: seen["runs"] >= 1)
        live.receiver.on[paths["held"]] = lambda call: Answer(
            delay_s=0 if "x-taskcenter-redelivery" in call.headers else 60
        )
        held = business.task(live, callback_url=f"{live.receiver.url}{paths['held']}")
        live.receiver.wait_for(paths["held"])
        live.service.kill()
        time.sleep(1.5)  # longer than the interval: at least one run of each is missed
        before = {name: len(live.receiver.calls(path)) for name, path in paths.items()}
        back_at = time.time() * 1000
        trio.run(live.service.start)
        for client in (live.admin, business.api):
            client.http.base_url = live.service.url
        for name, path in paths.items():
            live.receiver.wait_for(path, before[name] + (1 if name == "held" else 3))

        once = live.receiver.calls(paths["once"])[before["once"] :]
        assert once[0].due_at < back_at < once[1].due_at, "the missed ones, made up for by one"
        skipped = live.receiver.calls(paths["skip"])[before["skip"] :]
        assert skipped[0].due_at + 1000 > back_at, "skip passes over each after which another was due already"
        for calls in (once, live.receiver.calls(paths["skip"])):
            assert all(later.due_at > earlier.due_at for earlier, later in pairwise(calls))
            assert {(call.due_at - calls[0].due_at) % 1000 for call in calls} == {0}, "the rhythm is kept"

        first, again = live.receiver.calls(paths["held"])
        assert again.headers["x-taskcenter-redelivery"] == "possible-duplicate"
        assert again.headers["webhook-id"] == first.headers["webhook-id"] and again.json["attempt"] == 1
        assert int(again.headers["x-taskcenter-term"]) > int(first.headers["x-taskcenter-term"])
        done = business.api.ended(held)
        assert [execution["status"] for execution in done["executions"]] == ["success", "interrupted"]
        assert datetime.fromisoformat(done["finished_at"]) >= datetime.fromisoformat(done["created_at"])


def test_private_addresses_are_refused_unless_allowed(tmp_path: Path) -> None:
    settings = {"TASKCENTER_ALLOWED_CALLBACK_NETWORKS": "", "TASKCENTER_METRICS_REQUIRE_ADMIN": "true"}
    with serving(f"sqlite:///{tmp_path / 'x.db'}", tmp_path, **settings) as live:
        business = live.business()
        for url in ("http://127.0.0.1:1/", "http://2130706433/", "http://[::ffff:127.0.0.1]/", "http://10.1.2.3/"):
            problem = refused(
                business.api.call("POST", "/tasks", business.body(live, callback_url=url)), 422, "invalid_request"
            )
            assert problem["errors"][0]["field"] == "callback_url"
        task = business.task(live, callback_url=live.receiver.url.replace("127.0.0.1", "localhost") + business.path)
        done = business.api.ended(task)
        assert done["executions"][0]["status"] == "blocked" and live.receiver.calls(business.path) == []
        assert live.client(None).http.get("/metrics").status_code == 401
        assert business.api.http.get("/metrics").status_code == 403
        assert live.client(ADMIN_TOKEN).http.get("/metrics").status_code == 200


def test_two_tasks_of_one_service_do_not_share_a_trace(live: Live) -> None:
    business = live.business()
    for _ in range(2):
        business.task(live)
    one, two = live.receiver.wait_for(business.path, 2)
    assert one.headers["traceparent"] != two.headers["traceparent"]
