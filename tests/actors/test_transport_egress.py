"""Who may be connected to, and what never rides along: judged at the call, on the addresses of that moment."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
import trio
import trio.testing
from tests.actors.receivers import (
    LOOPBACK,
    OK,
    StaticResolver,
    answer_of,
    answering,
    answering_once,
    call,
    fault_of,
    receiving,
    transport_to_loopback,
)

from taskcenter.actors.egress.exchange import Answered, Faulted
from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.actors.egress.wire import Address, Wire, dial_tcp


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:{port}/", "127.0.0.1 is not an address that callbacks may go to (loopback address)"),
        ("http://127.1:{port}/", "127.0.0.1 is not an address that callbacks may go to (loopback address)"),
        ("http://inside.example:{port}/", "inside.example is not a host that callbacks may go to"),
        ("http://mapped.example:{port}/", "mapped.example is not a host that callbacks may go to"),
    ],
)
async def test_blocked_receivers_get_no_connection_and_names_tell_nothing(
    url: str, message: str, loopback_clock: object
) -> None:
    resolver = StaticResolver({
        "inside.example": ["127.0.0.1", "10.0.0.1", "169.254.169.254"], "mapped.example": ["::ffff:127.0.0.1"],
    })  # fmt: skip
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback(policy=EgressPolicy(), resolver=resolver)
        assert await call(transport, url.format(port=receiver.port)) == Faulted("blocked", message, sent=False)
        assert receiver.connections == 0


async def test_a_name_is_judged_by_its_addresses_at_the_call_each_time(loopback_clock: object) -> None:
    """DNS rebinding: an answer that changes after the check, or between calls, reaches nothing."""
    dialled: list[str] = []

    async def dial(address: Address) -> Wire:
        dialled.append(address[1][0])
        return await dial_tcp((address[0], ("127.0.0.1", address[1][1])))

    async with receiving(answering_once(OK)) as receiver:
        resolver = StaticResolver({"flip.example": ["8.8.8.8"]})
        transport = transport_to_loopback(policy=EgressPolicy(), resolver=resolver, dial=dial)
        for turn in range(100):
            resolver.answers = {"flip.example": ["8.8.8.8"] if turn % 2 == 0 else ["127.0.0.1"]}
            exchange = await call(transport, receiver.url(host="flip.example"))
            assert isinstance(exchange, Answered) if turn % 2 == 0 else isinstance(exchange, Faulted)
            await trio.testing.wait_all_tasks_blocked()
        assert set(dialled) == {"8.8.8.8"}
        assert len(resolver.calls) >= 100


async def test_of_mixed_addresses_only_those_that_pass_are_dialled() -> None:
    dialled: list[str] = []

    async def dial(address: Address) -> Wire:
        dialled.append(address[1][0])
        raise ConnectionRefusedError(111, "refused")

    answers = {"mixed.example": ["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1", "169.254.169.254"]}
    transport = transport_to_loopback(policy=EgressPolicy(), resolver=StaticResolver(answers), dial=dial)
    fault = await fault_of(transport, "http://mixed.example/")
    assert dialled == ["8.8.8.8", "2606:4700::1"]
    assert fault.message == "connection refused by 8.8.8.8:80; connection refused by [2606:4700::1]:80"


async def test_ports_and_hosts_of_the_policy_hold_at_the_call_too(loopback_clock: object) -> None:
    policy = EgressPolicy(LOOPBACK.allowed_networks, (), ("*.denied.example",), (443,))
    transport = transport_to_loopback(policy=policy, resolver=StaticResolver({"x.denied.example": ["127.0.0.1"]}))
    assert (await fault_of(transport, "http://127.0.0.1:8080/")).kind == "blocked"
    assert (await fault_of(transport, "https://x.denied.example/")).kind == "blocked"
    only = EgressPolicy(LOOPBACK.allowed_networks, allowed_hosts=("*.ours.example",))
    async with receiving(answering(OK)) as receiver:
        resolver = StaticResolver({"a.ours.example": ["127.0.0.1"], "theirs.example": ["127.0.0.1"]})
        transport = transport_to_loopback(policy=only, resolver=resolver)
        assert (await answer_of(transport, receiver.url(host="a.ours.example"))).status == 200
        for host in ("theirs.example", "127.0.0.1"):
            assert (await fault_of(transport, receiver.url(host=host))).kind == "blocked"
        assert receiver.connections == 1 and "theirs.example" not in resolver.calls, "not even looked up"
        await transport.aclose()


async def test_a_denied_network_is_not_dialled_even_if_allowed() -> None:
    networks = (ip_network("127.0.0.0/8"),)
    transport = transport_to_loopback(policy=EgressPolicy(networks, networks))
    assert (await fault_of(transport, "http://127.0.0.1:9/")).kind == "blocked"


async def test_redirects_and_cookies_are_not_followed_or_kept(loopback_clock: object) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /other\r\nSet-Cookie: tenant=a\r\nContent-Length: 0\r\n\r\n"
    async with receiving(answering(moved)) as receiver:
        transport = transport_to_loopback()
        for _ in range(2):
            assert (await answer_of(transport, receiver.url())).status == 302
        assert len(receiver.requests) == 2
        assert all(b"cookie" not in request.lower() for request in receiver.requests)
        await transport.aclose()


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, loopback_clock: object
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    async with receiving(answering(OK)) as receiver:
        transport = transport_to_loopback()
        assert (await answer_of(transport, receiver.url())).status == 200
        assert b"authorization" not in receiver.requests[0].lower()
        await transport.aclose()
