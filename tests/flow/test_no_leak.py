"""Secrets are at rest nowhere in the clear: a real service is led through success and refusals, then all it left is
read.

Each secret is a canary that would be recognised in the text it was given in, in base64 and in hex; the tables are read
by another driver than ours, column by column.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
import pytest
from tests.actors.authority import Authority, demanding, halves
from tests.flow.contract_kit import Business, Live, ThreadReceiver, serving
from tests.flow.kit import ADMIN_TOKEN, ENCRYPTION_KEYS, Answer

pytestmark = pytest.mark.real_time

PAYLOAD = "canary-payload-5b1f9a"
HEADER = "canary-header-77c0de"
RESPONSE = "canary-response-e4d2c1"
AUTHORIZATION = "canary-authorization-90ab3f"
BEARER = "canary-bearer-d81c44"
CLIENT_SECRET = "canary-client-secret-31f0"
ACCESS_TOKEN = "canary-access-token-c5a2"
KEY = base64.b64decode(ENCRYPTION_KEYS.partition(":")[2])
TABLES_WITH_ROWS = {
    "audit_log", "business_ledger", "business_systems", "credentials", "instances", "shards", "signing_secrets",
    "task_executions", "tasks", "task_tags",
}  # fmt: skip


def spellings(secret: bytes) -> Iterator[bytes]:
    """As itself, in hex, and in base64 at each of the three offsets it can have in what surrounds it."""
    yield secret
    yield secret.hex().encode()
    for offset in range(3):
        whole = base64.b64encode(bytes(offset) + secret)
        yield whole[4 if offset else 0 : len(whole) - 4]


def cells(database_url: str) -> dict[str, list[bytes]]:
    """Every value of every table, as bytes."""
    found: dict[str, list[bytes]] = {}
    parts = urlsplit(database_url)
    if parts.scheme == "sqlite":
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as file:
            for (table,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found[table] = flat(file.execute(f'SELECT * FROM "{table}"').fetchall())
        return found
    assert parts.hostname and parts.username
    connection = pymysql.connect(
        host=parts.hostname, port=parts.port or 3306, user=unquote(parts.username),
        password=unquote(parts.password or ""), database=parts.path[1:], charset="utf8mb4",
    )  # fmt: skip
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT * FROM `{table}`")
            found[table] = flat(cursor.fetchall())
    return found


def flat(rows: Any) -> list[bytes]:
    return [cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row]


def use_it(live: Live, shop: Business) -> None:
    """A success, a failure with a retry, a schedule's finish, a redelivery, a rotation: all that writes."""
    receiver = live.receiver
    body = json.dumps({"said": RESPONSE}).encode()
    receiver.on[shop.path] = lambda call: Answer(200, body, {"X-Said": RESPONSE})
    receiver.on[f"{shop.path}/bad"] = lambda call: Answer(500, body, {"X-Said": RESPONSE})
    secret: dict[str, Any] = {
        "payload": {"card": PAYLOAD}, "headers": {"Authorization": f"Bearer {HEADER}", "X-Card": HEADER},
        "tags": ["red"],
    }  # fmt: skip
    good = shop.task(live, **secret, finish_url=f"{receiver.url}{shop.path}/end")
    bad = shop.task(live, **secret, callback_url=f"{receiver.url}{shop.path}/bad", retry_intervals=[1])
    waiting = shop.task(live, **secret, delay=3600)
    shop.api.ok("PUT", f"/tasks/{waiting['id']}", {"payload": {"again": PAYLOAD}})
    assert shop.api.ended(good)["status"] == "succeeded"
    assert shop.api.ended(bad)["status"] == "failed"
    shop.api.ok("POST", f"/tasks/{bad['id']}/redeliver")
    receiver.wait_for(f"{shop.path}/bad", 3)
    call = receiver.wait_for(shop.path)[0]
    assert call.headers["x-card"] == HEADER and PAYLOAD.encode() in call.body, "the canaries went the whole way"
    assert RESPONSE in json.dumps(shop.api.ok("GET", f"/tasks/{good['id']}/executions")), "and their answer came back"


