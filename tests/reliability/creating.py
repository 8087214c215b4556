"""Creating many tasks as a client should: what is refused for the moment is sent again until it is taken."""

from __future__ import annotations

from typing import Any, Final

import trio
from tests.flow.kit import Api

BATCH: Final = 1000
TAKEN: Final = (200, 201)  # 200: the repeat of one that was taken though its answer said otherwise


async def create_all(api: Api, items: list[dict[str, Any]], *, within_s: float = 300.0) -> None:
    """All of `items`, in batches; 429 and 503 are heeded, everything else is a fault."""
    with trio.fail_after(within_s):
        for first in range(0, len(items), BATCH):
            left = items[first : first + BATCH]
            while left:
                left = await _refused(api, left)


async def _refused(api: Api, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = await api.call("POST", "/tasks/batch", {"tasks": items})
    if answer.status_code in (429, 503):
        await trio.sleep(float(answer.headers["Retry-After"]))
        return items
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    refused = [item for item, result in zip(items, results, strict=True) if result["status"] in (429, 503)]
    assert all(result["status"] in (*TAKEN, 429, 503) for result in results), results[0]
    if refused:
        await trio.sleep(1)
    return refused
