"""TLS on real sockets: trusted only when it should be, and what the task's owner is told otherwise."""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.actors.authority import DAY, NOW, Authority, demanding, halves, server_context
from tests.actors.receivers import (
    OK,
    Receiver,
    StaticResolver,
    answer_of,
    answering,
    answering_once,
    dial_unsuspecting,
    fault_of,
    open_descriptors,
    receiving,
    transport_to_loopback,
)

from taskcenter.actors.egress.exchange import Faulted
from taskcenter.actors.egress.tls import ClientIdentity, TlsSettings, tls_context
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.actors.egress.wire import TlsWire, dial_tcp


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


def trusting(authority: Authority, names: Sequence[str] = ("receiver.example",)) -> CallbackTransport:
    resolver = StaticResolver({name: ["127.0.0.1"] for name in names})
    return transport_to_loopback(resolver=resolver, tls=TlsSettings(ca_file=authority.file))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_custom_authority_is_trusted_and_connections_are_kept(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    context = server_context(authority.issue("receiver.example", "127.0.0.1"))
    context.minimum_version = context.maximum_version = version
    seen: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with receiving(answering(OK), tls=context) as receiver:
        transport = trusting(authority)
        for n in range(3):
            answer = await answer_of(transport, receiver.url(scheme="https", host="receiver.example"))
            assert (answer.status, answer.reused) == (200, n > 0)
        assert (await answer_of(transport, receiver.url(scheme="https"))).status == 200  # an address: no SNI
        assert seen == ["receiver.example", None]
        assert b"\r\nHost: receiver.example:%d\r\n" % receiver.port in receiver.requests[0]
        await transport.aclose()


async def test_a_request_that_met_a_connection_closed_at_rest_is_sent_once_more(
    authority: Authority, loopback_clock: object
) -> None:
    closed = trio.Event()

    async def closes_the_first_at_rest(receiver: Receiver, stream: trio.abc.Stream) -> None:
        await receiver.read_request(stream)
        await stream.send_all(OK)
        if receiver.connections == 1:
            await stream.aclose()
            closed.set()
            return
        await receiver.read_request(stream)

    context = server_context(authority.issue("127.0.0.1"))
    async with receiving(closes_the_first_at_rest, tls=context) as receiver:
        transport = transport_to_loopback(tls=TlsSettings(ca_file=authority.file), dial=dial_unsuspecting)
        await answer_of(transport, receiver.url("/1", scheme="https"))
        await closed.wait()
        assert (await answer_of(transport, receiver.url("/2", scheme="https"))).reused is False
        assert [request.split(b" ")[1] for request in receiver.requests] == [b"/1", b"/2"]
        assert transport.statistics().redialled == 1
        await transport.aclose()


@pytest.mark.parametrize(
    ("names", "until", "trusted", "message"),
    [
        (["receiver.example"], NOW + DAY, False, "TLS certificate is not trusted: "),
        (["receiver.example"], NOW - DAY, True, "TLS certificate is not trusted: certificate has expired"),
        (["other.example"], NOW + DAY, True, "TLS certificate is not for this host: Hostname mismatch"),
        (["127.0.0.1"], NOW + DAY, True, "TLS certificate is not for this host: Hostname mismatch"),
        (["*.example"], NOW - DAY, False, "TLS certificate is not trusted: "),
    ],
)
async def test_a_wrong_certificate_is_a_connection_error_with_nothing_sent(
    authority: Authority, names: list[str], until: datetime.datetime, trusted: bool, message: str
) -> None:
    signer = authority if trusted else Authority(authority.folder, "stranger")
    async with receiving(answering(OK), tls=server_context(signer.issue(*names, until=until))) as receiver:
        transport = trusting(authority)
        fault = await fault_of(transport, receiver.url(scheme="https", host="receiver.example"))
        assert (fault.kind, fault.sent) == ("connection_error", False)
        assert fault.message.startswith(message)
        assert receiver.requests == []
        assert transport.statistics().open == 0


async def test_an_address_must_be_in_the_certificate_too(authority: Authority) -> None:
    async with receiving(answering(OK), tls=server_context(authority.issue("receiver.example"))) as receiver:
        fault = await fault_of(trusting(authority), receiver.url(scheme="https"))
        assert fault.message.startswith("TLS certificate is not for this host: IP address mismatch")


async def test_without_the_setting_a_private_authority_is_not_trusted(authority: Authority) -> None:
    async with receiving(answering(OK), tls=server_context(authority.issue("127.0.0.1"))) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url(scheme="https"))
        assert fault.message.startswith("TLS certificate is not trusted: ")


async def test_tls_1_1_is_refused(authority: Authority) -> None:
    assert tls_context(TlsSettings()).minimum_version is ssl.TLSVersion.TLSv1_2
    context = server_context(authority.issue("127.0.0.1"))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with receiving(answering(OK), tls=context) as receiver:
        fault = await fault_of(trusting(authority), receiver.url(scheme="https"))
        assert (fault.kind, fault.sent, receiver.requests) == ("connection_error", False, [])


async def test_a_receiver_that_speaks_plain_http_on_the_tls_port() -> None:
    async with receiving(lambda _receiver, stream: stream.send_all(b"HTTP/1.1 400 Bad\r\n\r\n")) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url(scheme="https"))
        assert fault == Faulted("connection_error", "TLS handshake failed: wrong version number", sent=False)


async def test_a_receiver_that_hangs_up_in_the_handshake() -> None:
    async def hangs_up(_receiver: Receiver, stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)

    async with receiving(hangs_up) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url(scheme="https"))
        assert fault == Faulted(
            "connection_error", "the receiver closed the connection during the TLS handshake", sent=False
        )


