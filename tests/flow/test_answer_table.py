"""CONTRACT's table of answers, row by row, through real sockets and one process of the service.

Every row has a task of its own. Its first attempt gets the row's answer, every later one 200: how the first attempt
was recorded, how the task ended and whether a retry was used up is what is checked.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
from tests.flow.kit import business, running

pytestmark = pytest.mark.real_time

RETRY_S = 1
TIMEOUT_S = 3  # of who must run into it
PATIENT_S = 30
BIG = 2 * 1024 * 1024
CHUNKED = b"HTTP/1.1 200 Answer\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % BIG + bytes(BIG) + b"\r\n0\r\n\r\n"
Fate = Literal["done", "stopped", "used", "deferred", "lost"]
ENDS: dict[Fate, tuple[str, list[int]]] = {  # the task's status, and its attempts' numbers, newest first
    "done": ("succeeded", [1]),
    "stopped": ("stopped", [1]),
    "used": ("succeeded", [2, 1]),
    "deferred": ("succeeded", [1, 1]),
    "lost": ("failed", [2, 1]),  # nobody is there for the second attempt either
}


@dataclass(frozen=True)
class Row:
    """`answer`: what is sent to the first attempt; None: a mood of the socket, by the row's name, or a URL."""

    answer: bytes | None
    execution: str
    fate: Fate
    response_status: int | None = None
    waits_s: float = RETRY_S  # from the end of the first attempt to the start of the second, at least
    url: str | None = None


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Answer", f"Content-Length: {len(body)}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def said(status: int, body: bytes, execution: str, fate: Fate, **more: Any) -> Row:
    return Row(http(status, body, "Content-Type: application/json"), execution, fate, status, **more)


def plain(status: int, execution: str, fate: Fate, *headers: str, **more: Any) -> Row:
    return Row(http(status, b"", *headers), execution, fate, status, **more)


def table(closed: str) -> dict[str, Row]:
    return {
        "200": plain(200, "success", "done"),
        "201": said(201, b'{"id": 7}', "success", "done"),
        "204": Row(b"HTTP/1.1 204 No Content\r\n\r\n", "success", "done", 204),
        "200 and no JSON": said(200, b"{action: retry", "success", "done"),
        "retry": said(200, b'{"action": "retry"}', "retry", "used"),
        "retry later": said(200, b'{"action": "retry", "retry_after": 2}', "deferred", "deferred", waits_s=2),
        "failed, retry later": said(500, b'{"action": "retry", "retry_after": 2}', "deferred", "deferred", waits_s=2),
        "stop": said(200, b'{"action": "stop", "reason": "enough"}', "stop", "stopped"),
        "failed, stop": said(500, b'{"action": "stop"}', "stop", "stopped"),
        "410": plain(410, "stop", "stopped"),
        "489": plain(489, "stop", "stopped"),
        "stop by header": plain(200, "stop", "stopped", "X-TaskCenter-Action: stop"),
        "abort by header": plain(503, "stop", "stopped", "webhook-delivery: abort-message"),
        "429": plain(429, "http_error", "used"),
        "503": plain(503, "http_error", "used"),
        "429 later": plain(429, "deferred", "deferred", "Retry-After: 2", waits_s=2),
        "503 later": plain(503, "deferred", "deferred", "Retry-After: 1"),
        "503 at a date": plain(503, "deferred", "deferred", "Retry-After: IN-THREE-SECONDS", waits_s=2),
        "500 later": plain(500, "http_error", "used", "Retry-After: 3"),
        "301": plain(301, "http_error", "used", "Location: /elsewhere"),
        "404": plain(404, "http_error", "used"),
        "500": plain(500, "http_error", "used"),
        "silence": Row(None, "timeout", "used"),
        "trickle": Row(None, "timeout", "used"),
        "reset": Row(None, "connection_error", "used"),
        "hang up": Row(None, "connection_error", "used"),
        "2 MiB": Row(http(200, bytes(BIG)), "invalid_response", "used"),
        "2 MiB in chunks": Row(CHUNKED, "invalid_response", "used"),
        "garbage": Row(b"\x16\x03\x01 this is not HTTP\r\n\r\n", "invalid_response", "used"),
        "refused": Row(None, "connection_error", "lost", url=closed),
        "no such name": Row(None, "connection_error", "lost", url="http://nonexistent.invalid/"),
    }


