"""Requests that are answered by the server itself: what two parsers could read in two ways, and what is too large."""

from __future__ import annotations

from dataclasses import replace

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.test_server_kit import HEALTH, QUICK, make_app, parse, read_all, serving

from taskcenter.http.head import Caller, Head, Refused, check_head, origin_form, refusal_bytes
from taskcenter.http.limits import ServerSettings

HOST = b"Host: test\r\n"
REFUSED = {
    "TE and CL": (
        400,
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "TE twice": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n"),
    "TE in 1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "TE unknown": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "TE with a space": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n"),
    "CL twice, equal": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    "CL twice": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
    "CL a list": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx"),
    "CL signed": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx"),
    "CL not a number": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\nx"),
    "CL empty": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\nx"),
    "CL above the limit": (413, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\n"),
    "CL of 30 digits": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "Host empty": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "Host not ASCII": (400, b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n"),
    "HTTP/2.0 in the line": (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/9.9": (505, b"GET / HTTP/9.9\r\n" + HOST + b"\r\n"),
    "folded": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
    "folded by a tab": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n\tb\r\n\r\n"),
    "bare LF": (400, b"GET / HTTP/1.1\nHost: test\n\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\n" + HOST + b"\n"),
    "bare LF in the middle": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\nZ: z\r\n\r\n"),
    "bare CR": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\rZ: z\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n"),
    "ESC in a value": (400, b"GET / HTTP/1.1\r\n" + HOST + b"X: \x1b[31m\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n"),
    "empty name": (400, b"GET / HTTP/1.1\r\n" + HOST + b": x\r\n\r\n"),
    "target not ASCII": (400, b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target with a control": (400, b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target with a space": (400, b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target relative": (400, b"GET health HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target of another scheme": (400, b"GET file:///etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target *": (400, b"GET * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target too long": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "CONNECT": (400, b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method not ASCII": (400, b"G\xc9T / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method in lower case": (400, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "empty line first": (400, b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "too many fields": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n"),
    "a head too large": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n"),
    "an endless head": (431, b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000),
    "chunk size": (400, b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "bare LF in a trailer": (
        400,
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\n\r\n",
    ),
    "bare LF after the last chunk": (
        400,
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\n",
    ),
    "chunk without its end": (
        400,
        b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    ),
}


@pytest.mark.parametrize("status,data", REFUSED.values(), ids=REFUSED.keys())
async def test_a_malformed_request_gets_a_problem_and_the_connection_ends(
    status: int, data: bytes, loopback_clock: object
) -> None:
    async with serving() as served:
        answer = parse(await served.ask(data))
        assert answer.status == status
        assert (answer.problem["status"], answer.problem["type"]) == (status, "about:blank")
        assert {"title", "detail", "instance", "code"} <= answer.problem.keys()
        assert answer.headers["connection"] == "close"
        assert len(answer.headers["x-request-id"]) == 32
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert "server" not in answer.headers
        assert served.statistics.refused == {answer.problem["code"]: 1}
        assert served.faults == []
        assert await served.healthy()


@pytest.mark.parametrize(
    "data,status",
    [
        (b"GET http://test/health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", 200),
        (b"GET HTTPS://[::1]:1/health?x=y HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", 200),
        (b"GET http://test HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", 404),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\nX: \xe4\r\n\r\n", 200),
        (b"HEAD /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", 200),
    ],
)
async def test_unusual_but_right_requests_reach_the_app(data: bytes, status: int, loopback_clock: object) -> None:
    async with serving() as served:
        assert parse(await served.ask(data)).status == status
        assert served.statistics.refused == {}


async def test_a_second_pipelined_request_is_checked_like_the_first(loopback_clock: object) -> None:
    async with serving() as served:
        data = await served.ask(HEALTH + b"GET /health HTTP/1.1\nHost: test\n\n")
        assert [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]] == [200, 400]


async def test_a_refusal_carries_the_callers_id_if_it_is_sane_and_no_body_after_head(loopback_clock: object) -> None:
    async with serving() as served:
        bad = b"HEAD / HTTP/2.0\r\nX-Request-Id: abc-1\r\n\r\n"
        answer = parse(await served.ask(bad))
        assert (answer.status, answer.headers["x-request-id"], answer.body) == (505, "abc-1", b"")
        answer = parse(await served.ask(b"GET / HTTP/2.0\r\nX-Request-Id: <script>\r\n\r\n"))
        assert answer.headers["x-request-id"] != "<script>"


async def test_an_upgrade_is_ignored(loopback_clock: object) -> None:
    websocket = (
        b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    h2c = (
        b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    async with serving() as served:
        for data in (websocket, h2c):
            async with await served.connect() as stream:
                await stream.send_all(data + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                answers = (await read_all(stream)).split(b"HTTP/1.1 ")[1:]
                assert [int(part[:3]) for part in answers] == [200, 200]


async def test_the_body_is_refused_by_its_announced_length_before_it_is_read(loopback_clock: object) -> None:
    async with serving() as served, await served.connect() as stream:
        await stream.send_all(
            b"POST /echo HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 65537\r\n\r\n"
        )
        answer = parse(await read_all(stream))
        assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")
        assert answer.problem["instance"] == "/echo"
        assert served.statistics.requests_total == 0


async def test_a_client_that_sends_its_whole_large_body_can_still_read_the_refusal(loopback_clock: object) -> None:
    async with serving(settings=replace(QUICK, max_body_bytes=2_000_000)) as served:
        data = b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 2000001\r\n\r\n" + bytes(1_900_000)
        assert parse(await served.ask(data)).status == 413


async def test_a_chunked_body_is_refused_when_it_outgrows_the_limit(loopback_clock: object) -> None:
    async with serving() as served:
        chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
        head = b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        assert parse(await served.ask(head + chunk * 4 + b"0\r\n\r\n")).status == 200
        answer = parse(await served.ask(head + chunk * 5 + b"0\r\n\r\n"))
        assert (answer.status, answer.problem["code"]) == (413, "payload_too_large")


async def test_a_body_cut_short_by_the_client_gets_a_400_and_the_handler_is_cancelled(loopback_clock: object) -> None:
    async with serving() as served:
        data = await served.ask(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\nhalf", eof=True)
        assert parse(data).status == 400
        assert served.faults == []


async def test_expect_100_continue_is_answered(loopback_clock: object) -> None:
    async with serving() as served, await served.connect() as stream:
        await stream.send_all(
            b"POST /echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"hi")
        assert parse(await read_all(stream)).status == 200


def test_the_app_of_these_tests_has_no_other_way_to_refuse() -> None:
    """So that a status above is the server's own word: the app knows no 413, 414, 431, 501 or 505."""
    rules = {rule.rule for rule in make_app().url_map.iter_rules()}
    assert rules == {"/static/<path:filename>", "/health", "/echo", "/big", "/sleep/<float:time_s>", "/group"}


@pytest.mark.parametrize(
    "target,expected",
    [
        (b"/a?b=http://c", b"/a?b=http://c"),
        (b"*", b"*"),
        (b"http://h", b"/"),
        (b"http://h/", b"/"),
        (b"http://h/a/b?c", b"/a/b?c"),
        (b"http://h?c=/d", b"/?c=/d"),
    ],
)
def test_origin_form(target: bytes, expected: bytes) -> None:
    assert origin_form(target) == expected


@pytest.mark.parametrize("target", [b"/<hunter2>", b"/a?key=hunter2", b"//hunter2@x", b"hunter2"])
def test_a_refusal_repeats_nothing_of_the_request_but_a_harmless_path(target: bytes) -> None:
    secret = b"GET " + target + b" HTTP/1.1\r\nAuthorization: hunter2\nX-Request-Id: hunter2 hunter2\r\n\r\n"
    with pytest.raises(Refused) as caught:
        check_head(secret, ServerSettings())
    assert b"hunter2" not in refusal_bytes(caught.value, Caller.of(secret), "id")


@given(
    st.lists(
        st.sampled_from(
            [b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host", b":", b"a", b"\t", b"POST",
             b"Content-Length", b"0", b"Transfer-Encoding", b"chunked", b"\r\n\r\n", b"Host: a\r\n", b"\x00", b"\xff"]
        ),
        max_size=24,
    ).map(lambda parts: b"GET / HTTP/1.1\r\n" + b"".join(parts))
)  # fmt: skip
def test_what_is_accepted_ends_where_h11_ends_it(data: bytes) -> None:
    """The claim the module rests on: an accepted head is the head h11 takes, byte for byte."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    try:
        whole = check_head(data, ServerSettings()) is not Head.INCOMPLETE
    except Refused:
        return
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return  # stricter than we are: that is a 400 as well
    assert isinstance(event, h11.Request) == whole
    if whole:
        assert connection.trailing_data[0] == data[data.find(b"\r\n\r\n") + 4 :]
