"""What a business shows to its receivers, on real sockets: a receiver that demands a certificate, a token endpoint that
wants its client's secret, and others that must get neither."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from tests.actors.authority import Authority, demanding, halves, server_context
from tests.actors.receivers import OK, Receiver, StaticResolver, a_request, answering, receiving, transport_to_loopback
from tests.store.store_kit import business
from trio.testing import MockClock

from taskcenter.actors.client import UNREADABLE, BusinessClient
from taskcenter.actors.egress.exchange import Answered, Exchange, Faulted
from taskcenter.actors.egress.tls import TlsSettings
from taskcenter.actors.oauth2 import YOUNG_S
from taskcenter.store.callback_credentials import BearerAuth, ClientCertificate, OAuth2Auth, Unreadable

TOKEN, SECRET = "canary-token-5e1f", "canary-secret-77aa"
UNAUTHORIZED = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


def client_of(authority: Authority, **credentials: Any) -> BusinessClient:
    resolver = StaticResolver({name: ["127.0.0.1"] for name in ("ours.example", "theirs.example", "id.example")})
    transport = transport_to_loopback(resolver=resolver, tls=TlsSettings(ca_file=authority.file))
    return BusinessClient(business(**credentials), transport)


def certificate(authority: Authority, *hosts: str) -> ClientCertificate:
    pem, key = halves(authority.issue("us.example", client=True))
    return ClientCertificate(pem, key, hosts, "CN=us", "CN=authority", 0, "fingerprint")


async def send(client: BusinessClient, url: str, deadline_s: float = 5, **headers: str) -> Exchange:
    """As an attempt does."""
    request = await client.authorize(a_request(url, b"{}", "POST", **headers), deadline_s)
    return request if isinstance(request, Faulted) else await client.exchange(request, deadline_s)


async def arrived(client: BusinessClient, receiver: Receiver, url: str, **headers: str) -> str:
    """What the receiver got as Authorization; empty for none."""
    result = await send(client, url, 5, **headers)
    assert isinstance(result, Answered), result
    lines = receiver.requests[-1].decode().split("\r\n")
    return next((line.partition(": ")[2] for line in lines if line.lower().startswith("authorization:")), "")


@dataclass
class TokenEndpoint:
    """A small OAuth2 server behind TLS: knows one client, gives each token once."""

    receiver: Receiver
    given: list[str] = field(default_factory=list)
    broken: bytes = b""

    @property
    def url(self) -> str:
        return f"https://id.example:{self.receiver.port}/token"

    def answer(self, request: bytes) -> bytes:
        if self.broken:
            return self.broken
        basic = base64.b64encode(f"taskcenter:{SECRET}".encode())
        if b"Authorization: Basic %b\r\n" % basic not in request or b"grant_type=client_credentials" not in request:
            return http(401, {"error": "invalid_client"})
        self.given.append(f"access-{len(self.given)}")
        return http(200, {"access_token": self.given[-1], "token_type": "Bearer", "expires_in": 3600})


def http(status: int, content: Any) -> bytes:
    body = json.dumps(content).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status, len(body), body,
    )  # fmt: skip


@asynccontextmanager
async def issuing(authority: Authority) -> AsyncIterator[TokenEndpoint]:
    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        while request := await receiver.read_request(stream):
            await stream.send_all(endpoint.answer(request))

    endpoint = TokenEndpoint(Receiver(0))
    async with receiving(mood, tls=server_context(authority.issue("id.example"))) as endpoint.receiver:
        yield endpoint


def oauth2(endpoint: TokenEndpoint, **more: Any) -> OAuth2Auth:
    fields = {"token_url": endpoint.url, "client_id": "taskcenter", "client_secret": SECRET, "hosts": ("ours.example",)}
    return OAuth2Auth(**{**fields, **more})


async def test_a_token_goes_to_its_hosts_over_https_and_nowhere_else(authority: Authority) -> None:
    context = server_context(authority.issue("ours.example", "theirs.example"))
    async with receiving(answering(OK), tls=context) as secure, receiving(answering(OK)) as plain:
        client = client_of(authority, callback_auth=BearerAuth(TOKEN, ("ours.example",)))
        ours = secure.url(scheme="https", host="ours.example")
        assert await arrived(client, secure, ours) == f"Bearer {TOKEN}"
        assert await arrived(client, secure, ours, Authorization="Basic bWluZQ==") == "Basic bWluZQ=="
        assert await arrived(client, secure, secure.url(scheme="https", host="theirs.example")) == ""
        assert await arrived(client, plain, plain.url(host="ours.example")) == "", "the same host in clear"
        client.update(business(callback_auth=BearerAuth("another", ("http://ours.example", "theirs.example"))))
        assert await arrived(client, secure, ours) == "", "a change is in force for the next attempt"
        assert await arrived(client, plain, plain.url(host="ours.example")) == "Bearer another"
        client.update(business())
        assert await arrived(client, plain, plain.url(host="ours.example")) == ""
        assert TOKEN not in repr(client)
        await client.aclose()


async def test_a_receiver_that_echoes_its_headers_does_not_bring_the_token_into_the_history(
    authority: Authority,
) -> None:
    async def echo(receiver: Receiver, stream: trio.abc.Stream) -> None:
        while request := await receiver.read_request(stream):
            lines = {line.partition(b": ")[0]: line.partition(b": ")[2] for line in request.split(b"\r\n")}
            said = lines.get(b"Authorization", b"none")
            body = json.dumps({"headers": {"authorization": said.decode()}}).encode()
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nX-Said: %b\r\nContent-Length: %d\r\n\r\n%b" % (said, len(body), body)
            )

    async with receiving(echo, tls=server_context(authority.issue("ours.example"))) as receiver:
        client = client_of(authority, callback_auth=BearerAuth(TOKEN, ("ours.example",)))
        ours = receiver.url(scheme="https", host="ours.example")
        answer = await send(client, ours)
        assert isinstance(answer, Answered) and TOKEN.encode() in receiver.requests[0]
        assert TOKEN not in repr(answer.headers) and TOKEN.encode() not in answer.body
        assert answer.body == b'{"headers": {"authorization": "Bearer ***"}}'
        own = await send(client, ours, Authorization="Bearer the-tasks-own")
        assert isinstance(own, Answered) and b"the-tasks-own" in own.body, "that one its owner knows"
        await client.aclose()


async def test_oauth2_tokens_are_fetched_once_and_sent_to_their_hosts(authority: Authority) -> None:
    context = server_context(authority.issue("ours.example", "theirs.example"))
    async with issuing(authority) as endpoint, receiving(answering(OK), tls=context) as receiver:
        client = client_of(authority, callback_auth=oauth2(endpoint))
        ours = receiver.url(scheme="https", host="ours.example")
        assert await arrived(client, receiver, receiver.url(scheme="https", host="theirs.example")) == ""
        assert endpoint.given == [], "nobody needed one"
        results: list[Exchange] = []

        async def one() -> None:
            results.append(await send(client, ours))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert endpoint.given == ["access-0"]
        assert all(isinstance(result, Answered) and result.status == 200 for result in results)
        assert sum(b"Authorization: Bearer access-0\r\n" in request for request in receiver.requests) == 20
        assert not any(SECRET.encode() in request for request in receiver.requests)
        client.update(business(callback_auth=oauth2(endpoint, scope="more"), name="x"))
        assert await arrived(client, receiver, ours) == "Bearer access-1", "another scope is another token"
        client.update(business(callback_auth=oauth2(endpoint, scope="more"), name="y"))
        assert await arrived(client, receiver, ours) == "Bearer access-1", "what has not changed keeps its token"
        await client.aclose()


async def test_a_401_of_the_receiver_ends_the_attempt_and_a_later_one_has_a_new_token(
    authority: Authority, mock_clock: MockClock
) -> None:
    context = server_context(authority.issue("ours.example"))
    async with issuing(authority) as endpoint, receiving(answering(UNAUTHORIZED), tls=context) as receiver:
        client = client_of(authority, callback_auth=oauth2(endpoint))
        ours = receiver.url(scheme="https", host="ours.example")
        assert await arrived(client, receiver, ours) == "Bearer access-0"
        assert await arrived(client, receiver, ours) == "Bearer access-0", "it was young when it was refused"
        mock_clock.jump(YOUNG_S)
        assert await arrived(client, receiver, ours) == "Bearer access-0"
        assert await arrived(client, receiver, ours) == "Bearer access-1"
        assert len(receiver.requests) == 4, "a refused callback is not sent again within its attempt"
        await client.aclose()


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (http(500, {"error": "server_error"}), "id.example answered 500 (server_error)"),
        (http(401, {"error": "invalid_client", "secret": SECRET}), "id.example answered 401 (invalid_client)"),
        (http(200, {"access_token": "a\r\nb"}), "id.example answered without a usable access_token"),
        (b"HTTP/1.1 302 X\r\nLocation: https://theirs.example/\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"nonsense\r\n\r\n", "no access token: "),
    ],
)
async def test_without_a_token_nothing_is_sent_and_no_secret_is_told(
    authority: Authority, broken: bytes, told: str
) -> None:
    context = server_context(authority.issue("ours.example"))
    async with issuing(authority) as endpoint, receiving(answering(OK), tls=context) as receiver:
        endpoint.broken = broken
        client = client_of(authority, callback_auth=oauth2(endpoint))
        fault = await send(client, receiver.url(scheme="https", host="ours.example"))
        assert isinstance(fault, Faulted) and not fault.sent and told in fault.message, fault
        assert SECRET not in repr(fault) and SECRET not in repr(client)
        assert receiver.connections == 0
        await client.aclose()


@pytest.mark.parametrize(
    ("token_url", "kind"),
    [
        ("https://10.0.0.1/token", "blocked"), ("https://169.254.169.254/token", "blocked"),
        ("https://[::ffff:10.0.0.1]/token", "blocked"), ("https://inside.example/token", "blocked"),
        ("https://nowhere.example/token", "connection_error"),
    ],
)  # fmt: skip
async def test_the_endpoint_is_under_the_same_egress_rules(authority: Authority, token_url: str, kind: str) -> None:
    resolver = StaticResolver({"inside.example": ["10.0.0.1", "169.254.169.254"]})
    auth = OAuth2Auth(token_url, "taskcenter", SECRET, ("127.0.0.1",))
    client = BusinessClient(business(callback_auth=auth), transport_to_loopback(resolver=resolver))
    fault = await send(client, "https://127.0.0.1/hook")
    assert isinstance(fault, Faulted) and (fault.kind, fault.sent) == (kind, False)
    assert "10.0.0.1" not in fault.message or "10.0.0.1" in token_url, "a name tells nothing of where it leads"
    await client.aclose()


async def test_a_stranger_with_the_endpoints_name_gets_no_secret(authority: Authority) -> None:
    stranger = Authority(authority.folder, "stranger-of-tokens")
    async with receiving(answering(OK), tls=server_context(stranger.issue("id.example"))) as impostor:
        auth = OAuth2Auth(f"https://id.example:{impostor.port}/", "taskcenter", SECRET, ("ours.example",))
        client = client_of(authority, callback_auth=auth)
        fault = await send(client, "https://ours.example/")
        assert isinstance(fault, Faulted) and "certificate is not trusted" in fault.message
        assert impostor.requests == []
        await client.aclose()


async def test_the_certificate_goes_to_its_hosts_and_token_and_certificate_go_together(authority: Authority) -> None:
    context = demanding(authority.issue("ours.example", "theirs.example"), authority)
    async with receiving(answering(OK), tls=context) as receiver:
        auth = BearerAuth(TOKEN, ("ours.example", "theirs.example"))
        identity = certificate(authority, "ours.example")
        client = client_of(authority, callback_auth=auth, callback_tls=identity)
        ours = receiver.url(scheme="https", host="ours.example")
        assert await arrived(client, receiver, ours) == f"Bearer {TOKEN}"
        refused = await send(client, receiver.url(scheme="https", host="theirs.example"))
        assert isinstance(refused, Faulted), "theirs.example asks for a certificate and is not shown ours"
        client.update(business(callback_auth=auth))
        assert isinstance(await send(client, ours), Faulted), "no connection of before is used"
        assert "PRIVATE" not in repr(client) and "PRIVATE" not in repr(identity)
        await client.aclose()


@pytest.mark.parametrize("which", ["callback_auth", "callback_tls"])
async def test_what_cannot_be_opened_fails_closed(authority: Authority, which: str) -> None:
    async with receiving(answering(OK)) as receiver:
        client = client_of(authority, **{which: Unreadable(b"sealed")})
        assert await send(client, receiver.url()) == UNREADABLE
        client.update(business())
        assert isinstance(await send(client, receiver.url()), Answered)
        await client.aclose()
