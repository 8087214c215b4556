"""`callback_auth` and `callback_tls` in the API: taken, bounded, in force on every instance, and never shown again."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from tests.actors.authority import Authority, halves
from tests.http.business_kit import ADMIN, START_MS, Instance, instance, memory_store
from trio.testing import MockClock

from taskcenter.store.callback_credentials import BearerAuth, OAuth2Auth

BEARER = {"type": "bearer", "token": "canary-token-1", "hosts": ["API.example.com"]}
OAUTH = {
    "type": "oauth2", "token_url": "https://id.example/token", "client_id": "us", "client_secret": "canary-secret-2",
    "scope": "hooks", "hosts": ["*.example.com", "http://b.example:8080"],
}  # fmt: skip
START = datetime.datetime.fromtimestamp(START_MS / 1000, datetime.UTC)
LATER = START + datetime.timedelta(days=90)
MONTH = datetime.timedelta(days=30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


def tls_of(authority: Authority, **issued: Any) -> dict[str, Any]:
    issue = {"begins": START - MONTH, "until": LATER, "client": True, "subject": "orders", **issued}
    certificate, key = halves(authority.issue("us.example", **issue))
    return {"certificate": certificate, "private_key": key, "hosts": ["api.example.com"]}


async def put(here: Instance, **body: Any) -> Any:
    return await here.call("PUT", "/businesses/orders", body=body)


async def test_they_are_taken_at_registration_and_shown_masked(authority: Authority, autojump_clock: MockClock) -> None:
    tls = tls_of(authority)
    async with instance() as here:
        made = await here.register(callback_auth=OAUTH, callback_tls=tls)
        shown = {
            "type": "oauth2", "hosts": ["*.example.com", "http://b.example:8080"], "audience": None, "scope": "hooks",
            "token_url": "https://id.example/token", "client_id": "us", "client_authentication": "basic",
        }  # fmt: skip
        assert made["callback_auth"] == shown
        assert made["callback_tls"].pop("fingerprint_sha256").isalnum()
        assert made["callback_tls"] == {
            "type": "certificate", "hosts": ["api.example.com"], "subject": "CN=orders", "issuer": "CN=authority",
            "expires_at": LATER.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        }  # fmt: skip
        answers = [await here.call("GET", path, by) for by in (ADMIN, made["api_key"])
                   for path in ("/businesses", "/businesses/orders")]  # fmt: skip
        for answer in answers:
            assert b"canary" not in answer.content and b"PRIVATE" not in answer.content
            assert json.loads(answer.content).get("callback_auth", shown) == shown
        stored = await here.store.businesses.get("orders")
        assert stored is not None and isinstance(stored.callback_auth, OAuth2Auth)
        assert stored.callback_auth.client_secret == "canary-secret-2"
        assert (await here.register("plain"))["callback_auth"] is None


async def test_what_is_left_out_stays_and_null_takes_it_away(authority: Authority, autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register(callback_auth=BEARER, callback_tls=tls_of(authority))
        changed = (await put(here, rate_limit=5)).json
        assert changed["callback_auth"] == {"type": "bearer", "hosts": ["api.example.com"]}
        assert changed["callback_tls"]["subject"] == "CN=orders"
        again = (await put(here, callback_auth=BEARER)).json
        assert again["version"] == changed["version"], "the same again is no change"
        without = (await put(here, callback_auth=None)).json
        assert without["callback_auth"] is None and without["callback_tls"] is not None
        assert (await put(here, callback_tls=None)).json["callback_tls"] is None
        audit = [entry["target"] for entry in await here.audit() if entry["action"] == "business.update"]
        assert audit == ["orders: callback_tls", "orders: callback_auth", "orders: rate_limit"]


async def test_only_the_admin_sets_them(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        answer = await here.call("PUT", "/businesses/orders", key, {"callback_auth": BEARER})
        assert answer.status == 403


async def test_a_change_reaches_the_engine_of_every_instance_within_two_seconds(autojump_clock: MockClock) -> None:
    store = await memory_store()
    async with instance(store) as one, instance(store, seed=2) as other:
        await one.register()
        await trio.sleep(2)
        for auth in (BEARER, {**BEARER, "token": "canary-token-2"}, None):
            await put(one, callback_auth=auth)
            await trio.sleep(2)
            for engine in (one.engine, other.engine):
                told = engine.changed[-1].callback_auth
                assert (told.token if isinstance(told, BearerAuth) else told) == (auth and auth["token"])
    await store.aclose()


WRONG_AUTH: list[tuple[Any, str, str]] = [
    ("canary", "", 'an object with "type"'), ([], "", 'an object with "type"'), ({}, "", 'an object with "type"'),
    ({**BEARER, "type": "basic"}, "", 'an object with "type"'), ({**BEARER, "type": ["bearer"]}, "", "an object with"),
    ({**BEARER, "token": ""}, ".token", "visible ASCII"), ({**BEARER, "token": 7}, ".token", "visible ASCII"),
    ({**BEARER, "token": "canary two"}, ".token", "visible ASCII"),
    ({**BEARER, "token": "canary\r\nX-Evil: 1"}, ".token", "visible ASCII"),
    ({**BEARER, "token": "canary\u00e9"}, ".token", "visible ASCII"),
    ({**BEARER, "token": "canary" * 2000}, ".token", "visible ASCII"),
    ({"type": "bearer", "hosts": ["a.example"]}, ".token", "is required"),
    ({"type": "bearer", "token": "canary"}, ".hosts", "is required"),
    ({**BEARER, "hosts": []}, ".hosts", "at least one"), ({**BEARER, "hosts": "a.example"}, ".hosts", "a list"),
    ({**BEARER, "hosts": ["*"]}, ".hosts.0", "must be a host"), ({**BEARER, "hosts": [None]}, ".hosts.0", "must be a"),
    ({**BEARER, "hosts": ["a.example", "A.example"]}, ".hosts", "twice"),
    ({**BEARER, "hosts": [f"h{n}.example" for n in range(33)]}, ".hosts", "at most 32"),
    ({**BEARER, "secret": "canary"}, ".secret", "is not a field here"),
    ({**OAUTH, "token": "canary"}, ".token", "is not a field here"),
    ({**OAUTH, "token_url": "http://id.example/"}, ".token_url", "must be an https URL"),
    ({**OAUTH, "token_url": "https://us:canary@id.example/"}, ".token_url", "has a user name or password"),
    ({**OAUTH, "token_url": "https://127.0.0.1/"}, ".token_url", "is not an address that callbacks may go to"),
    ({**OAUTH, "token_url": "https://0xa9fea9fe/"}, ".token_url", "is not an address that callbacks may go to"),
    ({**OAUTH, "token_url": 7}, ".token_url", "must be an https URL"),
    ({**OAUTH, "client_id": ""}, ".client_id", "printable"), ({**OAUTH, "client_id": "é"}, ".client_id", "ASCII"),
    ({**OAUTH, "client_secret": "canary\n"}, ".client_secret", "printable"),
    ({**OAUTH, "client_secret": None}, ".client_secret", "printable"),
    ({**OAUTH, "scope": ["hooks"]}, ".scope", "printable"),
    ({**OAUTH, "client_authentication": "mtls"}, ".client_authentication", "basic or body"),
]  # fmt: skip


@pytest.mark.parametrize(("auth", "field", "told"), WRONG_AUTH)
async def test_a_wrong_callback_auth_is_named_and_not_repeated(
    auth: Any, field: str, told: str, autojump_clock: MockClock
) -> None:
    async with instance() as here:
        await here.register()
        bodies = [{"business_code": "new", "business_name": "n", "callback_auth": auth}, {"callback_auth": auth}]
        for method, path, body in zip(("POST", "PUT"), ("/businesses", "/businesses/orders"), bodies, strict=True):
            answer = await here.call(method, path, body=body)
            assert answer.status == 422, answer.json
            (fault,) = answer.json["errors"]
            assert fault["field"] == f"callback_auth{field}" and told in fault["message"], fault
            assert b"canary" not in answer.content


def pem_of(key: Any, password: bytes | None = None) -> str:
    sealing = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return str(key.private_bytes(*form, sealing).decode())


def wrong_tls(authority: Authority) -> list[tuple[dict[str, Any], str, str]]:
    good = tls_of(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - shown to be refused
    other = Ed448PrivateKey.generate()
    past, future = START - datetime.timedelta(seconds=1), START + datetime.timedelta(days=900)
    swapped = {"certificate": good["private_key"], "private_key": good["certificate"]}
    return [
        ({**good, "certificate": "canary"}, "certificate", "is not a certificate in PEM"),
        ({**good, "certificate": good["certificate"][:200]}, "certificate", "is not a certificate in PEM"),
        ({**good, "certificate": 7}, "certificate", "must be PEM text"),
        ({**good, "certificate": "x" * 40_000}, "certificate", "must be PEM text"),
        ({**good, **swapped}, "certificate", "is not a certificate in PEM"),
        ({**good, "private_key": "canary"}, "private_key", "is not a private key in PEM"),
        ({**good, "private_key": good["private_key"][:100]}, "private_key", "is not a private key in PEM"),
        ({**good, "private_key": pem_of(key)}, "private_key", "is not the key of the (first) certificate"),
        ({**good, "private_key": pem_of(key, b"pass")}, "private_key", "is encrypted"),
        ({**tls_of(authority, key=weak)}, "private_key", "less than 2048 bits"),
        ({**tls_of(authority, key=other)}, "private_key", "neither RSA, elliptic curve nor Ed25519"),
        (tls_of(authority, client=False), "certificate", "is not for clients"),
        (tls_of(authority, until=past), "certificate", "has expired"),
        ({**good, "hosts": ["http://a.example"]}, "hosts", "over TLS only"),
        ({**good, "hosts": []}, "hosts", "at least one"),
        ({**good, "passphrase": "canary"}, "passphrase", "is not a field here"),
        ({"certificate": good["certificate"], "hosts": ["a.example"]}, "private_key", "is required"),
        (_not_yet(authority, future), "certificate", "is not good yet"),
    ]


def _not_yet(authority: Authority, until: datetime.datetime) -> dict[str, Any]:
    begins = START + datetime.timedelta(days=1)
    certificate, key = halves(authority.issue("us.example", until=until, client=True, begins=begins))
    return {"certificate": certificate, "private_key": key, "hosts": ["a.example"]}


async def test_a_wrong_callback_tls_is_named_and_not_repeated(authority: Authority, autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        for tls, field, told in wrong_tls(authority):
            answer = await put(here, callback_tls=tls)
            assert answer.status == 422, (field, told, answer.json)
            (fault,) = answer.json["errors"]
            assert fault["field"] == f"callback_tls.{field}" and told in fault["message"], fault
            assert b"canary" not in answer.content
            secret = tls.get("private_key", "")[60:90].encode()
            assert not secret or secret not in answer.content
        assert (await put(here, callback_tls="canary")).status == 422
        assert (await here.call("GET", "/businesses/orders")).json["callback_tls"] is None


KINDS: dict[str, Callable[[], object]] = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_of_each_kind_are_taken(kind: str, authority: Authority, autojump_clock: MockClock) -> None:
    async with instance() as here:
        made = await here.register(callback_tls=tls_of(authority, key=KINDS[kind]()))
        assert made["callback_tls"]["type"] == "certificate"