class TableReceiver:
    """Gives each row's answer to its first call, and 200 from then on. One connection a call."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self.url = ""
        self.arrived: dict[str, list[float]] = {name: [] for name in rows}  # s, by trio's clock
        self.answered: dict[str, float] = {}  # when the first answer began
        self._rows = list(rows.items())

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._connection, listeners)

    async def _connection(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                request = await self._read(stream)
                if request:
                    await self._answer(stream, int(request.split(b" ")[1].strip(b"/")))
            except trio.BrokenResourceError:
                return

    async def _read(self, stream: trio.SocketStream) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request or not request.endswith(b"}"):
            chunk = await stream.receive_some(65536)
            if not chunk:
                return b""
            request += chunk
        return request

    async def _answer(self, stream: trio.SocketStream, number: int) -> None:
        name, row = self._rows[number]
        self.arrived[name].append(trio.current_time())
        if len(self.arrived[name]) > 1:
            await stream.send_all(http(200, b"", "Connection: close"))
            return
        self.answered[name] = trio.current_time()
        if row.answer is None:
            await self._mood(stream, name)
            return
        date = formatdate(time.time() + 3, usegmt=True).encode()
        await stream.send_all(row.answer.replace(b"IN-THREE-SECONDS", date))

    async def _mood(self, stream: trio.SocketStream, name: str) -> None:
        if name == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif name == "silence":
            await trio.sleep(TIMEOUT_S * 3)
        elif name == "trickle":
            for letter in b"HTTP/1.1 200 Answer, drop by drop, and never to its end":
                await stream.send_all(bytes([letter]))
                await trio.sleep(TIMEOUT_S / 10)


def check(name: str, row: Row, task: Any, receiver: TableReceiver) -> None:
    status, attempts = ENDS[row.fate]
    executions = task["executions"]
    assert (task["status"], [execution["attempt"] for execution in executions]) == (status, attempts), name
    first = executions[-1]
    assert (first["status"], first["response_status"]) == (row.execution, row.response_status), name
    assert task["current_retry"] == attempts[0] - 1, name
    assert bool(first["error_message"]) == (row.execution != "success"), name
    if row.url is None:
        assert len(receiver.arrived[name]) == len(attempts), name
    if row.fate in {"used", "deferred"}:
        assert receiver.arrived[name][1] - receiver.answered[name] >= row.waits_s, name


async def test_every_answer_means_what_the_table_says(tmp_path: Path) -> None:
    unheard = socket.socket()  # bound and not listening: nobody else has its port
    unheard.bind(("127.0.0.1", 0))
    rows = table(f"http://127.0.0.1:{unheard.getsockname()[1]}/")
    receiver = TableReceiver(rows)
    url = f"sqlite:///{tmp_path / 'taskcenter.db'}"
    async with running(url, tmp_path) as (service, _), trio.open_nursery() as own:
        await own.start(receiver.serve)
        async with business(service, breaker={"enabled": False}) as api:
            items = [
                {
                    "business_id": name, "callback_url": row.url or f"{receiver.url}/{number}", "payload": number,
                    "retry_intervals": [RETRY_S],
                    "timeout": TIMEOUT_S if row.execution == "timeout" else PATIENT_S,
                }
                for number, (name, row) in enumerate(rows.items())
            ]  # fmt: skip
            results = (await api.ok("POST", "/tasks/batch", {"tasks": items}))["results"]
            for (name, row), result in zip(rows.items(), results, strict=True):
                assert result["status"] == 201, result
                task = await api.until_status(result["task"]["id"], "succeeded", "stopped", "failed")
                check(name, row, task, receiver)
        own.cancel_scope.cancel()
    unheard.close()
