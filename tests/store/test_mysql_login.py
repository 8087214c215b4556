"""Logging in: every method, plain and encrypted, the server's cache cold and warm; and servers that mean no good."""

from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from tests.servers import PrivateServer
from tests.store.connection_kit import ask, database_on, mysql_url, opened_wire
from tests.store.fault_proxy import open_proxy, without_tls
from trio_mysql import _auth

from taskcenter.errors import ConfigError
from taskcenter.store.connection import StoreFault
from taskcenter.store.mysql_auth import tls_context
from taskcenter.store.url import SSL_MODES, MysqlUrl, SslMode

PASSWORDS = ["", "plain", "p\u00e4ss\u4efb\u52a1\U0001f511", 'it\'s \\ "quoted" %s', "x" * 200]


@pytest.fixture(params=["mariadb", "mysql"])
def url(
    request: pytest.FixtureRequest, mariadb_server: PrivateServer, mysql_server: PrivateServer
) -> Iterator[MysqlUrl]:
    with database_on(mariadb_server if request.param == "mariadb" else mysql_server) as url:
        yield mysql_url(url)


@pytest.fixture
def mysql(mysql_server: PrivateServer) -> Iterator[MysqlUrl]:
    with database_on(mysql_server) as url:
        yield mysql_url(url)


def make_account(server: PrivateServer, url: MysqlUrl, method: str, password: str) -> MysqlUrl:
    """An account `login` with this method and password, for this database."""
    server.execute("DROP USER IF EXISTS login@'%%'")
    if server.kind == "mariadb":
        server.execute(f"CREATE USER login@'%%' IDENTIFIED VIA {method} USING PASSWORD(%s)", (password,))
    else:
        server.execute(f"CREATE USER login@'%%' IDENTIFIED WITH {method} BY %s", (password,))
    server.execute(f"GRANT ALL ON `{url.database}`.* TO login@'%%'")
    return replace(url, user="login", password=password)


async def who(url: MysqlUrl) -> tuple[str, bool]:
    """The account the server sees, and whether the connection is encrypted."""
    async with opened_wire(url) as wire:
        (user,) = (await ask(wire, "SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"))[0]
        (_, cipher) = (await ask(wire, "SHOW STATUS LIKE 'Ssl_cipher'"))[0]
        assert bool(cipher) == wire.secure
        return user, wire.secure


@pytest.mark.parametrize("password", PASSWORDS, ids=["empty", "plain", "unicode", "quotes", "long"])
@pytest.mark.parametrize("mode", ["disabled", "required"])
@pytest.mark.parametrize("method", ["caching_sha2_password", "sha256_password"])
async def test_mysql_methods(
    mysql_server: PrivateServer, mysql: MysqlUrl, method: str, mode: SslMode, password: str
) -> None:
    account = replace(make_account(mysql_server, mysql, method, password), ssl_mode=mode)
    for _cache in ("cold", "warm"):
        assert await who(account) == ("login", mode == "required")


@pytest.mark.parametrize("password", PASSWORDS[:4], ids=["empty", "plain", "unicode", "quotes"])
@pytest.mark.parametrize("mode", ["disabled", "required"])
async def test_mariadb_method(mariadb_server: PrivateServer, mode: SslMode, password: str) -> None:
    with database_on(mariadb_server) as url:
        account = make_account(mariadb_server, mysql_url(url), "mysql_native_password", password)
        assert await who(replace(account, ssl_mode=mode)) == ("login", mode == "required")


