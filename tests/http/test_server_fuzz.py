"""What kills bare hypercorn, and seeded mutants of a corpus: the server lives, answers, and gives its descriptors back.

`TASKCENTER_FUZZ_MUTANTS` sets the number of mutants (1,000; CI runs 10,000), `TASKCENTER_FUZZ_SEED` the seed.
"""

from __future__ import annotations

import logging
import os
import random
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from hpack import Encoder
from hypercorn.config import Config
from hypercorn.trio import serve
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame
from tests.http.test_server_kit import HEALTH, QUICK, make_app, open_descriptors, read_all, serving, until
from tests.http.test_server_refusals import REFUSED

from taskcenter.config import split_address

MUTANTS = int(os.environ.get("TASKCENTER_FUZZ_MUTANTS", "1000"))
SEED = int(os.environ.get("TASKCENTER_FUZZ_SEED", "1"))
BATCH = 250
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def h2_request(*headers: tuple[bytes, bytes]) -> bytes:
    """HTTP/2 by prior knowledge: preface, settings, and one request that no client library would make."""
    frames: list[Frame] = [SettingsFrame(0)]
    frames.append(HeadersFrame(1, Encoder().encode(headers), flags=["END_HEADERS", "END_STREAM"]))
    return PREFACE + b"".join(frame.serialize() for frame in frames)


SCHEME, HOST = (b":scheme", b"http"), (b":authority", b"test")
KILLERS = {
    "a websocket upgrade and a byte": (
        b"GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx"
    ),
    "h2 with a path not ASCII": h2_request((b":method", b"GET"), SCHEME, HOST, (b":path", b"/\xff")),
    "h2 with a method not ASCII": h2_request((b":method", b"G\xff"), SCHEME, HOST, (b":path", b"/")),
    "h2 CONNECT": h2_request((b":method", b"CONNECT"), HOST),
}
CORPUS = [
    HEALTH,
    HEALTH * 3,
    b'POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"a": [1]}\n',
    b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n1\r\nd\r\n0\r\nX:y\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc" + HEALTH,
    b"GET http://[::1]:80/health?a=%ff%0d%0a HTTP/1.1\r\nHost: [::1]\r\nCookie: a=b; c=\xe4\r\nAccept: */*\r\n\r\n",
    b"HEAD /sleep/0.01 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + PREFACE,
    h2_request((b":method", b"GET"), SCHEME, HOST, (b":path", b"/health")),
    *KILLERS.values(),
    *(data for _, data in REFUSED.values() if len(data) < 1000),
]
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b"\xff", b" ", b"\t", b":", b",", b"0", b"-1", b"%", b"%00", b"[",
    b"]", b"//", b"http:", b"http://[", b"HTTP/1.1", b"HTTP/1.0", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n", b"Host: x\r\n", b"9" * 20, b"ffffffff\r\n", b"CONNECT ", b"HEAD ", b"a" * 70_000,
]  # fmt: skip


def mutant(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(CORPUS))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 5, 20))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = rng.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                other = rng.choice(CORPUS)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                data[at:at] = rng.randbytes(length)
    return bytes(data)


async def play(address: tuple[str, int], rng: random.Random) -> bytes:
    """Send one mutant, whole or in pieces; then half-close, read, vanish or reset."""
    data = mutant(rng)
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        with suppress(trio.BrokenResourceError):
            for piece in [data] if rng.random() < 0.7 else _pieces(data, rng):
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()
            end = rng.random()
            if end < 0.1:
                return b""
            if end < 0.9:
                await stream.send_eof()
        with trio.fail_after(10):
            return await read_all(stream)


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return [piece for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if (piece := data[start:end])]


@pytest.fixture
def quiet_quart() -> Any:
    """The tiny app without Quart's tracebacks on stderr."""
    app = make_app()
    app.logger.setLevel(logging.CRITICAL + 1)
    return app


@pytest.mark.parametrize("killer", KILLERS.values(), ids=KILLERS.keys())
async def test_what_kills_hypercorn_harms_nobody_here(killer: bytes, loopback_clock: object) -> None:
    async with serving() as served:
        for eof in (False, True):
            data = await served.ask(killer, eof=eof)
            assert b" 101 " not in data.partition(b"\r\n")[0]
            assert not data.startswith(b"\x00")  # no frame of HTTP/2
            assert await served.healthy()
        await until(lambda: served.statistics.connections_open == 0)
        assert served.faults == []


@pytest.mark.parametrize("killer", KILLERS.values(), ids=KILLERS.keys())
async def test_the_killers_do_kill_bare_hypercorn(killer: bytes, loopback_clock: object) -> None:
    """So that the test above is about something. If this fails, hypercorn was mended: server.py may be simpler."""
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None

    async def attack() -> None:
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(partial(serve, make_app(), config))
            async with await trio.open_tcp_stream(*split_address(bound[0].removeprefix("http://"))) as stream:
                await stream.send_all(killer)
                await trio.sleep(1)
            nursery.cancel_scope.cancel()

    with pytest.raises(ExceptionGroup):
        await attack()


async def test_mutants_kill_nobody_and_leave_nothing_behind(quiet_quart: Any, loopback_clock: object) -> None:
    settings = replace(QUICK, head_timeout_s=0.3, body_timeout_s=0.3, keep_alive_s=0.3, linger_s=0.1)
    async with serving(quiet_quart, settings) as served:
        assert await served.healthy()
        await until(lambda: served.statistics.connections_open == 0)
        base = open_descriptors()
        statuses = set[bytes]()

        async def one(number: int) -> None:
            data = await play(served.address, random.Random(SEED * 1_000_003 + number))
            statuses.update(part[:3] for part in data.split(b"HTTP/1.1 ")[1:])

        for batch in range(0, MUTANTS, BATCH):
            async with trio.open_nursery() as nursery:
                for number in range(batch, min(batch + BATCH, MUTANTS)):
                    nursery.start_soon(one, number)
            assert await served.healthy(), f"dead after batch {batch} of seed {SEED}"
        await until(lambda: served.statistics.connections_open == 0, within_s=5)
        assert open_descriptors() == base
        assert served.faults == []
        assert {b"200", b"400", b"404", b"501", b"505"} <= statuses
        assert b"101" not in statuses