@contextmanager
def guarded_receiver(authority: Authority) -> Iterator[ThreadReceiver]:
    """A receiver and a token endpoint that let nobody in without a certificate."""
    receiver = ThreadReceiver(demanding(authority.issue("127.0.0.1"), authority))
    basic = base64.b64encode(f"taskcenter:{CLIENT_SECRET}".encode()).decode()
    token = json.dumps({"access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 600}).encode()
    receiver.on["/token"] = lambda call: Answer(
        *((200, token) if call.headers.get("authorization") == f"Basic {basic}" else (401, b"{}"))
    )
    receiver.on["/hook"] = lambda call: Answer(
        200 if call.headers.get("authorization") in (f"Bearer {ACCESS_TOKEN}", f"Bearer {BEARER}") else 401
    )
    yield receiver
    receiver.close()


def use_credentials(live: Live, receiver: ThreadReceiver, identity: tuple[str, str]) -> list[str]:
    """Callbacks with a client certificate and with tokens of both kinds, and without; what the API shows of it."""
    tls = {"certificate": identity[0], "private_key": identity[1], "hosts": ["127.0.0.1"]}
    bearer = {"type": "bearer", "token": BEARER, "hosts": ["127.0.0.1"]}
    oauth2 = {
        "type": "oauth2", "token_url": f"{receiver.url}/token", "client_id": "taskcenter",
        "client_secret": CLIENT_SECRET, "hosts": ["127.0.0.1"],
    }  # fmt: skip
    shown = []
    hook = {"callback_url": f"{receiver.url}/hook", "retry_intervals": []}
    for auth in (bearer, oauth2):
        shop = live.business(callback_auth=auth, callback_tls=tls)
        ended = shop.api.ended(shop.task(live, **hook))
        assert ended["status"] == "succeeded", ended
        (execution,) = ended["executions"]
        assert execution["request_headers"]["Authorization"] == "***"
        shown += [json.dumps(shop.made["callback_auth"]), json.dumps(ended)]
        live.admin.ok("PUT", f"/businesses/{shop.code}", {"callback_auth": None, "callback_tls": None})
    wrong = live.business(callback_auth={**oauth2, "client_secret": f"{CLIENT_SECRET}-old"}, callback_tls=tls)
    failed = wrong.api.ended(wrong.task(live, **hook))
    assert failed["executions"][0]["error_message"] == "no access token: 127.0.0.1 answered 401"
    malformed = {**oauth2, "client_secret": f"{CLIENT_SECRET}\n", "token_url": "https://10.0.0.1/"}
    refused = live.admin.call(
        "PUT", f"/businesses/{wrong.code}", {"callback_auth": malformed, "callback_tls": {**tls, "certificate": "x"}}
    )
    assert refused.status_code == 422
    return [*shown, json.dumps(failed), refused.text, json.dumps(live.admin.ok("GET", f"/businesses/{wrong.code}"))]


def be_refused(live: Live, shop: Business, token: str) -> list[str]:
    """Errors of every class, provoked with secrets in what is sent; their bodies."""
    strangers = [
        live.client(AUTHORIZATION),
        live.client(f"tc_live_{AUTHORIZATION}"),
        live.client(f"a.{AUTHORIZATION}.c"),
    ]
    basic = live.client(None, Authorization=f"Basic {AUTHORIZATION}")
    answers = [client.call("GET", "/tasks") for client in (*strangers, basic)]
    twice = live.client(shop.made["api_key"], **{"X-API-Key": AUTHORIZATION})
    tampered = live.client(token[:-4] + "AAAA")
    answers += [twice.call("GET", "/tasks"), tampered.call("GET", "/tasks")]
    body = shop.body(live, payload={"card": PAYLOAD}, headers={"X-Card": HEADER}, business_id="twice")
    shop.api.ok("POST", "/tasks", {**body, "delay": 3600})
    answers += [
        shop.api.call("POST", "/tasks", {**body, "delay": 60}),
        shop.api.call("POST", "/tasks", {**body, "headers": {"X-Card": f"{HEADER}\r\n"}}),
        shop.api.call("POST", "/tasks", {**body, "headers": {"X Y": HEADER}, "payload": [PAYLOAD], "unknown": PAYLOAD}),
        shop.api.call("POST", "/tasks", {**body, "callback_url": "http://10.0.0.1/", "retry_intervals": PAYLOAD}),
        shop.api.http.post(
            "/api/v1/tasks", content=f'{{"payload": "{PAYLOAD}'.encode(), headers={"Content-Type": "application/json"}
        ),
        shop.api.call("GET", "/tasks/01JA8Z3N4V7Q2M6K9T5R1X8C0B"),
        live.client(token).call("POST", "/tasks", body),
    ]
    assert {answer.status_code for answer in answers} >= {400, 401, 403, 404, 409, 422}
    assert all(answer.is_error for answer in answers)
    return [answer.text for answer in answers]


def test_no_secret_is_in_a_table_a_log_a_metric_or_an_error(database_url: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    identity = halves(authority.issue("us.example", client=True))
    settings = {"TASKCENTER_LOG_LEVEL": "debug", "TASKCENTER_CALLBACK_CA": str(authority.file)}
    with guarded_receiver(authority) as receiver, serving(database_url, tmp_path, **settings) as live:
        shop = live.business()
        use_it(live, shop)
        shown = use_credentials(live, receiver, identity)
        token = shop.api.ok("POST", f"/businesses/{shop.code}/tokens", {"scopes": ["tasks:read"]})["token"]
        live.client(token).ok("GET", "/tasks")
        errors = be_refused(live, shop, token)
        rotated = shop.api.ok("PUT", f"/businesses/{shop.code}/credentials", {"rotate_signing_secret": True})
        shown += [live.admin.http.get("/metrics").text, json.dumps(live.admin.ok("GET", "/stats"))]
        shown.append(json.dumps(live.admin.ok("GET", f"/businesses/{shop.code}/audit?limit=200")))
        shown.append(json.dumps(live.admin.ok("GET", "/audit?limit=200")))
        shown.append(json.dumps(shop.api.ok("GET", f"/businesses/{shop.code}")))
        assert shop.code in "".join(shown)
        live.service.kill()  # what it had in memory only is not at rest; every answered write is
        tables = cells(database_url)
        assert {name for name, values in tables.items() if values} >= TABLES_WITH_ROWS
        haystacks = {f"table {name}": b"\0".join(values) for name, values in tables.items()}
        log = live.service.log_path.read_bytes()
        assert log.count(b'"request"') > 20, "the log tells of every request"
    haystacks["log"] = log
    haystacks["errors"] = "\0".join(errors).encode()
    haystacks["metrics and views"] = "\0".join(shown).encode()
    for file in tmp_path.glob("taskcenter.db*"):  # free pages and the WAL as well
        haystacks[file.name] = file.read_bytes()
    secrets = {
        "payload": PAYLOAD, "header": HEADER, "response": RESPONSE, "authorization": AUTHORIZATION,
        "bearer": BEARER, "client secret": CLIENT_SECRET, "access token": ACCESS_TOKEN, "admin token": ADMIN_TOKEN,
        "jwt": token.rpartition(".")[2], "whole jwt": token,
        **{f"api key {n}": made["api_key"][25:] for n, made in enumerate((shop.made, rotated))},
        **{f"signing secret {n}": made["signing_secret"] for n, made in enumerate((shop.made, rotated))},
    }  # fmt: skip
    canaries = {name: secret.encode() for name, secret in secrets.items()}
    canaries["signing key"] = base64.b64decode(shop.made["signing_secret"].removeprefix("whsec_"))
    canaries["encryption key"] = KEY
    canaries["private key"] = identity[1].splitlines()[1][:60].encode()
    assert len(canaries) >= 15
    if password := urlsplit(database_url).password:
        canaries["database password"] = unquote(password).encode()
    for name, canary in canaries.items():
        assert len(canary) >= 16, name
        for spelling in spellings(canary):
            for place, haystack in haystacks.items():
                assert spelling not in haystack, f"{name} is in {place}"


@pytest.mark.parametrize(
    ("command", "port", "more_keys"),
    [
        ("doctor", "9", ""),
        ("migrate", "9", ""),
        ("serve", "port", ""),
        ("serve", "9", f",k0:{base64.b64encode(b'short').decode()}"),
    ],
)
def test_a_start_that_fails_does_not_tell_its_secrets(command: str, port: str, more_keys: str) -> None:
    """A database that refuses, settings that are wrong: the words about it hold neither password, token nor key."""
    password, key = "canary-password-1c2d3e4f", base64.b64encode(b"canary-key".ljust(32, b"!")).decode()
    environment = {
        **os.environ,
        "TASKCENTER_DATABASE_URL": f"mysql://user:{password}@127.0.0.1:{port}/x",
        "TASKCENTER_ADMIN_TOKEN": ADMIN_TOKEN,
        "TASKCENTER_ENCRYPTION_KEYS": f"k2:{key}{more_keys}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "taskcenter", command], env=environment, capture_output=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert said
    for canary in (password, ADMIN_TOKEN, key, more_keys.partition(":")[2] or key):
        assert canary.encode() not in said
