"""One exchange on one wire, without sockets: what goes out byte for byte, and what any answer is read as."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.egress import http1
from taskcenter.actors.egress.exchange import (
    KEPT_BODY_BYTES,
    MAX_BODY_BYTES,
    Answered,
    CallbackRequest,
    Exchange,
    Faulted,
)
from taskcenter.actors.egress.http1 import Http1Connection, Progress, UnwritableRequest, write_request
from taskcenter.actors.egress.targets import check_url

ORIGIN = ("http", "example.com", 80, "")


class ScriptedWire:
    """Gives out the pieces one a read, then the end; an OSError among them is raised."""

    def __init__(self, pieces: Sequence[bytes | OSError], *, takes_all: bool = True) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.closed = False
        self.reads = 0
        self._takes_all = takes_all

    def begin_send(self, data: bytes) -> bool:
        self.sent += data
        return self._takes_all

    async def finish_send(self) -> None:
        await trio.sleep_forever()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, OSError):
            raise piece
        return piece

    def receive_nowait(self) -> bytes | None:
        return None

    def untaken(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


async def exchange(
    *pieces: bytes | OSError, method: str = "POST", takes_all: bool = True
) -> tuple[Exchange, Http1Connection]:
    connection = Http1Connection(ScriptedWire(pieces, takes_all=takes_all), ORIGIN, "192.0.2.1:80", born_at=0.0)
    return await connection.exchange(method, b"request", Progress()), connection


def request_text(
    method: str = "POST",
    url: str = "http://example.com/hook?a=b",
    body: bytes = b"{}",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    return write_request(CallbackRequest(method, check_url(url), headers, body))


def test_a_request_byte_for_byte() -> None:
    assert request_text(headers=[("X-A", "1"), ("x-b", "zwei ü"), ("X-A", "")]) == (
        b"POST /hook?a=b HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: identity\r\n"
        b"X-A: 1\r\nx-b: zwei \xc3\xbc\r\nX-A: \r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://example.com:80/", b"example.com"),
        ("https://example.com/", b"example.com"),
        ("http://example.com:443/", b"example.com:443"),
        ("http://[2606:4700::1]/", b"[2606:4700::1]"),
        ("https://[2606:4700::1]:8443/", b"[2606:4700::1]:8443"),
        ("http://bücher.example/", b"xn--bcher-kva.example"),
    ],
)
def test_the_host_header(url: str, host: bytes) -> None:
    assert b"\r\nHost: " + host + b"\r\n" in request_text(url=url)


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_no_content_length_without_a_body_where_none_is_expected(method: str) -> None:
    assert b"content-length" not in request_text(method, body=b"").lower()
    assert b"\r\nContent-Length: 1\r\n" in request_text(method, body=b"x")
    assert b"\r\nContent-Length: 0\r\n" in request_text("PUT", body=b"")


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "TRANSFER-ENCODING", "Connection", "Keep-Alive", "Upgrade", "TE", "Trailer", "Expect",
     "Accept-Encoding", "Proxy-Connection"],
)  # fmt: skip
def test_headers_that_frame_the_message_are_ours_alone(name: str) -> None:
    assert request_text(headers=[(name, "hostile")]) == request_text()


@pytest.mark.parametrize(
    "header",
    [("X-A", "1\r\nX-B: 2"), ("X-A", "1\n"), ("X-A", "1\r"), ("X-A", "\x00"), ("X-A", "\x7f"), ("X-A\r\nX-B", "1"),
     ("X A", "1"), ("", "1"), ("X-A:", "1"), ("Ü", "1"), ("X-A", "\ud800"), ("Content-Length\r\n", "9")],
)  # fmt: skip
def test_a_header_that_http_cannot_carry_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(UnwritableRequest):
        request_text(headers=[header])


@pytest.mark.parametrize("method", ["", "post", "PO ST", "POST\r\n", "GET /", "CONNECT", "X" * 17])
def test_a_method_that_http_cannot_carry_is_refused(method: str) -> None:
    with pytest.raises(UnwritableRequest):
        request_text(method)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=4))
def test_no_header_can_add_a_line(headers: list[tuple[str, str]]) -> None:
    try:
        text = request_text(headers=headers, body=b"")
    except UnwritableRequest:
        return
    lines = text.removesuffix(b"\r\n\r\n").split(b"\r\n")
    ours = 4  # request line, host, accept-encoding, content-length
    assert ours <= len(lines) <= ours + len(headers)
    assert text.count(b"\n") == text.count(b"\r\n") == len(lines) + 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: 1\r\n\r\n", 200, b"ok"),
        (b"HTTP/1.1 503 Busy\nContent-Length: 2\n\nno", 503, b"no"),
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 102 \r\nA:b\r\n\r\nHTTP/1.1 200 O\r\nContent-Length:2\r\n\r\nok", 200, b"ok"),
    ],
)  # fmt: skip
async def test_complete_answers_leave_the_connection_reusable_however_they_are_cut(
    answer: bytes, status: int, body: bytes
) -> None:
    for size in (1, 2, 7, len(answer)):
        result, connection = await exchange(*[answer[at : at + size] for at in range(0, len(answer), size)])
        assert isinstance(result, Answered)
        assert (result.status, result.body, result.body_size, result.reused) == (status, body, len(body), False)
        assert connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx",
    ],
)
async def test_answers_after_which_a_connection_is_not_used_again(answer: bytes) -> None:
    result, connection = await exchange(answer)
    assert isinstance(result, Answered)
    assert result.body == b"ok"
    assert not connection.reusable


async def test_headers_come_as_text_in_order_with_lower_case_names() -> None:
    result, _ = await exchange(b"HTTP/1.1 200 OK\r\nX-B: 1\r\nx-a: \xfc\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(result, Answered)
    assert result.headers == (("x-b", "1"), ("x-a", "ü"), ("x-b", "2"), ("content-length", "0"))
    assert result.header("x-b") == "1"
    assert result.header("x-c") is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", "not HTTP"),
        (b"<html>", "not HTTP"),
        (b"\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not valid HTTP"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "not valid HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 17, "more than 16 interim"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n", "more than 100 headers"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 65_536 + b"\r\n\r\n", "larger than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * 65_536, "larger than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", "too large"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 9000, "more than 8192 pieces"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 9000, "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 9000, "not valid HTTP"),
    ],
)
async def test_unfit_answers_are_faults_and_end_the_connection(answer: bytes, message: str) -> None:
    result, connection = await exchange(answer)
    assert isinstance(result, Faulted)
    assert (result.kind, result.sent) == ("invalid_response", True)
    assert message in result.message
    assert not connection.reusable


async def test_exactly_100_headers_and_1_mib_of_body_are_fine() -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 99 + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES
    result, connection = await exchange(head, *[b"x" * 16_384] * 64)
    assert isinstance(result, Answered)
    assert len(result.headers) == 100
    assert (result.body_size, len(result.body), len(result.stored_body)) == (MAX_BODY_BYTES, KEPT_BODY_BYTES, 4096)
    assert connection.reusable


async def test_an_endless_body_is_dropped_as_it_comes_and_cut_at_1_mib() -> None:
    wire = ScriptedWire([b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 16_384] * 200])
    connection = Http1Connection(wire, ORIGIN, "192.0.2.1:80", born_at=0.0)
    result = await connection.exchange("POST", b"request", Progress())
    assert isinstance(result, Faulted)
    assert result.kind == "invalid_response"
    assert "too large (more than 1024 KiB)" in result.message
    assert wire.reads == 66  # the head, 64 for a MiB, and the one that is too many


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "closed the connection without an answer"),
        ([b"HTTP/1.1 200"], "in the middle of its answer (12 bytes received)"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"], "in the middle of its answer (40 bytes received)"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"], "in the middle of its answer"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], "in the middle of its answer"),
        ([ConnectionResetError(104, "reset")], "connection reset by 192.0.2.1:80"),
        ([b"HTTP/1.1 200 OK\r\n", ConnectionResetError(104, "reset")], "connection reset by 192.0.2.1:80"),
        ([TimeoutError(110, "timed out")], "connection to 192.0.2.1:80 timed out"),
    ],
)
async def test_a_connection_that_breaks_is_a_connection_error(pieces: list[bytes | OSError], message: str) -> None:
    result, connection = await exchange(*pieces)
    assert isinstance(result, Faulted)
    assert (result.kind, result.sent) == ("connection_error", True)
    assert message in result.message
    assert not connection.reusable


async def test_an_answer_before_the_request_is_out_counts_and_ends_the_connection(autojump_clock: object) -> None:
    result, connection = await exchange(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", takes_all=False)
    assert isinstance(result, Answered)
    assert result.status == 413
    assert not connection.reusable


async def test_an_answer_to_head_has_no_body() -> None:
    result, connection = await exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", method="HEAD")
    assert isinstance(result, Answered)
    assert (result.body, connection.reusable) == (b"", True)


async def test_a_body_in_small_pieces_lets_others_run() -> None:
    """The loop must not be held for a whole body of one-byte chunks."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 6400 + b"0\r\n\r\n"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        result, _ = await exchange(answer)
        nursery.cancel_scope.cancel()
    assert isinstance(result, Answered)
    assert result.body_size == 6400
    assert turns >= 6400 // http1.PIECES_BETWEEN_CHECKPOINTS // 2


@given(st.lists(st.binary(max_size=40) | st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"\r\n", b"\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b" folded\r\n", b"Connection: close\r\n",
]), max_size=12))  # fmt: skip
def test_no_answer_makes_it_raise(pieces: list[bytes]) -> None:
    result, connection = trio.run(lambda: exchange(*[piece for piece in pieces if piece]))
    assert isinstance(result, Answered | Faulted)
    if isinstance(result, Faulted):
        assert not connection.reusable
    assert "reusable=" in repr(connection)
