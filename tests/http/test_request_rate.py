"""How often a business may ask, and what its answers say of it."""

from __future__ import annotations

from pathlib import Path

import trio
from tests.http.api_kit import serve

RATE = {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}


async def test_beyond_the_burst_one_waits_as_long_as_it_is_told_and_others_do_not(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serve(f"sqlite:///{tmp_path / 'a.db'}", in_loop=True, api_rate=0.5, api_burst=3) as api:
        await api.register("other")
        left = [(await api.call("GET", "/tasks")).headers["RateLimit-Remaining"] for _ in range(3)]
        assert left == ["2", "1", "0"]
        refused = await api.call("GET", "/tasks")
        assert (refused.status, refused.code) == (429, "rate_limited")
        assert refused.headers["Retry-After"] == "2"
        assert {name: refused.headers[name] for name in RATE} == {
            "RateLimit-Limit": "3",
            "RateLimit-Remaining": "0",
            "RateLimit-Reset": "6",
        }
        assert (await api.call("GET", "/tasks", by="other")).status == 200
        await trio.sleep(2)
        assert (await api.call("GET", "/tasks")).status == 200
        assert (await api.call("GET", "/tasks")).status == 429


async def test_every_answer_to_a_business_says_how_it_stands(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with serve(f"sqlite:///{tmp_path / 'a.db'}", in_loop=True) as api:
        for answer, status in (
            (await api.call("GET", "/tasks"), 200),
            (await api.call("GET", "/tasks/none"), 404),
            (await api.call("POST", "/tasks", {}), 422),
            (await api.call("GET", "/businesses"), 200),
            (await api.call("POST", "/businesses", {}), 403),
        ):
            assert answer.status == status
            assert all(name in answer.headers for name in RATE), answer
        nobody = await api.call("GET", "/tasks", by=None)
        assert nobody.status == 401
        assert not any(name in nobody.headers for name in RATE)


async def test_the_admin_and_the_probes_are_not_counted(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with serve(f"sqlite:///{tmp_path / 'a.db'}", in_loop=True, api_rate=1, api_burst=1) as api:
        acting = {"X-TaskCenter-Business": "orders"}
        for _ in range(5):
            assert (await api.call("GET", "/tasks", by="admin", headers=acting)).status == 200
            assert (await api.call("GET", "/health", by=None)).status == 200
        assert (await api.call("GET", "/tasks")).status == 200


async def test_rate_zero_switches_it_off(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with serve(f"sqlite:///{tmp_path / 'a.db'}", in_loop=True, api_rate=0, api_burst=1) as api:
        answers = [await api.call("GET", "/tasks") for _ in range(5)]
        assert {answer.status for answer in answers} == {200}
        assert not any(name in answers[0].headers for name in RATE)