@pytest.mark.real_time
async def test_a_receiver_that_is_silent_in_the_handshake_times_out(loopback_clock: object) -> None:
    before = open_descriptors()

    async def silent(_receiver: Receiver, _stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with receiving(silent) as receiver:
        fault = await fault_of(transport_to_loopback(), receiver.url(scheme="https"), 0.1)
        message = f"no answer within 0.1 s (connected to 127.0.0.1:{receiver.port}, TLS handshake not done)"
        assert fault == Faulted("timeout", message, sent=False)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert open_descriptors() == before


async def test_a_client_certificate_is_shown_to_receivers_that_ask(authority: Authority) -> None:
    context = demanding(authority.issue("127.0.0.1", "other.example"), authority)
    async with receiving(answering(OK), tls=context) as receiver:
        transport = trusting(authority, ["other.example"])
        assert (await fault_of(transport, receiver.url(scheme="https"))).kind == "connection_error"
        transport.identify(["127.0.0.1"], ClientIdentity(*halves(authority.issue("us.example", client=True)), "one"))
        for reused in (False, True):
            answer = await answer_of(transport, receiver.url(scheme="https"))
            assert (answer.status, answer.reused) == (200, reused)
        fault = await fault_of(transport, receiver.url(scheme="https", host="other.example"))
        assert fault.kind == "connection_error", "the same receiver by a name the certificate is not for"
        transport.identify((), None)
        assert (await fault_of(transport, receiver.url(scheme="https"))).kind == "connection_error", "nothing is reused"
        await transport.aclose()


async def test_a_new_client_certificate_gets_connections_of_its_own(authority: Authority) -> None:
    seen: list[bytes] = []

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        while await receiver.read_request(stream):
            shown = stream.getpeercert(binary_form=True)
            seen.append(b"" if shown is None else hashlib.sha256(shown).hexdigest()[:8].encode())
            await stream.send_all(OK)

    context = demanding(authority.issue("127.0.0.1"), authority)
    async with receiving(mood, tls=context) as receiver:
        transport = trusting(authority)
        for name in ("one", "two"):
            transport.identify(["127.0.0.1"], ClientIdentity(*halves(authority.issue(name, client=True)), name))
            for _ in range(2):
                assert (await answer_of(transport, receiver.url(scheme="https"))).status == 200
        assert seen[0] == seen[1] != seen[2] == seen[3]
        assert transport.statistics().dialled == 2
        await transport.aclose()


async def test_a_key_that_is_none_is_told_and_nothing_is_sent(authority: Authority) -> None:
    async with receiving(answering(OK), tls=demanding(authority.issue("127.0.0.1"), authority)) as receiver:
        transport = trusting(authority)
        transport.identify(["127.0.0.1"], ClientIdentity("no certificate", "no key", "none"))
        fault = await fault_of(transport, receiver.url(scheme="https"))
        assert (fault.kind, fault.sent) == ("connection_error", False)
        assert "client certificate and key cannot be used" in fault.message
        assert transport.statistics().open == 0


async def test_large_bodies_both_ways(authority: Authority) -> None:
    size = 1024 * 1024
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    async with receiving(answering(answer), tls=server_context(authority.issue("127.0.0.1"))) as receiver:
        transport = trusting(authority)
        for n in range(2):
            got = await answer_of(transport, receiver.url(scheme="https"), body=b"x" * 8_000_000)
            assert (got.body_size, got.reused) == (size, n > 0)
        assert [len(request.partition(b"\r\n\r\n")[2]) for request in receiver.requests] == [8_000_000] * 2
        await transport.aclose()


async def test_an_end_without_close_notify_ends_a_body_without_length(authority: Authority) -> None:
    async def ends_raggedly(receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await receiver.read_request(stream)
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nall")
        await stream.transport_stream.aclose()

    async with receiving(ends_raggedly, tls=server_context(authority.issue("127.0.0.1"))) as receiver:
        transport = trusting(authority)
        answer = await answer_of(transport, receiver.url(scheme="https"))
        assert (answer.body, transport.statistics().open) == (b"all", 0)


async def test_a_connection_that_ended_at_rest_is_replaced_under_tls_too(authority: Authority) -> None:
    context = server_context(authority.issue("127.0.0.1"))
    async with receiving(answering_once(OK), tls=context) as receiver:
        transport = trusting(authority)
        for _ in range(3):
            assert not (await answer_of(transport, receiver.url(scheme="https"))).reused
            await trio.testing.wait_all_tasks_blocked(0.01)
        await transport.aclose()


@pytest.mark.parametrize("path", ["/nowhere.pem", "/dev/null"])
def test_a_wrong_file_is_told_at_the_start(path: str) -> None:
    with pytest.raises(OSError):  # FileNotFoundError or ssl.SSLError
        transport_to_loopback(tls=TlsSettings(ca_file=Path(path)))


async def test_at_rest_session_tickets_are_nothing_but_data_and_the_end_are(authority: Authority) -> None:
    speak = trio.Event()

    async def speaks_later(_receiver: Receiver, stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        await speak.wait()
        await stream.send_all(b"data")
        await stream.aclose()

    async with receiving(speaks_later, tls=server_context(authority.issue("127.0.0.1"))) as receiver:
        raw = await dial_tcp((socket.AF_INET, ("127.0.0.1", receiver.port)))
        wire = TlsWire(raw, tls_context(TlsSettings(ca_file=authority.file)), "127.0.0.1")
        await wire.handshake()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert "TLSv1.3" in repr(wire)
        assert wire.receive_nowait() is None
        speak.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert wire.receive_nowait() == b"data"
        assert wire.receive_nowait() == b""
        wire.close()
