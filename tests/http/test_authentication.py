"""Who asks: the three credentials, and the many that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ed25519
from tests.http.business_kit import ADMIN, KEYS, START_MS, Instance, Sent, bearer, instance, memory_store
from trio.testing import MockClock

from taskcenter.service.api_keys import ApiKey
from taskcenter.store.vault import derive

NOW_S = START_MS // 1000


def sign(claims: dict[str, Any], key: bytes = b"", algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key or derive(KEYS[0][1], "jwt"), algorithm, headers={"kid": "k1", **header})


def forged(made: dict[str, Any], token: str) -> dict[str, Sent]:
    """Everything that is not quite a credential, by name."""
    key, claims = made["api_key"], jwt.decode(token, options={"verify_signature": False})
    key_id, secret = key[8:24], key[25:68]
    head, body, signature = token.split(".")
    return {
        "nothing": [],
        "empty header": [("Authorization", "")],
        "bearer alone": [("Authorization", "Bearer")],
        "bearer and a space": [("Authorization", "Bearer ")],
        "no scheme": [("Authorization", key)],
        "basic": [("Authorization", "Basic b3JkZXJzOm9yZGVycw==")],
        "token scheme": [("Authorization", f"Token {key}")],
        "two words": bearer(f"{key} {key}"),
        "comma": bearer(f"{key},{ADMIN}"),
        "quoted": bearer(f'"{key}"'),
        "two different headers": bearer(key) + bearer(ADMIN),
        "one good, one bad header": bearer(key) + bearer("x"),
        "both headers, different": [*bearer(key), ("X-API-Key", "x")],
        "admin token and key": [*bearer(ADMIN), ("X-API-Key", key)],
        "two keys": [("X-API-Key", key), ("X-API-Key", key[:-1] + "x")],
        "admin token as api key": [("X-API-Key", ADMIN)],
        "jwt as api key": [("X-API-Key", token)],
        "empty api key": [("X-API-Key", "")],
        "a letter less": bearer(key[:-1]),
        "a letter more": bearer(f"{key}0"),
        "wrong checksum": bearer(key[:-6] + "000000"),
        "typo": bearer(key[:30] + ("a" if key[30] != "a" else "b") + key[31:]),
        "upper case": bearer(key.upper()),
        "test key": bearer(key.replace("live", "test")),
        "key id alone": bearer(key_id),
        "secret alone": bearer(secret),
        "unknown key id": bearer(ApiKey("aaaaaaaaaaaaaaaa", secret).text),
        "another secret": bearer(ApiKey(key_id, "0" * 43).text),
        "like in SQL": bearer(ApiKey("%%%%%%%%%%%%%%%%", secret).text),
        "SQL": bearer("' OR '1'='1"),
        "signing secret": bearer(made["signing_secret"]),
        "not ASCII": bearer("tc_live_é"),
        "control letters": bearer("tc_live_\x07"),
        "very long": bearer("x" * 5000),
        "admin token with a letter less": bearer(ADMIN[:-1]),
        "admin token with a letter more": bearer(f"{ADMIN}x"),
        "admin token in upper case": bearer(ADMIN.upper()),
        "two dots": bearer(".."),
        "jwt without signature": bearer(f"{head}.{body}."),
        "jwt cut": bearer(f"{head}.{body}"),
        "jwt with another signature": bearer(f"{head}.{body}.{signature[::-1]}"),
        "jwt of alg none": bearer(jwt.encode(claims, "", "none", headers={"kid": "k1"})),
        "jwt of another algorithm": bearer(sign(claims, derive(KEYS[0][1], "jwt") * 2, "HS512")),
        "jwt of another secret": bearer(sign(claims, b"x" * 32)),
        "jwt of the encryption key": bearer(sign(claims, KEYS[0][1])),
        "jwt of the hash key": bearer(sign(claims, derive(KEYS[0][1], "api-key-hash"))),
        "jwt of an unknown key": bearer(sign(claims, kid="k2")),
        "jwt for another audience": bearer(sign({**claims, "aud": "elsewhere"})),
        "jwt of another issuer": bearer(sign({**claims, "iss": "elsewhere"})),
        "jwt of a list of issuers": bearer(_listed_issuer(claims)),
        "jwt of the future": bearer(sign({**claims, "nbf": NOW_S + 60})),
        "jwt of the past": bearer(sign({**claims, "exp": NOW_S - 1})),
        "jwt without end": bearer(sign({name: value for name, value in claims.items() if name != "exp"})),
        "jwt without rights": bearer(sign({**claims, "scope": "admin"})),
        "jwt of an unknown api key": bearer(sign({**claims, "client_id": "aaaaaaaaaaaaaaaa"})),
        "jwt of no api key": bearer(sign({**claims, "client_id": None})),
        "jwt of another business": bearer(sign({**claims, "sub": "others"})),
        "jwt of nobody": bearer(sign({**claims, "sub": "nobody"})),
    }


def _listed_issuer(claims: dict[str, Any]) -> str:
    payload = json.dumps({**claims, "iss": ["taskcenter"]}).encode()
    return jwt.api_jws.encode(payload, derive(KEYS[0][1], "jwt"), "HS256", headers={"kid": "k1"})


async def test_every_forged_credential_hears_the_same_401(autojump_clock: MockClock) -> None:
    async with instance() as here:
        made = await here.register()
        await here.register("others")
        sent = forged(made, await here.token(made["api_key"]))
        assert len(sent) >= 50
        bodies = set()
        for number, (name, headers) in enumerate(sent.items()):
            answer = await here.call("GET", "/tasks", None, ip=f"198.51.100.{number}", headers=headers)
            assert answer.status == 401, name
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="taskcenter"', name
            bodies.add(answer.content)
        assert len(bodies) == 1 and json.loads(bodies.pop())["code"] == "unauthenticated"


async def test_all_ways_to_show_a_good_credential(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        token = await here.token(key)
        for headers in (
            bearer(key), bearer(token), [("X-API-Key", key)], [("Authorization", f"bearer {key}")],
            [("Authorization", f"BEARER   {key}")], [*bearer(key), ("X-API-Key", key)], bearer(key) * 2,
        ):  # fmt: skip
            assert (await here.call("GET", "/tasks", None, headers=headers)).status == 200, headers
        assert here.auth_count("orders", "ok", "api_key") == 7
        assert here.auth_count("orders", "ok", "jwt") == 1


async def test_a_key_of_another_environment_is_refused(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as live:
        key = (await live.register())["api_key"]
        assert await live.may(key) == 200
    async with instance(store, seed=2, key_environment="staging") as copy:
        made = (await copy.register("others"))["api_key"]
        assert made.startswith("tc_staging_") and await copy.may(made) == 200
        relabelled = ApiKey(key[8:24], key[25:68], "staging").text
        assert [await copy.may(wrong) for wrong in (key, made.replace("staging", "live"))] == [401, 401]
        assert await copy.may(relabelled) == 200, "a label and no secret: who has the key may write it so"
        assert (await copy.call("GET", "/tasks", None, headers=[("X-API-Key", key)])).status == 401
    await store.aclose()


async def test_a_route_that_is_not_there_tells_nobody_anything(autojump_clock: MockClock) -> None:
    async with instance() as here:
        assert (await here.call("GET", "/nothing", None)).status == 404
        assert (await here.call("GET", "/health", None)).status == 200


# --- the admin --------------------------------------------------------------------------------------------------------


async def test_the_admin_acts_on_the_business_it_names(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        acts = [("X-TaskCenter-Business", "orders")]
        task = {"business_id": "a", "callback_url": "https://example.com/"}
        assert (await here.call("POST", "/tasks", body=task)).status == 403, "names none"
        assert (await here.call("POST", "/tasks", body=task, headers=acts)).status == 201
        for unknown in ("nobody", "é", "x" * 100, ""):
            answer = await here.call("GET", "/tasks", headers=[("X-TaskCenter-Business", unknown)])
            assert answer.status == 404, unknown
        twice = [*acts, ("X-TaskCenter-Business", "others")]
        assert (await here.call("GET", "/tasks", headers=twice)).status == 422
        actions = {(entry["action"], entry["actor"]["kind"]) for entry in await here.audit()}
        assert {("task.create", "admin"), ("credential.use", "admin")} <= actions


async def test_a_business_may_name_itself_only(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        await here.register("others")
        for credential in (key, await here.token(key)):
            assert await here.may(credential, headers=[("X-TaskCenter-Business", "orders")]) == 200
            assert await here.may(credential, headers=[("X-TaskCenter-Business", "others")]) == 403
            assert await here.may(credential, headers=[("X-TaskCenter-Business", "nobody")]) == 403
        refused = [entry for entry in await here.audit() if entry["action"] == "auth.failure"]
        assert refused[0]["target"] == "other_business" and refused[0]["actor"]["key_id"] == key[8:24]


async def test_the_admin_token_is_made_on_the_first_start_and_told_once(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store, admin_token=None) as here:
        body = {"business_code": "orders", "business_name": "b"}
        assert (await here.call("POST", "/businesses", ADMIN, body)).status == 401
        assert await here.services.start_admin_token() is None, "it was made, and told, at the start"
    await store.aclose()
    store = await memory_store()
    async with instance(store) as set_by_hand:
        assert await set_by_hand.services.start_admin_token() is None
        assert await store.maintenance.meta("admin_token_hash") is None
    async with instance(store, admin_token=None, starts_admin=False) as here:
        token = await here.services.start_admin_token()
        assert token is not None and token.startswith("tc_admin_")
        assert (await here.call("GET", "/businesses", token)).status == 200
        kept = await store.maintenance.meta("admin_token_hash")
        assert kept is not None and len(kept) == 32 and token.encode() not in kept
    async with instance(store, admin_token=None, seed=5) as after:
        assert (await after.call("GET", "/businesses", token)).status == 200
        assert (await after.call("GET", "/businesses", f"{token}x")).status == 401
    await store.aclose()


async def test_nobody_is_admin_before_the_token_is_known(autojump_clock: MockClock) -> None:
    async with instance(starts_admin=False) as here:
        assert (await here.call("GET", "/businesses", ADMIN)).status == 401
        assert (await here.call("GET", "/businesses", "")).status == 401


# --- what is written down ---------------------------------------------------------------------------------------------


async def test_failures_are_booked_on_the_business_whose_key_it_was(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        await here.may(ApiKey(key[8:24], "0" * 43).text, headers=[("X-Request-Id", "mine")])
        await here.may("evil\u00e9")
        entry = next(entry for entry in await here.audit() if entry["action"] == "auth.failure")
        assert entry["target"] == "key_wrong_secret" and entry["result"] == "refused"
        assert entry["actor"] == {"kind": "anonymous", "key_id": key[8:24]}
        assert (entry["ip"], entry["request_id"]) == ("192.0.2.1", "mine")
        unknown = next(entry for entry in await here.audit(None) if entry["action"] == "auth.failure")
        assert unknown["target"] == "malformed" and unknown["actor"]["key_id"] is None
        assert here.auth_count("orders", "refused", "key_wrong_secret") == 1
        assert here.auth_count("", "refused", "malformed") == 1


async def test_the_use_of_a_credential_is_written_once_a_minute_for_each_address(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        for _ in range(5):
            await here.may(key)
            await here.may(key, ip="192.0.2.9")

        async def uses() -> list[str]:
            return sorted(entry["ip"] for entry in await here.audit() if entry["action"] == "credential.use")

        assert await uses() == ["192.0.2.1", "192.0.2.9"]
        await trio.sleep(61)
        await here.may(key)
        assert await uses() == ["192.0.2.1", "192.0.2.1", "192.0.2.9"]


async def test_the_audit_is_paged_and_its_chain_holds(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        for number in range(8):
            await here.call("PUT", "/businesses/orders", body={"rate_limit": number + 1})
        await here.may(key)
        await trio.sleep(1)
        seen: list[int] = []
        path = "/businesses/orders/audit?limit=4"
        while path:
            page = (await here.call("GET", path, key)).json
            seen += [entry["seq"] for entry in page["items"]]
            cursor = page["next_cursor"]
            path = f"/businesses/orders/audit?limit=4&cursor={cursor}" if cursor else ""
        assert seen == list(range(10, 0, -1))
        await here.register("others")
        first = (await here.call("GET", "/businesses/orders/audit?limit=4")).json["next_cursor"]
        assert (await here.call("GET", f"/businesses/others/audit?cursor={first}")).status == 422


async def test_no_secret_is_in_log_audit_metric_or_repr(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with instance() as here:
        made = await here.register()
        rotated = await here.rotate(made["api_key"], rotate_signing_secret=True)
        token = await here.token(rotated["api_key"])
        canaries = [made["api_key"][25:68], rotated["api_key"][25:68], made["signing_secret"][6:], token.split(".")[2],
                    rotated["signing_secret"][6:], ADMIN, "canary-of-nobody"]  # fmt: skip
        for credential in (made["api_key"], rotated["api_key"], token, ADMIN, "canary-of-nobody",
                           ApiKey(made["api_key"][8:24], made["api_key"][25:68][::-1]).text):  # fmt: skip
            await here.may(credential)
            await here.call("GET", "/businesses/orders", credential)
        canaries.append(made["api_key"][25:68][::-1])
        texts = [json.dumps(await here.audit()), json.dumps(await here.audit(None)), _reprs(here)]
        metrics = await here.app.test_client().get("/metrics")
        texts += [await metrics.get_data(as_text=True), capsys.readouterr().out]
        for canary in canaries:
            assert not any(canary in text for text in texts), canary


def _reprs(here: Instance) -> str:
    access = here.services.access
    return repr([access.authenticator, access.cache, access.trail, access.usage, access.businesses._t, here.services])


# --- an issuer outside ------------------------------------------------------------------------------------------------


async def test_tokens_of_an_external_issuer(autojump_clock: MockClock, tmp_path: Path) -> None:
    secret = ed25519.Ed25519PrivateKey.generate()
    jwks = tmp_path / "jwks.json"
    public = jwt.algorithms.OKPAlgorithm.to_jwk(secret.public_key(), as_dict=True)
    jwks.write_text(json.dumps({"keys": [{**public, "kid": "a"}]}))
    claims = {"iss": "https://id.example", "aud": "taskcenter", "taskcenter_business": "orders", "exp": NOW_S + 600,
              "scope": "tasks:read"}  # fmt: skip

    def token(**changes: Any) -> str:
        return jwt.encode({**claims, **changes}, secret, "EdDSA", headers={"kid": "a"})

    async with instance(jwt_jwks=jwks, jwt_issuer="https://id.example") as here:
        await here.register()
        assert await here.may(token()) == 200
        task = {"business_id": "a", "callback_url": "https://example.com/"}
        assert (await here.call("POST", "/tasks", token(), task)).status == 403
        assert (await here.call("POST", "/businesses/orders/tokens", token(scope="business:read"), {})).status == 403
        for wrong in ({"taskcenter_business": "nobody"}, {"iss": "taskcenter"}, {"scope": "admin"}, {"exp": NOW_S},
                      {"taskcenter_business": "x' OR 1=1"}, {"taskcenter_business": ["orders"]}):  # fmt: skip
            assert await here.may(token(**wrong)) == 401, wrong
    async with instance() as without:
        await without.register()
        assert await without.may(token()) == 401
