"""Row 20: receivers of every bad mood, many calls each, through a real process: all end in time, within bounds.

`TASKCENTER_ROW_20_EACH=1000` is the full size.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from tests.actors.test_transport_moods import GALLERY
from tests.flow.kit import PLAIN, Service, business
from tests.reliability.conftest import Figure
from tests.reliability.creating import create_all
from tests.reliability.moods import gallery
from tests.reliability.vitals import until_back, vitals

pytestmark = pytest.mark.real_time
EACH = int(os.environ.get("TASKCENTER_ROW_20_EACH", "250"))
ABREAST = 300
TIMEOUT_S = 4.0
WITHIN_S = 5.0  # the timeout and a second, as the histogram has it
MOST_BYTES = 256 * 1024


async def counts(service: Service) -> tuple[Counter[str], float]:
    """Callbacks by outcome, and how many took no longer than `WITHIN_S`."""
    async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=60) as client:
        text = (await client.get(f"{service.url}/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    outcomes: Counter[str] = Counter()
    for sample in samples:
        if sample.name == "taskcenter_callbacks_total":
            outcomes[sample.labels["outcome"]] += int(sample.value)
    quick = [
        s.value
        for s in samples
        if s.name == "taskcenter_callback_duration_seconds_bucket" and s.labels["le"] == f"{WITHIN_S}"
    ]
    return outcomes, sum(quick)


def assert_as_bad_as_they_were(found: Counter[str], meant: Counter[str]) -> None:
    """A flood that a busy machine brings in slowly meets the deadline before the bound on its size."""
    assert found["success"] == found["interrupted"] == 0
    assert found["connection_error"] == meant["connection_error"]
    assert found["timeout"] >= meant["timeout"] and found["invalid_response"] > 0
    assert found.total() == meant.total()


async def test_all_end_in_time_and_leave_nothing_behind(tmp_path: Path, figure: Figure) -> None:
    service = Service(f"sqlite:///{tmp_path / 'a.db'}", tmp_path)
    await service.start()
    try:
        async with gallery() as urls, business(
            service,
            max_concurrent_tasks=ABREAST,
            max_active_tasks=EACH * len(urls) + 1,
            breaker={"enabled": False},
        ) as api:  # fmt: skip
            order = list(urls) * EACH
            random.Random(20).shuffle(order)
            before = vitals(service.pid)
            began, most = trio.current_time(), before.resident_bytes
            common = {"timeout": TIMEOUT_S, "retry_intervals": []}
            items = [common | {"business_id": f"t{n}", "callback_url": urls[name]} for n, name in enumerate(order)]
            await create_all(api, items)
            outcomes, quick = Counter[str](), 0.0
            with trio.fail_after(900):
                while outcomes.total() < len(order):
                    await trio.sleep(0.5)
                    most = max(most, vitals(service.pid).resident_bytes)
                    outcomes, quick = await counts(service)
            took = trio.current_time() - began
            assert_as_bad_as_they_were(outcomes, Counter(GALLERY[name][1] for name in order))
            assert quick == len(order), f"{len(order) - quick:.0f} took longer than {WITHIN_S} s"
            most_left = before.descriptors + 8  # what the API's callers hold
            left = (await until_back(service, most_left, timeout_s=90)).descriptors - before.descriptors
        assert await service.terminate() == 0, service.tail()
    finally:
        if service.running:
            service.kill()
    each = (most - before.resident_bytes) / ABREAST
    figure("moods, calls", f"{len(GALLERY)}, {len(order):,}")
    figure(f"ended within {WITHIN_S} s of {TIMEOUT_S} s", f"{quick:,.0f} of {len(order):,}")
    figure(f"memory a call, {ABREAST} at once, growth for other reasons included", each / 1024, "KiB")
    figure("descriptors more than before", left)
    figure("took", took, "s")
    assert each <= MOST_BYTES
