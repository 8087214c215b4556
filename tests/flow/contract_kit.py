"""What the contract's checks stand on: a service that many tests share, a receiver in threads, a plain client.

The tests are synchronous: they see the service only from outside, as a client and a receiver. Each has a business of
its own (`Live.business`) and paths of its own at the receiver, so they do not disturb one another.
"""

from __future__ import annotations

import itertools
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import trio
from tests.flow.kit import ADMIN_TOKEN, Answer, Call, Service

Decide = Callable[[Call], Answer]


class ThreadReceiver:
    """Remembers every call; `on[path]` decides the answer, 200 `{}` without."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.on: dict[str, Decide] = {}
        self._calls: list[Call] = []
        self._arrived = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                receiver.handle(self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.handle_any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:  # the handshake is the connection's own thread's
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(request.command, request.path, headers, body, time.time() * 1000)
        decide = self.on.get(request.path.partition("?")[0])
        answer = Answer() if decide is None else decide(call)
        with self._arrived:
            self._calls.append(call)
            self._arrived.notify_all()
        time.sleep(answer.delay_s)
        if answer.go is not None:
            answer.go.wait(60)
        try:
            request.send_response(answer.status)
            names = {name.lower() for name in answer.headers}
            given = {"Content-Type": "application/json", "Content-Length": str(len(answer.body)), **answer.headers}
            for name, value in given.items():
                if name in answer.headers or name.lower() not in names:
                    request.send_header(name, value)
            request.end_headers()
            request.wfile.write(answer.body)
        except OSError:
            request.close_connection = True

    def calls(self, path: str) -> list[Call]:
        with self._arrived:
            return [call for call in self._calls if call.path.partition("?")[0] == path]

    def wait_for(self, path: str, count: int = 1, timeout_s: float = 60.0) -> list[Call]:
        """The calls of a path, once there are `count`."""
        until = time.monotonic() + timeout_s
        with self._arrived:
            while True:
                calls = [call for call in self._calls if call.path.partition("?")[0] == path]
                if len(calls) >= count:
                    return calls
                assert self._arrived.wait(until - time.monotonic()), f"{len(calls)} of {count} calls of {path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Client:
    """The API as one caller sees it."""

    def __init__(self, url: str, token: str | None, **headers: str) -> None:
        given = headers if token is None else {"Authorization": f"Bearer {token}", **headers}
        self.http = httpx.Client(base_url=url, headers=given, timeout=20, trust_env=False)

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        return self.http.request(method, f"/api/v1{path}", content=content, headers={**kind, **headers})

    def ok(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = self.call(method, path, body, **headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def until(self, path: str, good: Callable[[Any], bool], timeout_s: float = 60.0) -> Any:
        """What GET `path` answers, once it is `good`."""
        until = time.monotonic() + timeout_s
        while True:
            answer = self.ok("GET", path)
            if good(answer):
                return answer
            assert time.monotonic() < until, f"GET {path} after {timeout_s} s: {answer}"
            time.sleep(0.02)

    def ended(self, task: Any, timeout_s: float = 60.0) -> Any:
        """The task, once it has ended."""
        return self.until(f"/tasks/{task['id']}", lambda seen: seen["finished_at"] is not None, timeout_s)


def refused(answer: httpx.Response, status: int, code: str) -> Any:
    """The problem, checked for what holds for every one."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    problem = answer.json()
    assert {"type", "title", "status", "detail", "instance", "code"} <= problem.keys()
    assert (problem["status"], problem["code"]) == (status, code)
    for word in ("Traceback", "SELECT", "INSERT", "sqlite", "trio"):
        assert word not in answer.text
    return problem


@dataclass
class Business:
    """A business of one test: its client, what was told at its registration, a name of its own at the receiver."""

    code: str
    made: dict[str, Any]
    api: Client
    path: str

    def task(self, live: Live, **fields: Any) -> Any:
        """Create a task with a callback at this test's path."""
        return self.api.ok("POST", "/tasks", self.body(live, **fields))

    def body(self, live: Live, **fields: Any) -> dict[str, Any]:
        given = {"business_id": f"t{next(_numbers)}", "callback_url": f"{live.receiver.url}{self.path}", **fields}
        return {name: value for name, value in given.items() if value is not ...}


_numbers = itertools.count(1)


class Live:
    """A running service with its receiver."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.receiver = ThreadReceiver()
        self._clients: list[Client] = []
        self.admin = self.client(ADMIN_TOKEN)

    def client(self, token: str | None, **headers: str) -> Client:
        client = Client(self.service.url, token, **headers)
        self._clients.append(client)
        return client

    def business(self, **fields: Any) -> Business:
        code = f"b{next(_numbers)}"
        made = self.admin.ok("POST", "/businesses", {"business_code": code, "business_name": code.upper(), **fields})
        return Business(code, made, self.client(made["api_key"]), f"/{code}")

    def close(self) -> None:
        for client in self._clients:
            client.http.close()
        self.receiver.close()


@contextmanager
def serving(database_url: str, directory: Path, **settings: str) -> Iterator[Live]:
    """A service of its own and its receiver; both are gone afterwards."""
    service = Service(database_url, directory, **settings)
    trio.run(service.start)
    live = Live(service)
    try:
        yield live
    finally:
        live.close()
        if service.running:
            service.kill()
