"""Tracing on and off: what the receiver is told, and what the collector gets."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taskcenter.tracing import ENDPOINT, AttemptTracer, configure

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP collector on loopback: its URL, and what it was sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_a_span_goes_to_the_collector_and_its_ids_to_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (url, got):
        monkeypatch.setenv(ENDPOINT, url)
        tracer = configure(random.Random(1), "1.2.3")
        with tracer.span("callback", {"taskcenter.task_id": "T1", "taskcenter.attempt": 2}):
            parent = TRACEPARENT.fullmatch(tracer.traceparent())
        outside = TRACEPARENT.fullmatch(tracer.traceparent())
        tracer.close()
    assert parent is not None
    assert outside is not None
    assert int(parent[3], 16) & 1, "sampled within the span"
    assert outside[3] == "00", "and not without one"
    assert parent[1] != outside[1]
    ((path, sent),) = got
    assert path == "/v1/traces"
    for part in (bytes.fromhex(parent[1]), bytes.fromhex(parent[2]), b"callback", b"taskcenter.task_id", b"1.2.3"):
        assert part in sent


def test_without_an_endpoint_there_are_fresh_ids_and_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    tracer = configure(random.Random(1), "1.2.3")
    assert type(tracer) is AttemptTracer
    with tracer.span("callback", {}):
        first, second = (TRACEPARENT.fullmatch(tracer.traceparent()) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[1] != second[1]
    assert {first[3], second[3]} == {"00"}
    tracer.close()


def test_a_service_without_tracing_loads_no_sdk() -> None:
    code = "import sys, taskcenter.cli; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