@pytest.mark.parametrize("switched", [False, True])
async def test_a_known_password_needs_no_full_login(
    mysql_server: PrivateServer, mysql: MysqlUrl, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    """The fast path: once the server knows the account, no key is fetched and nothing is sealed (trap: the nonce's
    NUL).
    """
    account = replace(make_account(mysql_server, mysql, "caching_sha2_password", "secret"), ssl_mode="disabled")
    sealed: list[bytes] = []
    seal = _auth.sha2_rsa_encrypt

    def watched(password: bytes, nonce: bytes, key: bytes) -> Any:
        sealed.append(key)
        return seal(password, nonce, key)

    monkeypatch.setattr(_auth, "sha2_rsa_encrypt", watched)
    mysql_server.execute("FLUSH PRIVILEGES")
    async with open_proxy(mysql.host, mysql.port) as proxy:
        if switched:  # the server asks for a switch when we come with another method than the account's
            proxy.rewrite_greeting = announcing_native_password
        through = replace(account, port=proxy.port)
        assert await who(through) == ("login", False)
        assert len(sealed) == 1
        assert sealed[0].startswith(b"-----BEGIN PUBLIC KEY")
        assert await who(through) == ("login", False)
        assert len(sealed) == 1


def announcing_native_password(greeting: bytes) -> bytes:
    """A server's greeting that offers another method than its accounts have."""
    payload = greeting[4:].replace(b"caching_sha2_password", b"mysql_native_password")
    return len(payload).to_bytes(3, "little") + greeting[3:4] + payload


async def test_a_refused_login_tells_neither_account_nor_password(url: MysqlUrl) -> None:
    for wrong in (replace(url, password="Hunter2"), replace(url, user="nobody"), replace(url, database="no_such_base")):
        with pytest.raises(StoreFault) as caught:
            await who(wrong)
        assert caught.value.kind == "login"
        for secret in ("Hunter2", "nobody", url.user, url.password, "no_such_base", url.host):
            assert secret not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


@pytest.mark.parametrize("mode", SSL_MODES)
async def test_tls_modes(mysql_server: PrivateServer, url: MysqlUrl, mode: SslMode) -> None:
    encrypted = mode != "disabled"  # both servers offer it
    ca = str(mysql_server.ca_file) if mode.startswith("verify") else None
    account = replace(url, ssl_mode=mode, ssl_ca=ca)
    assert (await who(account))[1] == encrypted
    async with opened_wire(account) as wire:
        large = "x" * 300_000
        assert await ask(wire, f"SELECT '{large}'") == [(large,)]


async def test_a_certificate_must_be_signed_and_name_the_host(
    mysql_server: PrivateServer, url: MysqlUrl, tmp_path: Path
) -> None:
    ca = str(mysql_server.ca_file)
    for mode in ("verify-ca", "verify-full"):
        with pytest.raises(StoreFault) as caught:
            await who(replace(url, ssl_mode=mode, ssl_ca=None))  # the system's authorities did not sign it
        assert caught.value.kind == "tls"
    async with open_proxy(url.host, url.port, listen="127.0.0.2") as proxy:
        elsewhere = replace(url, host=proxy.host, port=proxy.port, ssl_ca=ca)
        assert await who(replace(elsewhere, ssl_mode="verify-ca")) == (url.user, True)
        with pytest.raises(StoreFault) as caught:
            await who(replace(elsewhere, ssl_mode="verify-full"))
        assert caught.value.kind == "tls"
        assert proxy.host not in str(caught.value)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for wrong in (
        replace(url, ssl_mode="verify-ca", ssl_ca=str(garbage)),
        replace(url, ssl_mode="verify-ca", ssl_ca=str(tmp_path / "missing")),
        replace(url, ssl_mode="required", ssl_cert=str(garbage)),
        replace(url, ssl_mode="required", ssl_cert=ca, ssl_key=str(tmp_path / "missing")),
    ):
        with pytest.raises(ConfigError, match="TASKCENTER_DATABASE_URL"):
            tls_context(wrong)


async def test_tls_taken_out_of_the_greeting_is_noticed(mysql_server: PrivateServer, url: MysqlUrl) -> None:
    async with open_proxy(url.host, url.port) as proxy:
        proxy.rewrite_greeting = without_tls
        through = replace(url, port=proxy.port)
        ca = str(mysql_server.ca_file)
        for strict in (
            replace(through, ssl_mode="required"),
            replace(through, ssl_mode="verify-ca", ssl_ca=ca),
            replace(through, ssl_mode="verify-full", ssl_ca=ca),
        ):
            with pytest.raises(StoreFault, match="offers no TLS") as caught:
                await who(strict)
            assert caught.value.kind == "tls"
        assert await who(replace(through, ssl_mode="preferred")) == (url.user, False)
        proxy.rewrite_greeting = None
        assert await who(replace(through, ssl_mode="preferred")) == (url.user, True)


# --- servers that mean no good -----------------------------------------------------------------------------------


def framed(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes((number,)) + payload


def greeting(*, tls: bool, plugin: bytes = b"caching_sha2_password") -> bytes:
    low, high = (0xFFFF if tls else 0xF7FF).to_bytes(2, "little"), (0xC1FF).to_bytes(2, "little")
    parts = [
        b"\x0a9.7.4\0",
        b"\x01\0\0\0",
        b"s" * 8,
        b"\0",
        low,
        b"\xff\x02\0",
        high,
        b"\x15",
        bytes(10),
        b"n" * 12,
        b"\0",
    ]
    return framed(0, b"".join(parts) + plugin + b"\0")


@asynccontextmanager
async def stranger(*says: bytes) -> Any:
    """A server that says its pieces one after the other, one for each thing it hears, and then closes."""
    heard = bytearray()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            for piece in says:
                try:
                    await stream.send_all(piece)
                    heard.extend(await stream.receive_some(65536))
                except trio.BrokenResourceError:
                    return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), serve, 0)
        yield MysqlUrl("127.0.0.1", listeners[0].socket.getsockname()[1], "user", "base", "Hunter2"), heard
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "plugin", ["mysql_clear_password", "dialog", "mysql_old_password", "client_ed25519", "auth_pam", ""]
)
async def test_the_password_is_given_to_nobody_in_clear(plugin: str) -> None:
    switch = framed(2, b"\xfe" + plugin.encode() + b"\0" + b"Password: \0")
    async with stranger(greeting(tls=False), switch, framed(4, b"\0" * 7)) as (url, heard):
        with pytest.raises(StoreFault) as caught:
            await who(url)
        assert caught.value.kind == "login"
        assert b"Hunter2" not in heard
        assert b"user" in heard


