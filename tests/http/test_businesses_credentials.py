"""API keys, their rotation, and the tokens issued to them."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
import trio
from tests.http.business_kit import ADMIN, KEYS, START_MS, instance, memory_store
from trio.testing import MockClock

from taskcenter.service.api_keys import KeyHasher

DAY_S = 86_400


async def test_several_keys_are_good_until_the_grace_is_over(autojump_clock: MockClock) -> None:
    async with instance() as here:
        first = (await here.register())["api_key"]
        rotated = await here.rotate(first, grace_seconds=60)
        assert set(rotated) == {"business_code", "api_key", "api_key_expires_at", "previous_key_valid_until"}
        assert rotated["previous_key_valid_until"] == "2027-01-15T08:01:00.000Z"
        second = rotated["api_key"]
        third = (await here.rotate(ADMIN, grace_seconds="3m"))["api_key"]
        assert [await here.may(key) for key in (first, second, third)] == [200, 200, 200]
        await trio.sleep(60)
        assert [await here.may(key) for key in (first, second, third)] == [401, 200, 200]
        await trio.sleep(2 * 60)
        assert [await here.may(key) for key in (first, second, third)] == [401, 401, 200]


async def test_no_body_stands_for_an_empty_one_where_every_field_has_a_default(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        rotated = await here.call("PUT", "/businesses/orders/credentials", key)
        assert rotated.status == 200 and await here.may(rotated.json["api_key"]) == 200
        assert (await here.call("POST", "/businesses/orders/tokens", key)).status == 201
        assert (await here.call("PUT", "/businesses/orders", ADMIN)).status == 415, "but not where it means a change"


async def test_the_default_grace_is_a_day_and_a_longer_one_prolongs_nothing(autojump_clock: MockClock) -> None:
    async with instance() as here:
        first = (await here.register())["api_key"]
        assert (await here.rotate(first))["previous_key_valid_until"] == "2027-01-16T08:00:00.000Z"
        await here.rotate(first, grace_seconds="30d")
        keys = (await here.call("GET", "/businesses/orders")).json["api_keys"]
        ends = {key["key_id"]: key["expires_at"] for key in keys}
        assert ends[first[8:24]] == "2027-01-16T08:00:00.000Z" and len(ends) == 3


async def test_a_first_use_is_shown_after_a_second(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        await trio.sleep(10.5)
        await here.may(key)
        await trio.sleep(1.1)
        seen = (await here.call("GET", "/businesses/orders")).json
        assert seen["last_access_at"] == seen["api_keys"][0]["last_used_at"] == "2027-01-15T08:00:10.500Z"
        await here.may(key)  # a second use in the same minute waits for the minute's end
        await trio.sleep(5)
        assert (await here.call("GET", "/businesses/orders")).json["last_access_at"] == seen["last_access_at"]
        await trio.sleep(60)
        assert (await here.call("GET", "/businesses/orders")).json["last_access_at"] > seen["last_access_at"]


async def test_revoking_ends_all_earlier_keys_and_their_tokens_at_once(autojump_clock: MockClock) -> None:
    async with instance() as here:
        first = (await here.register())["api_key"]
        second = (await here.rotate(first))["api_key"]
        tokens = [await here.token(key) for key in (first, second)]
        rotated = await here.rotate(second, revoke_previous=True)
        assert rotated["previous_key_valid_until"] == "2027-01-15T08:00:00.000Z"
        assert [await here.may(credential) for credential in (first, second, *tokens)] == [401] * 4
        assert await here.may(rotated["api_key"]) == 200
        assert here.auth_count("orders", "refused", "key_revoked") == 4


async def test_a_revoked_key_is_out_on_every_instance_within_two_seconds(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store, seed=1) as here, instance(store, seed=2) as there:
        old = (await here.register())["api_key"]
        token = await here.token(old)
        assert await there.may(old) == await there.may(token) == 200
        new = (await here.rotate(old, revoke_previous=True))["api_key"]
        assert await there.may(new) == 200, "a new key is good everywhere at once"
        await trio.sleep(2)
        assert await there.may(old) == await there.may(token) == 401
    await store.aclose()


async def test_a_key_that_was_asked_for_before_it_was_made_is_found_within_two_seconds(
    autojump_clock: MockClock,
) -> None:
    store, other = await memory_store(), await memory_store()
    async with instance(other, seed=9) as elsewhere:
        key = (await elsewhere.register())["api_key"]  # the same seed makes the same key below
    async with instance(store, seed=1) as there:
        assert await there.may(key) == 401
        async with instance(store, seed=9) as here:
            assert (await here.register())["api_key"] == key
            await trio.sleep(2)
            assert await there.may(key) == 200
    await store.aclose()
    await other.aclose()


async def test_the_signing_secret_is_rotated_when_asked_and_both_sign_through_the_grace(
    autojump_clock: MockClock,
) -> None:
    async with instance() as here:
        made = await here.register()
        business = (await here.services.access.cache.by_code("orders")) or pytest.fail("registered")
        rotated = await here.rotate(made["api_key"], rotate_signing_secret=True, grace_seconds=60)
        assert rotated["signing_secret"].startswith("whsec_")

        async def secrets() -> list[str]:
            rows = await here.store.businesses.signing_secrets(business.id, here.clock.now_ms())
            return [row.secret for row in rows]

        assert await secrets() == [rotated["signing_secret"], made["signing_secret"]]
        await trio.sleep(60)
        assert await secrets() == [rotated["signing_secret"]]
        await here.rotate(ADMIN)
        assert await secrets() == [rotated["signing_secret"]]


async def test_one_key_is_revoked_everywhere_within_two_seconds_and_the_others_stay(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as here, instance(store, seed=2) as there:
        first = (await here.register())["api_key"]
        second = (await here.rotate(first))["api_key"]
        token = await here.token(second)
        for credential in (first, second, token):
            assert await here.may(credential) == await there.may(credential) == 200
        path = f"/businesses/orders/credentials/{second[8:24]}"
        revoked = await here.call("DELETE", path, first)
        assert (revoked.status, revoked.json["key_id"]) == (200, second[8:24]) and revoked.json["revoked_at"]
        assert await here.may(second) == await here.may(token) == 401, "at once where it was asked for"
        await trio.sleep(2)
        assert await there.may(second) == await there.may(token) == 401
        assert await here.may(first) == await there.may(first) == 200
        again = await there.call("DELETE", path)
        assert again.json["revoked_at"] == revoked.json["revoked_at"], "repeatable, and nothing changes"
        entries = [entry for entry in await here.audit() if entry["action"] == "credentials.revoke"]
        assert [(entry["target"], entry["actor"]["key_id"]) for entry in entries] == [
            (f"orders: key {second[8:24]}", first[8:24])
        ]
    await store.aclose()


async def test_only_keys_of_the_business_are_revoked(autojump_clock: MockClock) -> None:
    async with instance() as here:
        mine, theirs = (await here.register())["api_key"], (await here.register("others"))["api_key"]
        for key_id in (theirs[8:24], "aaaaaaaaaaaaaaaa", "é", "%00", "' OR 1=1--", "x" * 300):
            for by in (mine, ADMIN):
                assert (await here.call("DELETE", f"/businesses/orders/credentials/{key_id}", by)).status == 404, key_id
        assert await here.may(theirs) == 200
        assert (await here.call("DELETE", f"/businesses/others/credentials/{theirs[8:24]}", mine)).status == 404
        token = await here.token(mine)
        assert (await here.call("DELETE", f"/businesses/orders/credentials/{mine[8:24]}", token)).status == 403
        assert (await here.call("DELETE", f"/businesses/orders/credentials/{mine[8:24]}", mine)).status == 200
        assert await here.may(mine) == 401, "its last one, too"


async def test_a_new_keys_life_may_be_told(autojump_clock: MockClock) -> None:
    async with instance() as here:
        first = (await here.register())["api_key"]
        short = await here.rotate(first, expires_in="1h")
        assert short["api_key_expires_at"] == "2027-01-15T09:00:00.000Z"
        await trio.sleep(3599)
        assert await here.may(short["api_key"]) == 200
        await trio.sleep(1)
        assert await here.may(short["api_key"]) == 401 and await here.may(first) == 200
        for wrong in (59, "6y", 5 * 366 * DAY_S, "soon", True, None):
            answer = await here.call("PUT", "/businesses/orders/credentials", first, {"expires_in": wrong})
            assert (answer.status, answer.json["errors"][0]["field"]) == (422, "expires_in"), wrong


async def test_keys_do_not_pile_up(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        for _ in range(19):
            await here.rotate(key, grace_seconds="30d")
        full = await here.call("PUT", "/businesses/orders/credentials", key, {"grace_seconds": "30d"})
        assert (full.status, full.code) == (409, "too_many_api_keys")
        assert await here.may((await here.rotate(key, revoke_previous=True))["api_key"]) == 200


@pytest.mark.parametrize(
    "body",
    [{"grace_seconds": -1}, {"grace_seconds": "31d"}, {"grace_seconds": None}, {"revoke_previous": 1},
     {"rotate_signing_secret": "yes"}, {"api_key": "mine"}, []],
    ids=str,
)  # fmt: skip
async def test_a_wrong_rotation_is_refused(body: Any, autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        assert (await here.call("PUT", "/businesses/orders/credentials", key, body)).status == 422
        assert len((await here.call("GET", "/businesses/orders")).json["api_keys"]) == 1


async def test_a_key_ends_after_a_year(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as here:
        key = (await here.register())["api_key"]
        assert await here.may(key) == 200
    async with instance(store, now=START_MS + 365 * DAY_S * 1000 - 1000) as here:
        assert await here.may(key) == 200
        await trio.sleep(1)
        assert await here.may(key) == 401
        assert here.auth_count("orders", "refused", "key_expired") == 1
    await store.aclose()


async def test_the_times_of_last_use_are_written_once_a_minute(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        await trio.sleep(10)
        await here.may(key)
        seen = (await here.call("GET", "/businesses/orders")).json
        assert seen["last_access_at"] is None
        await trio.sleep(60)
        seen = (await here.call("GET", "/businesses/orders")).json
        assert seen["last_access_at"] == seen["api_keys"][0]["last_used_at"] == "2027-01-15T08:00:10.000Z"
        assert seen["version"] == 1 and seen["updated_at"] == seen["created_at"]


async def test_what_was_noted_is_written_at_the_end(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as here:
        await here.may((await here.register())["api_key"])
    async with instance(store) as here:
        assert (await here.call("GET", "/businesses/orders")).json["last_access_at"] is not None
        assert (await here.audit())[0]["action"] == "credential.use"
    await store.aclose()


async def test_keys_outlive_the_encryption_key_they_were_hashed_with(autojump_clock: MockClock) -> None:
    store, newer = await memory_store(), (("k2", bytes(32)), *KEYS)
    async with instance(store) as here:
        key = (await here.register())["api_key"]
        token = await here.token(key, ttl=3600)
    async with instance(store, keys=newer) as here:
        assert await here.may(key) == await here.may(token) == 200
        await trio.sleep(61)
        kept = await here.store.businesses.credential(key[8:24])
        assert kept is not None and not KeyHasher(newer).needs_rehash(kept.secret_hash)
    async with instance(store, keys=newer[:1]) as here:
        assert await here.may(key) == 200, "hashed anew when it was used: the old encryption key can go"
        assert await here.may(token) == 401
    await store.aclose()


async def test_a_stolen_database_holds_no_key(autojump_clock: MockClock) -> None:
    async with instance() as here:
        made = await here.register()
        kept = await here.store.businesses.credential(made["api_key"][8:24])
        assert kept is not None and made["api_key"][25:68].encode() not in kept.secret_hash
        assert made["api_key"][25:68] not in repr(kept)


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_stands_in_for_its_key(autojump_clock: MockClock) -> None:
    async with instance(jwt_ttl=120) as here:
        key = (await here.register())["api_key"]
        answer = await here.call("POST", "/businesses/orders/tokens", key, {})
        assert answer.json["expires_at"] == "2027-01-15T08:02:00.000Z" and answer.json["token_type"] == "Bearer"
        assert answer.json["scopes"] == ["business:read", "tasks:read", "tasks:write"]
        token = answer.json["token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["sub"] == "orders" and claims["client_id"] == key[8:24] and claims["aud"] == "taskcenter"
        task = {"business_id": "a", "callback_url": "https://example.com/"}
        assert (await here.call("POST", "/tasks", token, task)).status == 201
        assert (await here.call("GET", "/businesses/orders", token)).status == 200
        await trio.sleep(120)
        assert await here.may(token) == 401 and await here.may(key) == 200


async def test_a_token_may_do_what_its_scopes_say(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        reader = await here.token(key, scopes=["tasks:read"], ttl="90s")
        task = {"business_id": "a", "callback_url": "https://example.com/"}
        assert await here.may(reader) == 200
        assert (await here.call("POST", "/tasks", reader, task)).status == 403
        assert (await here.call("GET", "/businesses/orders", reader)).status == 403
        assert (await here.call("GET", "/businesses/orders/stats", reader)).status == 403


async def test_tokens_are_issued_to_api_keys_only_and_change_no_credentials(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        token = await here.token(key)
        for credential in (token, ADMIN):
            assert (await here.call("POST", "/businesses/orders/tokens", credential, {})).status == 403
        assert (await here.call("PUT", "/businesses/orders/credentials", token, {})).status == 403
        entry = next(entry for entry in await here.audit() if entry["action"] == "token.issue")
        assert entry["actor"]["key_id"] == key[8:24] and "tasks:write" in entry["target"]


async def test_a_token_lives_no_longer_than_the_setting_or_its_key(autojump_clock: MockClock) -> None:
    async with instance(jwt_ttl=600) as here:
        key = (await here.register())["api_key"]
        assert (await here.call("POST", "/businesses/orders/tokens", key, {"ttl": 601})).fields == {"ttl"}
        assert (await here.call("POST", "/businesses/orders/tokens", key, {"ttl": 600})).status == 201
        await here.rotate(key, grace_seconds=60)
        answer = await here.call("POST", "/businesses/orders/tokens", key, {})
        assert answer.json["expires_at"] == "2027-01-15T08:01:00.000Z"


@pytest.mark.parametrize(
    "body",
    [{"ttl": 0}, {"ttl": -5}, {"ttl": "1y"}, {"ttl": None}, {"ttl": 1e308}, {"scopes": []}, {"scopes": ["admin"]},
     {"scopes": ["business:write"]}, {"scopes": ["tasks:read", "tasks:read"]}, {"scopes": "tasks:read"},
     {"scopes": [["tasks:read"]]}, {"sub": "others"}],
    ids=str,
)  # fmt: skip
async def test_a_wrong_token_request_is_refused(body: dict[str, Any], autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        assert (await here.call("POST", "/businesses/orders/tokens", key, body)).status == 422


async def test_a_token_of_one_instance_is_good_on_the_other(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store, seed=1) as here, instance(store, seed=2) as there:
        token = await here.token((await here.register())["api_key"])
        assert await there.may(token) == 200
    await store.aclose()
