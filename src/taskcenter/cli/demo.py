"""`taskcenter demo`: a local receiver and a few tasks, and what happens to them, live.

The receiver is a thread of the standard library's HTTP server on a free loopback port; each path has a mood. On a
terminal the callbacks fill a table; anywhere else each is one line that ends with the task's status.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from taskcenter.cli.api import DEFAULT_URL, ApiClient, checked_url

TERMINAL: Final = frozenset({"succeeded", "failed", "stopped", "cancelled"})
PATIENCE_S: Final = 60.0
COLUMNS: Final = ("task", "due", "started", "lateness ms", "attempt", "answer", "status")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One callback, as the receiver saw it. Times: ms since 1970."""

    task_id: str
    name: str
    attempt: int
    due_at: int
    arrived_at: float
    answer: str


class Receiver:
    """A receiver with moods: /ok, /flaky (503 twice, then 200), /stop, /later (asks for a pause once), /broken."""

    def __init__(self) -> None:
        self.arrivals: queue.Queue[Arrival] = queue.Queue()
        self._seen: dict[str, int] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                arrived_at = time.time() * 1000
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = receiver.answer(self.path, body["task_id"])
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                shown = f"{status} {answer['action']}" if "action" in answer else str(status)
                receiver.arrivals.put(
                    Arrival(
                        body["task_id"],
                        body["business_id"].split("-")[0],
                        body["attempt"],
                        int(self.headers["X-TaskCenter-Due"]),
                        arrived_at,
                        shown,
                    )
                )

            def log_message(self, *_: Any) -> None:
                """The table is the log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, task_id: str) -> tuple[int, dict[str, Any]]:
        count = self._seen[task_id] = self._seen.get(task_id, 0) + 1
        if path == "/flaky" and count <= 2:
            return 500, {"error": f"not yet ({count})"}
        if path == "/stop" and count == 2:
            return 200, {"action": "stop", "reason": "order was cancelled"}
        if path == "/stop":
            return 500, {"error": "busy"}
        if path == "/later" and count == 1:
            return 200, {"action": "retry", "retry_after": 1.5}
        if path == "/broken":
            return 500, {"error": "out of order"}
        return 200, {"ok": True}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def plan(receiver_url: str) -> list[dict[str, Any]]:
    """The demo's tasks: success, retries, stop, deferral, exhaustion, recurring."""
    return [
        {"business_id": "success", "callback_url": f"{receiver_url}/ok", "delay": 1.5, "payload": {"order": 17}},
        {
            "business_id": "retries",
            "callback_url": f"{receiver_url}/flaky",
            "delay": 1,
            "retry_intervals": [1, "2s", 1],
        },
        {"business_id": "stop", "callback_url": f"{receiver_url}/stop", "delay": 1, "retry_intervals": [1, 1, 1]},
        {"business_id": "deferral", "callback_url": f"{receiver_url}/later", "delay": 2},
        {"business_id": "exhausted", "callback_url": f"{receiver_url}/broken", "delay": 2, "retry_intervals": [1]},
        {
            "business_id": "recurring",
            "callback_url": f"{receiver_url}/ok",
            "delay": 1,
            "schedule": {"every": 2, "max_runs": 3},
        },
    ]


def run_demo(client: ApiClient) -> bool:
    """Create the tasks, show their callbacks until all have ended. True if all ended as they should."""
    receiver = Receiver()
    try:
        suffix = uuid.uuid4().hex[:8]
        tasks = [
            client.call("POST", "/tasks", body={**body, "business_id": f"{body['business_id']}-{suffix}"})
            for body in plan(receiver.url)
        ]
        return _watch(client, receiver, [task["id"] for task in tasks])
    finally:
        receiver.close()


def _watch(client: ApiClient, receiver: Receiver, task_ids: list[str]) -> bool:
    open_ids = set(task_ids)
    table = Table(*COLUMNS, title="callbacks as they arrive")
    console = Console()
    live = Live(table, console=console, refresh_per_second=8) if console.is_terminal else None
    until = time.monotonic() + PATIENCE_S
    if live is not None:
        live.start()
    try:
        while open_ids and time.monotonic() < until:
            try:
                arrival = receiver.arrivals.get(timeout=0.5)
            except queue.Empty:
                open_ids -= {task_id for task_id in open_ids if _status(client, task_id) in TERMINAL}
                continue
            status = _status_after(client, arrival)
            if status in TERMINAL:
                open_ids.discard(arrival.task_id)
            row = _row(arrival, status)
            if live is None:
                print("  ".join(f"{name}={cell}" for name, cell in zip(COLUMNS, row, strict=True)), flush=True)
            else:
                table.add_row(*row)
    finally:
        if live is not None:
            live.stop()
    return not open_ids


def _status(client: ApiClient, task_id: str) -> str:
    return str(client.call("GET", f"/tasks/{task_id}")["status"])


def _status_after(client: ApiClient, arrival: Arrival) -> str:
    """The task's status once the attempt is recorded: an instant after the answer."""
    until = time.monotonic() + 5
    while (status := _status(client, arrival.task_id)) == "running" and time.monotonic() < until:
        time.sleep(0.02)
    return status


def _row(arrival: Arrival, status: str) -> tuple[str, ...]:
    return (
        arrival.name,
        _clock(arrival.due_at),
        _clock(arrival.arrived_at),
        f"{arrival.arrived_at - arrival.due_at:.1f}",
        str(arrival.attempt),
        arrival.answer,
        status,
    )


def _clock(ms: float) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M:%S.%f}"[:-3]


def demo(
    url: Annotated[str, typer.Option(envvar="TASKCENTER_URL", help="The service.")] = DEFAULT_URL,
) -> None:
    """A local receiver and a few tasks (success, retries, stop, recurring), shown live.

    The service must be allowed to call loopback: TASKCENTER_ALLOWED_CALLBACK_NETWORKS=127.0.0.0/8.
    """
    key = os.environ.get("TASKCENTER_API_KEY")
    if not key:
        typer.echo("set TASKCENTER_API_KEY to a business's key, e.g. of: taskcenter business create demo", err=True)
        raise typer.Exit(2)
    if not run_demo(ApiClient(checked_url(url), key)):
        typer.echo("not all tasks ended in time", err=True)
        sys.exit(1)
    typer.echo("all tasks have ended; see them again with: taskcenter task list")
