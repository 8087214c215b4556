"""Row 18: at 9,990 of 10,000 active tasks exactly ten of 50 creates at once are taken, whichever process they reach."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio
from tests.flow.kit import Api, Service, business
from tests.reliability.conftest import Figure
from tests.reliability.creating import create_all

pytestmark = pytest.mark.real_time
QUOTA, ROOM, CREATES = 10_000, 10, 50


def body(name: str) -> dict[str, object]:
    return {"business_id": name, "callback_url": "http://127.0.0.1:9/", "delay": 86_400}


async def test_exactly_as_many_as_there_is_room_for(database_url: str, tmp_path: Path, figure: Figure) -> None:
    several = not database_url.startswith("sqlite")
    service = Service(database_url, tmp_path, *(("--processes", "2") if several else ()))
    await service.start()
    seen: Counter[int] = Counter()
    try:
        async with business(service, max_active_tasks=QUOTA) as api:
            await create_all(api, [body(f"f{number}") for number in range(QUOTA - ROOM)])

            async def create(number: int) -> None:
                one = Api(service, api.token)  # a connection of its own: the processes share them out
                try:
                    seen[(await one.call("POST", "/tasks", body(f"r{number}"))).status_code] += 1
                finally:
                    await one.aclose()

            async with trio.open_nursery() as nursery:
                for number in range(CREATES):
                    nursery.start_soon(create, number)
            assert seen == {201: ROOM, 429: CREATES - ROOM}
            assert (await api.ok("GET", "/businesses/shop/stats"))["active"] == QUOTA
        assert await service.terminate() == 0, service.tail()
    finally:
        if service.running:
            service.kill()
    figure(f"of {CREATES} at once at {QUOTA - ROOM}", f"{seen[201]} taken, {seen[429]} refused")
