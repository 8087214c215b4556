"""What a flow key and its limit may be, and that they come back as they were given."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.api_kit import Api


@pytest.mark.parametrize(
    ("limit", "shown"),
    [
        ({"rate": 1, "period": 1}, {"rate": 1, "period": 1}),
        ({"rate": 100_000, "period": "1d", "parallelism": 9}, {"rate": 100_000, "period": 86400, "parallelism": 9}),
        ({"parallelism": 1}, {"parallelism": 1}),
        (None, None),
    ],
)
async def test_accepted_and_shown(api: Api, limit: Any, shown: Any) -> None:
    task = await api.create(flow_key="k" * 128, flow_limit=limit)
    assert (task["flow_key"], task["flow_limit"]) == ("k" * 128, shown)
    read = await api.call("GET", f"/tasks/{task['id']}")
    assert read.json["flow_limit"] == shown


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"flow_key": ""}, "flow_key"),
        ({"flow_key": "k" * 129}, "flow_key"),
        ({"flow_key": "a\nb"}, "flow_key"),
        ({"flow_limit": {"parallelism": 1}}, "flow_key"),
        ({"flow_key": "k", "flow_limit": {}}, "flow_limit"),
        ({"flow_key": "k", "flow_limit": []}, "flow_limit"),
        ({"flow_key": "k", "flow_limit": {"rate": 1}}, "flow_limit.period"),
        ({"flow_key": "k", "flow_limit": {"period": 1}}, "flow_limit.rate"),
        ({"flow_key": "k", "flow_limit": {"rate": 0, "period": 1}}, "flow_limit.rate"),
        ({"flow_key": "k", "flow_limit": {"rate": 100_001, "period": 1}}, "flow_limit.rate"),
        ({"flow_key": "k", "flow_limit": {"rate": 1, "period": 0.999}}, "flow_limit.period"),
        ({"flow_key": "k", "flow_limit": {"rate": 1, "period": 86401}}, "flow_limit.period"),
        ({"flow_key": "k", "flow_limit": {"parallelism": 10_001}}, "flow_limit.parallelism"),
        ({"flow_key": "k", "flow_limit": {"burst": 1}}, "flow_limit.burst"),
    ],
)
async def test_refused_with_the_field_at_fault(api: Api, fields: Any, fault: str) -> None:
    answer = await api.call(
        "POST", "/tasks", {"business_id": "a", "callback_url": "https://example.com/hook", **fields}
    )
    assert (answer.status, answer.fields) == (422, {fault})