async def test_a_full_login_over_an_open_wire_needs_a_real_key() -> None:
    for key in (b"\x01no key", b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", b"\xffxx", b"\0" * 8):
        async with stranger(greeting(tls=False), framed(2, b"\x01\x04"), framed(4, key)) as (url, heard):
            with pytest.raises(StoreFault):
                await who(url)
            assert b"Hunter2" not in heard


async def test_clear_text_slipped_in_before_tls_is_refused() -> None:
    async with stranger(greeting(tls=True) + framed(2, b"\0" * 7)) as (url, heard):
        with pytest.raises(StoreFault) as caught:
            await who(replace(url, ssl_mode="required"))
        assert caught.value.kind == "tls"
        assert b"user" not in heard


@pytest.mark.parametrize(
    "says",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0", b"\xff" * 100, framed(0, b""),
     framed(0, b"\x0a"), framed(0, b"\xff"), framed(1, b"\x0a9.7.4\0"), framed(0, b"\x0a9.7.4"),
     framed(0, b"\x0a5.0\0" + bytes(40)), greeting(tls=False)[:-30], greeting(tls=False) + framed(7, b"\0" * 7)],
    ids=lambda says: repr(says[:12]),
)  # fmt: skip
async def test_what_is_no_server_is_unavailable(says: bytes) -> None:
    async with stranger(says) as (url, _):
        with pytest.raises(StoreFault):
            async with opened_wire(url, connect_timeout_s=0.2):
                raise AssertionError("a stranger gave a session")


async def test_a_packet_out_of_order_ends_the_connection() -> None:
    ok = b"\0\0\0\x02\0\0\0"
    for number, goes_on in ((2, True), (3, False), (0, False)):
        async with stranger(greeting(tls=False), framed(number, ok)) as (url, heard):
            with pytest.raises(StoreFault):
                await who(url)
            assert (b"SET SESSION" in heard) == goes_on


async def test_too_many_connections_is_told_before_the_greeting() -> None:
    async with stranger(framed(0, b"\xff\x10\x04Too many connections")) as (url, _):
        with pytest.raises(StoreFault) as caught:
            await who(url)
        assert caught.value.kind == "full"


async def test_no_mutation_of_a_login_raises_anything_else() -> None:
    rng = Random(11)
    script = [
        greeting(tls=False),
        framed(2, b"\x01\x03"),
        framed(3, b"\0\0\0\x02\0\0\0"),
        framed(1, b"\0\0\0\x02\0\0\0"),
    ]
    for _ in range(80):
        says = [bytearray(piece) for piece in script]
        for _mutation in range(rng.randrange(1, 4)):
            piece = rng.choice(says)
            piece[rng.randrange(len(piece))] = rng.randrange(256)
        async with stranger(*[bytes(piece) for piece in says]) as (url, _):
            with pytest.raises(StoreFault):
                async with opened_wire(url, connect_timeout_s=0.05):
                    raise AssertionError("a stranger gave a session")
