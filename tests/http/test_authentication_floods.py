"""What a flood of credentials that are none costs, and whom it slows down."""

from __future__ import annotations

import trio
from tests.http.business_kit import instance
from trio.testing import MockClock

from taskcenter.service.api_keys import ApiKey


def unknown_key(number: int) -> str:
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    return ApiKey("".join(letters[number >> shift & 31] for shift in range(75, -1, -5)), "0" * 43).text


async def test_guessing_is_slowed_down_and_a_good_key_always_passes(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        assert await here.may(key) == 200
        answers = [await here.call("GET", "/tasks", unknown_key(number)) for number in range(70)]
        assert [answer.status for answer in answers] == [401] * 60 + [429] * 10
        assert answers[-1].code == "rate_limited" and 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert await here.may(key) == 200, "from the same address"
        assert (await here.call("GET", "/businesses")).status == 200, "the admin too"
        assert await here.may(unknown_key(1), ip="192.0.2.2") == 401, "from another address"
        await trio.sleep(int(answers[-1].headers["Retry-After"]))
        assert await here.may(unknown_key(2)) == 401


async def test_guesses_at_one_key_are_slowed_down_and_its_owner_is_not(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        wrong = ApiKey(key[8:24], "0" * 43).text
        answers = [await here.may(wrong, ip=f"198.51.100.{number}") for number in range(80)]
        assert answers == [401] * 60 + [429] * 20
        assert await here.may(key) == await here.may(key, ip="198.51.100.1") == 200


async def test_a_flood_of_unknown_keys_costs_the_store_little(autojump_clock: MockClock) -> None:
    async with instance() as here:
        for number in range(500):
            await here.may(unknown_key(number))
        looked_up = here.auth_count("", "refused", "key_unknown")
        assert looked_up == 80, "60 before the address is known as bad, and what all such addresses share"
        assert here.auth_count("", "refused", "throttled") == 420
        assert len(await here.audit(None)) < 10, "the flood fills no disk"
        await trio.sleep(60)
        told = {entry["target"]: entry["result"] for entry in reversed(await here.audit(None))}
        assert told["key_unknown"] == "refused, 79 more within 60 s"
        assert told["throttled"] == "refused, 419 more within 60 s"


async def test_behind_a_trusted_proxy_the_callers_address_counts(autojump_clock: MockClock) -> None:
    async with instance(trusted_proxies="10.0.0.0/8") as here:

        async def guess(proxy: str, forwarded: str) -> int:
            return await here.may(unknown_key(1), ip=proxy, headers=[("X-Forwarded-For", forwarded)])

        assert [await guess("10.0.0.1", f"1.1.1.{n}, 198.51.100.7") for n in range(70)] == [401] * 60 + [429] * 10
        assert await guess("10.0.0.2", "198.51.100.8") == 401, "another caller of the same proxies"
        assert await guess("10.0.0.2", "198.51.100.7") == 429, "the same one by another proxy"
        stranger = [await guess("203.0.113.9", f"198.51.100.{n}") for n in range(70)]
        assert stranger == [401] * 60 + [429] * 10, "who is no proxy cannot choose his address"
        addresses = {entry["ip"] for entry in await here.audit(None) if entry["action"] == "auth.failure"}
        assert addresses == {"198.51.100.7", "198.51.100.8", "203.0.113.9"}


async def test_no_credential_costs_nothing(autojump_clock: MockClock) -> None:
    async with instance() as here:
        assert {(await here.call("GET", "/tasks", None)).status for _ in range(60)} == {401}
        assert here.auth_count("", "refused", "missing") == 60


async def test_a_fleets_bad_tokens_are_all_401_for_a_while(autojump_clock: MockClock) -> None:
    async with instance() as here:
        token = await here.token((await here.register())["api_key"])
        assert {await here.may(token[:-5] + "AAAAA") for _ in range(150)} == {401}
        assert 429 in {await here.may(token[:-5] + "AAAAA") for _ in range(50)}
