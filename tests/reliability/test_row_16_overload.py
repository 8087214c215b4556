"""Row 16: creates offered at ten times what the service takes: some are refused and told when, none is lost.

How fast the machine is decides what share of the peak is left, so that is a figure and no condition here.
`TASKCENTER_ROW_16_SECONDS=60` is the full size; `python -m bench.overload` measures at other factors.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.overload import Flood
from tests.flow.kit import ADMIN_TOKEN, Api, Service
from tests.reliability.conftest import Figure

pytestmark = pytest.mark.real_time
SECONDS = float(os.environ.get("TASKCENTER_ROW_16_SECONDS", "20"))
FACTOR, CALLERS = 10, 64


async def test_ten_times_too_much_is_refused_and_nothing_lost(
    database_url: str, tmp_path: Path, figure: Figure
) -> None:
    service = Service(database_url, tmp_path)
    await service.start()
    try:
        admin = Api(service, ADMIN_TOKEN)
        fields = {"business_code": "flood", "business_name": "flood", "max_active_tasks": 1_000_000}
        flood = Flood(service.port, (await admin.ok("POST", "/businesses", fields))["api_key"])
        flood.peak(CALLERS, 2)
        before = (await admin.ok("GET", "/businesses/flood/stats"))["active"]
        peak = flood.peak(CALLERS, SECONDS / 2)
        between = (await admin.ok("GET", "/businesses/flood/stats"))["active"]
        found = await flood.offer(FACTOR * peak, SECONDS)
        after = (await admin.ok("GET", "/businesses/flood/stats"))["active"]
        await admin.aclose()
        assert await service.terminate() == 0, service.tail()
    finally:
        if service.running:
            service.kill()
    created = len(found.creates.by_status[201])
    assert set(found.creates.by_status) <= {201, 503}
    for seen in (found.reads, found.health):  # answered, though on a busy machine the store may be too slow for one
        assert set(seen.by_status) <= {200, 503} and seen.by_status[200]
    assert between - before >= peak * SECONDS / 2
    assert after - between >= created, "an acknowledged create is there"
    refused = len(found.creates.by_status.get(503, ()))
    figure("peak", peak, "creates/s")
    figure("goodput at 10×", f"{found.goodput:,.0f}/s, {found.goodput / peak:.0%} of the peak")
    figure("creates p95", found.creates.p(201), "ms")
    figure("refused, p95", f"{refused:,}, {found.creates.p(503)} ms")
    figure("reads, health p95", f"{found.reads.p(200)}, {found.health.p(200)} ms")
