"""Cursors that somebody made up: refused, or a page of the list they are used with. Never a fault of ours."""

from __future__ import annotations

import pytest
from tests.http.business_kit import instance
from trio.testing import MockClock

from taskcenter.service.paging import encode_cursor

POSITIONS = [
    "", "0", "1", "9" * 18, "9" * 19, "9" * 30, "9" * 400, "-1", "+1", " 1", "1 ", "1_0", "0x1", "1e3", "\0", "a\0b",
    "zzzz", "x" * 128, "x" * 129, "x" * 3000, "' OR 1=1--", "\x7f",
]  # fmt: skip


@pytest.mark.parametrize("position", POSITIONS)
async def test_a_made_up_position_is_a_page_or_a_refusal(position: str, autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        body = {"business_id": "a", "callback_url": "https://example.com/", "delay": 60}
        task = (await here.call("POST", "/tasks", key, body)).json
        chain = (await here.call("GET", "/businesses/orders/audit", key)).json["items"][0]["chain"]
        listed = await here.call("GET", "/tasks?limit=1", key)
        assert listed.json["next_cursor"] is None
        history = f"/tasks/{task['id']}/executions"
        for path, question in (
            ("/businesses/orders/audit", f"audit {chain}"), (history, f"executions {task['id']}"),
            ("/businesses", "businesses"), ("/tasks", f"tasks {chain} "),
        ):  # fmt: skip
            for credential in (key, "the-admin-token-of-these-tests"):
                answer = await here.call("GET", f"{path}?cursor={encode_cursor(position, question)}", credential)
                assert answer.status in {200, 403, 422}, (path, answer.json)


@pytest.mark.parametrize("cursor", ["AAAA", "%00", "====", "a", "%C3%A9", "A" * 5000, "-_-_", "bm90IG91cnM"])
async def test_what_is_no_cursor_is_refused(cursor: str, autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        for path in ("/tasks", "/businesses/orders/audit"):
            answer = await here.call("GET", f"{path}?cursor={cursor}", key)
            assert answer.status == 422 and answer.json["errors"][0]["field"] == "cursor"
