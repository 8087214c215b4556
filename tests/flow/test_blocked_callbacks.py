"""A name that leads inside: taken at create, blocked at the call, and nothing tells where it leads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.flow.contract_kit import serving

pytestmark = pytest.mark.real_time


def test_a_blocked_callback_makes_no_connection_and_reveals_no_address(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path / 'taskcenter.db'}"
    with serving(database_url, tmp_path, TASKCENTER_ALLOWED_CALLBACK_NETWORKS="") as live:
        shop = live.business()
        inside = live.receiver.url.replace("127.0.0.1", "localhost")
        task = shop.task(live, callback_url=f"{inside}{shop.path}", retry_intervals=[1])
        ended = shop.api.ended(task)
        assert (ended["status"], len(ended["executions"])) == ("failed", 2)
        for execution in ended["executions"]:
            assert execution["status"] == "blocked"
            assert execution["response_status"] is None
        assert live.receiver.calls(shop.path) == []
        views = [shop.api.ok("GET", f"/tasks/{task['id']}/{view}") for view in ("executions", "explain")]
        shown = json.dumps([ended, *views])
        assert "localhost is not a host that callbacks may go to" in shown
        assert "127.0.0.1" not in shown
        assert "::1" not in shown
