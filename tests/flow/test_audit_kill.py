"""What was answered is in the audit trail, however the process ends: SIGKILL right behind the answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.flow.contract_kit import Business, Live, serving

from taskcenter.service.api_keys import ApiKey

pytestmark = pytest.mark.real_time

ROUNDS = 8
ACTIONS = ("token.issue", "task.create", "business.update", "credentials.rotate", "credential.use", "auth.failure")


def act(live: Live, shop: Business, number: int) -> list[tuple[str, str]]:
    """One of everything that leaves an entry; (request id, action) of each answer that came."""
    change = {"rate_limit": 50 + number}
    body = shop.body(live, delay=3600)
    calls: list[tuple[str, Any]] = [
        ("token.issue", lambda **h: shop.api.call("POST", f"/businesses/{shop.code}/tokens", {}, **h)),
        ("task.create", lambda **h: shop.api.call("POST", "/tasks", body, **h)),
        ("business.update", lambda **h: live.admin.call("PUT", f"/businesses/{shop.code}", change, **h)),
        ("credentials.rotate", lambda **h: shop.api.call("PUT", f"/businesses/{shop.code}/credentials", {}, **h)),
        ("credential.use", lambda **h: live.client(live.business().made["api_key"]).call("GET", "/tasks", **h)),
    ]  # fmt: skip
    answered = []
    for action, call in calls:
        request_id = f"{action}-{number}"
        answer = call(**{"X-Request-Id": request_id})
        assert answer.is_success or answer.status_code == 409, answer.text  # another's change was faster
        if answer.is_success:
            answered.append((request_id, action))
    return answered


def entries(live: Live) -> dict[str, set[str]]:
    """Every entry of every chain: request id → actions."""
    found: dict[str, set[str]] = {}
    codes = [item["business_code"] for item in live.admin.ok("GET", "/businesses?limit=200")["items"]]
    for path in ("/audit", *(f"/businesses/{code}/audit" for code in codes)):
        cursor = ""
        while cursor is not None:
            page = live.admin.ok("GET", f"{path}?limit=200{cursor and f'&cursor={cursor}'}")
            for item in page["items"]:
                found.setdefault(item["request_id"], set()).add(item["action"])
            cursor = page["next_cursor"]
    return found


def test_no_entry_is_lost_after_the_answer(database_url: str, tmp_path: Path) -> None:
    with serving(database_url, tmp_path) as live:
        shop = live.business()
        with ThreadPoolExecutor(ROUNDS) as pool:
            rounds = list(pool.map(lambda number: act(live, shop, number), range(ROUNDS)))
        forged = live.client(ApiKey(shop.made["api_key"][8:24], "0" * 43).text)
        assert forged.call("GET", "/tasks", **{"X-Request-Id": "the-last"}).status_code == 401
        live.service.kill()
        answered = [pair for answers in rounds for pair in answers] + [("the-last", "auth.failure")]
        assert {action for _, action in answered} == {*ACTIONS}
        trio.run(live.service.start)
        live.admin = live.client(live.admin.http.headers["Authorization"].removeprefix("Bearer "))
        found = entries(live)
        lost = [request_id for request_id, action in answered if action not in found.get(request_id, set())]
        assert lost == []
