"""Registering, reading and changing businesses."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.http.business_kit import ADMIN, instance, memory_store
from trio.testing import MockClock

DEFAULTS = {
    "status": "active", "rate_limit": 1000, "max_concurrent_tasks": 100, "max_active_tasks": 10000,
    "default_timeout": 10, "version": 1,
    "breaker": {"enabled": True, "failure_threshold": 5, "failure_rate": None, "window_seconds": 60, "min_calls": 10,
                "open_seconds": 30, "max_open_seconds": 300, "half_open_probes": 1},
}  # fmt: skip


async def test_a_business_is_registered_with_defaults_and_its_secrets_are_told_once(autojump_clock: MockClock) -> None:
    async with instance() as here:
        answer = await here.call(
            "POST", "/businesses", body={"business_code": "orders", "business_name": "Bücher 订单"}
        )
        made = answer.json
        assert answer.status == 201 and answer.headers["Location"] == "/api/v1/businesses/orders"
        assert {name: made[name] for name in DEFAULTS} == DEFAULTS
        assert made["api_key"].startswith("tc_live_") and made["signing_secret"].startswith("whsec_")
        assert made["api_key_expires_at"] == "2028-01-15T08:00:00.000Z"
        for credential in (ADMIN, made["api_key"]):
            read = await here.call("GET", "/businesses/orders", credential)
            assert read.status == 200 and read.json["business_name"] == "Bücher 订单"
            assert (
                made["signing_secret"].encode() not in read.content
                and made["api_key"][26:].encode() not in read.content
            )
            assert [key["key_id"] for key in read.json["api_keys"]] == [made["api_key"][8:24]]


async def test_every_setting_can_be_given(autojump_clock: MockClock) -> None:
    given: dict[str, Any] = {
        "rate_limit": 60, "max_concurrent_tasks": 2, "max_active_tasks": 7, "default_timeout": 0.5,
        "breaker": {"failure_rate": 0.5, "window_seconds": "2m", "open_seconds": 1.5, "enabled": False},
    }  # fmt: skip
    async with instance() as here:
        made = await here.register(**given)
        breaker = {**DEFAULTS["breaker"], **given.pop("breaker"), "window_seconds": 120}  # type: ignore[dict-item]  # a dict
        assert {name: made[name] for name in given} == given and made["breaker"] == breaker


async def test_codes_differ_by_case_and_may_be_short(autojump_clock: MockClock) -> None:
    codes = ["orders", "Orders", "ORDERS", "o", "O", "shop.eu-1_b", "o" * 64]
    async with instance() as here:
        for code in codes:
            made = await here.call("POST", "/businesses", body={"business_code": code, "business_name": code})
            assert (made.status, made.json["business_code"]) == (201, code)
        for code in codes:
            assert (await here.call("GET", f"/businesses/{code}")).json["business_name"] == code


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"business_code": None}, "business_code"),
    ({"business_code": ""}, "business_code"),
    ({"business_code": "orders/eu"}, "business_code"),
    ({"business_code": "订单"}, "business_code"),
    ({"business_code": "-orders"}, "business_code"),
    ({"business_code": "orders\n"}, "business_code"),
    ({"business_code": "o" * 65}, "business_code"),
    ({"business_code": ["orders"]}, "business_code"),
    ({"business_name": ""}, "business_name"),
    ({"business_name": "a\x1b[31m"}, "business_name"),
    ({"business_name": "n" * 129}, "business_name"),
    ({"business_name": {"$ne": 1}}, "business_name"),
    ({"rate_limit": 0}, "rate_limit"),
    ({"rate_limit": 100_001}, "rate_limit"),
    ({"rate_limit": True}, "rate_limit"),
    ({"rate_limit": 1.5}, "rate_limit"),
    ({"rate_limit": "100"}, "rate_limit"),
    ({"rate_limit": None}, "rate_limit"),
    ({"max_concurrent_tasks": 10_001}, "max_concurrent_tasks"),
    ({"max_active_tasks": 1_000_001}, "max_active_tasks"),
    ({"default_timeout": 0.05}, "default_timeout"),
    ({"default_timeout": 31}, "default_timeout"),
    ({"default_timeout": "1h"}, "default_timeout"),
    ({"status": "paused"}, "status"),
    ({"id": 7}, "id"),
    ({"version": 9}, "version"),
    ({"breaker": []}, "breaker"),
    ({"breaker": {"threshold": 5}}, "breaker.threshold"),
    ({"breaker": {"failure_threshold": 0}}, "breaker.failure_threshold"),
    ({"breaker": {"failure_rate": 0}}, "breaker.failure_rate"),
    ({"breaker": {"failure_rate": 1.1}}, "breaker.failure_rate"),
    ({"breaker": {"enabled": 1}}, "breaker.enabled"),
    ({"breaker": {"open_seconds": 0}}, "breaker.open_seconds"),
    ({"breaker": {"open_seconds": 60, "max_open_seconds": 30}}, "breaker.max_open_seconds"),
    ({"breaker": {"half_open_probes": 101}}, "breaker.half_open_probes"),
    ({"host_limits": []}, "host_limits"),
    ({"host_limits": {"a.example": {}}}, "host_limits.a.example"),
    ({"host_limits": {"a.example": {"rate": 5}}}, "host_limits.a.example.period"),
    ({"host_limits": {"a.example": {"parallelism": 0}}}, "host_limits.a.example.parallelism"),
    ({"host_limits": {"a.example:8080": {"parallelism": 1}}}, "host_limits.a.example:8080"),
    ({"host_limits": {"a b": {"parallelism": 1}}}, "host_limits.a b"),
    ({"host_limits": {"a.example": {"parallelism": 1}, "A.example.": {"parallelism": 2}}}, "host_limits.A.example."),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG, ids=[str(wrong)[:50] for wrong, _ in WRONG])
async def test_wrong_input_is_named_with_an_example(
    wrong: dict[str, Any], field: str, autojump_clock: MockClock
) -> None:
    async with instance() as here:
        body = {"business_code": "orders", "business_name": "Orders", **wrong}
        answer = await here.call("POST", "/businesses", body=body)
        assert answer.status == 422 and answer.fields == {field}
        message = answer.json["errors"][0]["message"]
        assert "e.g. " in message or "known are" in message
        assert (await here.call("GET", "/businesses")).json["items"] == []


async def test_all_faults_are_told_at_once(autojump_clock: MockClock) -> None:
    async with instance() as here:
        answer = await here.call("POST", "/businesses", body={"rate_limit": 0, "evil": 1})
        assert answer.fields == {"business_code", "business_name", "rate_limit", "evil"}


async def test_a_code_is_taken_once(autojump_clock: MockClock) -> None:
    async with instance() as here:
        made = await here.register()
        again = await here.call("POST", "/businesses", body={"business_code": "orders", "business_name": "b"})
        assert (again.status, again.code) == (409, "business_code_conflict")
        assert await here.may(made["api_key"]) == 200


async def test_the_list_is_paged_by_code(autojump_clock: MockClock) -> None:
    async with instance() as here:
        codes = [f"shop-{number:02}" for number in range(7)]
        for code in reversed(codes):
            await here.register(code)
        seen, path = [], "/businesses?limit=3"
        while path:
            page = (await here.call("GET", path)).json
            seen += [item["business_code"] for item in page["items"]]
            path = f"/businesses?limit=3&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        assert seen == codes


async def test_a_business_sees_itself_and_no_other(autojump_clock: MockClock) -> None:
    async with instance() as here:
        own = (await here.register("orders"))["api_key"]
        await here.register("others")
        listed = await here.call("GET", "/businesses", own)
        assert [item["business_code"] for item in listed.json["items"]] == ["orders"]
        for path in ("", "/stats", "/audit"):
            assert (await here.call("GET", f"/businesses/orders{path}", own)).status == 200
            others = await here.call("GET", f"/businesses/others{path}", own)
            nobody = await here.call("GET", f"/businesses/nobody{path}", own)
            assert others.status == nobody.status == 404
            assert {**others.json, "instance": ""} == {**nobody.json, "instance": ""}, "existence is not told"
        assert (await here.call("PUT", "/businesses/others/credentials", own, {})).status == 404
        assert (await here.call("POST", "/businesses/others/tokens", own, {})).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/businesses"), ("PUT", "/businesses/orders"), ("GET", "/audit"), ("GET", "/stats")],
)
async def test_a_business_is_no_admin(method: str, path: str, autojump_clock: MockClock) -> None:
    async with instance() as here:
        own = (await here.register())["api_key"]
        body = None if method == "GET" else {"business_code": "evil", "business_name": "e", "rate_limit": 100_000}
        for credential in (own, await here.token(own)):
            assert (await here.call(method, path, credential, body)).status == 403
        assert (await here.call("GET", "/businesses/orders")).json["rate_limit"] == 1000


async def test_a_change_touches_what_it_names_only(autojump_clock: MockClock) -> None:
    async with instance() as here:
        before = await here.register(breaker={"min_calls": 20})
        await trio.sleep(5)
        answer = await here.call("PUT", "/businesses/orders", body={"rate_limit": 5, "breaker": {"open_seconds": 60}})
        after = answer.json
        assert answer.status == 200 and answer.headers["ETag"] == '"2"'
        assert after["updated_at"] == "2027-01-15T08:00:05.000Z"
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {"rate_limit", "breaker", "version", "updated_at"}
        assert after["breaker"] == {**before["breaker"], "open_seconds": 60}
        assert [(business.version, business.rate_limit) for business in here.engine.changed] == [(1, 1000), (2, 5)]
        entry = (await here.audit())[0]
        assert entry["action"] == "business.update" and entry["target"] == "orders: rate_limit, breaker"
        assert entry["actor"] == {"kind": "admin", "key_id": None}


async def test_a_change_to_the_same_changes_nothing(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        for body in ({}, {"rate_limit": 1000, "status": "active", "breaker": {}}):
            answer = await here.call("PUT", "/businesses/orders", body=body)
            assert answer.status == 200 and answer.json["version"] == 1
        assert [business.version for business in here.engine.changed] == [1]


async def test_if_match_guards_a_change(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        for match, status in (('"1"', 200), ('"1"', 409), ("2", 200), ("*", 200), ("x", 422)):
            body = {"rate_limit": 100 + len(here.engine.changed)}
            answer = await here.call("PUT", "/businesses/orders", body=body, headers=[("If-Match", match)])
            assert answer.status == status, match
            assert status != 409 or answer.code == "version_conflict"


async def test_changes_at_once_are_all_kept(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        bodies: list[dict[str, Any]] = [
            {"rate_limit": 7},
            {"max_active_tasks": 8},
            {"business_name": "nine"},
            {"breaker": {"min_calls": 20}},
            {"breaker": {"failure_rate": 0.25}},
        ]
        statuses: list[int] = []

        async def change(body: dict[str, Any]) -> None:
            statuses.append((await here.call("PUT", "/businesses/orders", body=body)).status)

        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(change, body)
        now = (await here.call("GET", "/businesses/orders")).json
        assert statuses == [200] * 5
        assert (now["rate_limit"], now["max_active_tasks"], now["business_name"]) == (7, 8, "nine")
        assert (now["breaker"]["min_calls"], now["breaker"]["failure_rate"]) == (20, 0.25) and now["version"] == 6


async def test_who_is_not_there_is_404(autojump_clock: MockClock) -> None:
    async with instance() as here:
        for code in ("nobody", "NOBODY", "a", "%00", "é", "x" * 300):
            assert (await here.call("GET", f"/businesses/{code}")).status == 404
            assert (await here.call("PUT", f"/businesses/{code}", body={"rate_limit": 1})).status == 404
            assert (await here.call("PUT", f"/businesses/{code}/credentials", body={})).status == 404


async def test_paused_takes_tasks_and_disabled_takes_nothing(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        token = await here.token(key)
        task = {"business_id": "a", "callback_url": "https://example.com/"}
        await here.call("PUT", "/businesses/orders", body={"status": "paused"})
        assert (await here.call("POST", "/tasks", key, task)).status == 201
        await here.call("PUT", "/businesses/orders", body={"status": "disabled"})
        for credential in (key, token):
            answer = await here.call("GET", "/tasks", credential)
            assert answer.status == 403 and "disabled" in answer.json["detail"]
        assert here.auth_count("orders", "refused", "business_disabled") == 2
        on_behalf = [("X-TaskCenter-Business", "orders")]
        assert (await here.call("GET", "/tasks", headers=on_behalf)).status == 200, "its admin may still look"
        await here.call("PUT", "/businesses/orders", body={"status": "active"})
        assert await here.may(key) == await here.may(token) == 200


async def test_what_one_instance_changes_is_in_force_on_the_other_within_two_seconds(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store, seed=1) as here, instance(store, seed=2) as there:
        key = (await here.register())["api_key"]
        assert await there.may(key) == 200
        await here.call("PUT", "/businesses/orders", body={"status": "disabled", "rate_limit": 3})
        await trio.sleep(2)
        assert await there.may(key) == 403
        assert [business.rate_limit for business in there.engine.changed] == [1000, 3]
        await here.call("PUT", "/businesses/orders", body={"status": "active"})
        await trio.sleep(2)
        assert await there.may(key) == 200
        await trio.sleep(30)
        assert len(there.engine.changed) == 3, "each version is told once"
    await store.aclose()


async def test_a_write_survives_the_client_who_leaves(autojump_clock: MockClock) -> None:
    async with instance() as here:
        for turns in range(40):
            code = f"shop-{turns}"
            await here.ask_and_leave("/businesses", {"business_code": code, "business_name": code}, turns)
        await trio.sleep(1)
        made = (await here.call("GET", "/businesses")).json["items"]
        assert 5 < len(made) <= 40
        for business in made:
            entries = await here.audit(business["business_code"])
            assert [entry["action"] for entry in entries] == ["business.create"], "whole or not at all"
        await here.register("still-there")


async def test_when_the_store_is_out_the_answer_is_503_and_nothing_is_believed(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as here:
        key = (await here.register())["api_key"]
        assert await here.may(key) == 200
        await store.aclose()
        answer = await here.call("GET", "/businesses/orders", key)
        assert answer.status == 503 and int(answer.headers["Retry-After"]) >= 1
        await trio.sleep(2)
        answer = await here.call("GET", "/tasks", key)
        assert (answer.status, answer.code) == (503, "store_unavailable"), "a key is not believed for longer than 1.5 s"
