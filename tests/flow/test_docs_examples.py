"""What docs/tasks.md shows is true: its lines that check a signature, and its task."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from tests.flow.contract_kit import Live
from tests.meta.tree import ROOT

pytestmark = pytest.mark.real_time
PAGE = (ROOT / "docs" / "tasks.md").read_text("utf-8")


def block(kind: str) -> str:
    [found] = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_lines_that_check_a_signature(live: Live) -> None:
    shown: dict[str, Any] = {}
    exec(compile(block("python"), "docs/tasks.md", "exec"), shown)  # noqa: S102  # as a reader would
    business = live.business()
    business.task(live, payload={"n": 1})
    [call] = live.receiver.wait_for(business.path)
    secret = business.made["signing_secret"]
    shown["verify"](secret, call.headers, call.body)
    for headers, body in (
        (call.headers, call.body + b" "), ({**call.headers, "webhook-id": "other-1"}, call.body),
        ({**call.headers, "webhook-timestamp": "1700000000"}, call.body),
        ({**call.headers, "webhook-signature": "v1,AAAA"}, call.body),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"old|not ours"):
            shown["verify"](secret, headers, body)
    rotated = live.admin.ok("PUT", f"/businesses/{business.code}/credentials", {"rotate_signing_secret": True})
    again = live.client(rotated["api_key"])
    again.ok("POST", "/tasks", business.body(live, delay=2.5))  # a rotation is in force everywhere within 2 s
    call = live.receiver.wait_for(business.path, 2)[1]
    for either in (secret, rotated["signing_secret"]):
        shown["verify"](either, call.headers, call.body)


def test_the_task_it_shows_is_taken(live: Live) -> None:
    words = shlex.split(block("sh"))
    body = json.loads(words[words.index("-d") + 1])
    made = live.business().api.ok("POST", "/tasks", body)
    assert made["next_execute_at"] == "2027-01-31T01:30:00.000Z" and made["retry_intervals"] == [60, 300, 1800]
