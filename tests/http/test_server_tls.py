"""TLS: HTTP/1.1 alone, 1.2 or newer, and the same bounds as in clear text."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.http.test_server_kit import HEALTH, PATIENT, QUICK, Served, make_app, read_all, read_answer, serving, until

from taskcenter.errors import ConfigError
from taskcenter.http.limits import ServerSettings
from taskcenter.http.server import serve_api

Secure = trio.SSLStream[trio.SocketStream]


@pytest.fixture
def secure(tmp_path: Path) -> ServerSettings:
    """Settings with a certificate for localhost, made for this test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return replace(QUICK, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")


async def connect(served: Served, settings: ServerSettings, alpn: list[str] | None = None) -> Secure:
    context = ssl.create_default_context(cafile=settings.tls_cert)
    context.set_alpn_protocols(alpn or ["h2", "http/1.1"])
    stream = trio.SSLStream(await served.connect(), context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return stream


async def test_a_request_over_tls_is_http_1_1(secure: ServerSettings, loopback_clock: object) -> None:
    async with serving(settings=secure) as served, await connect(served, secure) as stream:
        assert stream.selected_alpn_protocol() == "http/1.1"
        for _ in range(2):
            await stream.send_all(HEALTH)
            assert (await read_answer(stream)).status == 200
        await stream.send_all(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await read_answer(stream)).headers["connection"] == "close"
        assert await read_all(stream) == b""


async def test_a_client_of_http_2_alone_is_refused(secure: ServerSettings, loopback_clock: object) -> None:
    async with serving(settings=secure) as served, await connect(served, secure, ["h2"]) as stream:
        assert stream.selected_alpn_protocol() is None
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert (await read_answer(stream)).status == 505
    assert served.faults == []


async def test_tls_1_1_is_refused(secure: ServerSettings, loopback_clock: object) -> None:
    async with serving(settings=secure) as served:
        context = ssl.create_default_context(cafile=secure.tls_cert)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = ssl.TLSVersion.TLSv1_1
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        stream = trio.SSLStream(await served.connect(), context, server_hostname="localhost")
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
        await until(lambda: served.statistics.connections_open == 0)
        assert served.faults == []


@pytest.mark.parametrize("data", [b"", b"\x16", HEALTH, bytes(5000)], ids=["silent", "one byte", "clear", "zeros"])
async def test_a_handshake_that_comes_to_nothing_ends_in_time(
    secure: ServerSettings, data: bytes, loopback_clock: object
) -> None:
    async with serving(settings=secure) as served:
        with trio.fail_after(2):
            await served.ask(data)
        await until(lambda: served.statistics.connections_open == 0)
        assert served.faults == []
        assert served.statistics.cut_slow == (len(data) < 2)
        async with await connect(served, secure) as stream:
            await stream.send_all(HEALTH)
            assert (await read_answer(stream)).status == 200


async def test_a_client_that_does_not_read_is_cut(secure: ServerSettings, loopback_clock: object) -> None:
    async with serving(settings=secure) as served:
        stream = await connect(served, secure)
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n")
        await until(lambda: served.statistics.cut_nonreading == 1)
        await until(lambda: served.statistics.connections_open == 0)
        await trio.aclose_forcefully(stream)
        assert served.faults == []


async def test_draining_ends_hostile_clients_with_the_grace(secure: ServerSettings, loopback_clock: object) -> None:
    patient = replace(PATIENT, tls_cert=secure.tls_cert, tls_key=secure.tls_key)
    async with serving(settings=patient) as served:
        streams = [await connect(served, secure) for _ in range(3)]
        await streams[0].send_all(b"GET /big HTTP/1.1\r\nHost: t\r\n\r\n")
        await streams[1].send_all(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf")
        silent = await served.connect()  # not even a handshake
        await until(lambda: served.statistics.requests_total == 2)
        served.shutdown.set()
        with trio.fail_after(patient.grace_s + 1):
            await served.ended.wait()
        for stream in streams:
            await trio.aclose_forcefully(stream)
        await silent.aclose()


@pytest.mark.parametrize("broken", ["missing cert", "missing key", "no pem", "another key"])
async def test_files_that_are_no_good_are_named(secure: ServerSettings, broken: str) -> None:
    assert secure.tls_cert is not None
    assert secure.tls_key is not None
    if broken == "missing cert":
        secure.tls_cert.unlink()
    elif broken == "missing key":
        secure.tls_key.unlink()
    elif broken == "no pem":
        secure.tls_key.write_text("nonsense")
    else:
        other = ec.generate_private_key(ec.SECP256R1())
        secure.tls_key.write_bytes(
            other.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    with pytest.raises(ConfigError, match=r"^TASKCENTER_TLS_") as caught:
        await serve_api(make_app(), secure, shutdown=trio.Event())
    assert str(secure.tls_key if broken == "missing key" else secure.tls_cert) in str(caught.value)
