"""What our front door costs beside bare hypercorn: a hello-world POST through quart-trio.

Each server runs in a process of its own; a raw trio client drives it over keep-alive connections, the two in turns, so
that both see the same machine. Printed for each: requests/s (client and server share the cores) and the server's CPU
time a request, which is the steadier figure.

    python bench/server.py [--requests 2000] [--connections 16] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import request
from quart_trio import QuartTrio

from taskcenter.http.limits import ServerSettings
from taskcenter.http.server import serve_api

BODY: Final = json.dumps({"business_id": "order-1", "payload": {"n": 1}}).encode()
REQUEST: Final = (
    b"POST /hello HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nuser-agent: bench\r\naccept: */*\r\n"
    b"authorization: Bearer 0123456789abcdef0123456789abcdef\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
KINDS: Final = ("hypercorn", "ours")


def make_app() -> QuartTrio:
    app = QuartTrio("bench")

    @app.post("/hello")
    async def hello() -> dict[str, Any]:
        return {"hello": (await request.get_json())["business_id"]}

    return app


async def serve_one(kind: str) -> None:
    """The child: serve until killed, the address as the first line of stdout."""
    app: Any = make_app()
    async with trio.open_nursery() as nursery:
        if kind == "ours":
            settings = ServerSettings(bind=("127.0.0.1:0",))
            bound = await nursery.start(
                lambda task_status: serve_api(app, settings, shutdown=trio.Event(), task_status=task_status)
            )
        else:
            config = Config()
            config.bind = ["127.0.0.1:0"]
            config.errorlog = None
            bound = await nursery.start(lambda task_status: serve(app, config, task_status=task_status))
        print(bound[0].rpartition(":")[2], flush=True)


async def client(port: int, requests: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        for _ in range(requests):
            await stream.send_all(REQUEST)
            data = b""
            while not data.endswith(b"}\n"):
                more = await stream.receive_some()
                if not more:
                    raise RuntimeError(f"closed after {data!r}")
                data += more
            if not data.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"not served: {data!r}")


async def drive(port: int, requests: int, connections: int) -> float:
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(client, port, requests // connections)
    return time.perf_counter() - began


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve_one, options.serve)
        return
    children = {
        kind: subprocess.Popen([sys.executable, __file__, "--serve", kind], stdout=subprocess.PIPE, text=True)
        for kind in KINDS
    }
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        ports = {kind: int(child.stdout.readline()) for kind, child in children.items() if child.stdout}
        for round_ in range(options.rounds + 1):
            for kind in KINDS if round_ % 2 else reversed(KINDS):
                before = cpu_s(children[kind].pid)
                took_s = trio.run(drive, ports[kind], options.requests, options.connections)
                if round_:  # the first one warms up
                    rates[kind].append(options.requests / took_s)
                    costs[kind].append((cpu_s(children[kind].pid) - before) / options.requests * 1e6)
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    for kind in KINDS:
        rate, cost = statistics.median(rates[kind]), statistics.median(costs[kind])
        print(f"{kind:10} {rate:7.0f} requests/s {cost:7.0f} µs CPU/request")
    print(f"ours / hypercorn, CPU: {statistics.median(costs['ours']) / statistics.median(costs['hypercorn']):.2f}")


if __name__ == "__main__":
    main()
