"""What one keep-alive callback exchange costs, in µs of CPU, several clients side by side in one run.

    python bench/transport.py [--exchanges 2000] [--rounds 3] [--concurrency 1,16,100]

The receiver runs in its own process, so that only the client's CPU is measured (`time.process_time`). Rounds of all
clients alternate, best of `--rounds` counts: machines are noisy upwards, never downwards. Nothing here asserts.

- `raw`: trio sockets and h11, no pool, no deadline, no checks; what cannot be undercut with these parts
- `exchange`: our transport, the way the engine calls it
- `httpx/ours`: an `httpx.AsyncClient` on our transport
- `httpx/pool`: an `httpx.AsyncClient` on its own pool
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network

import h11
import httpx
import trio

from taskcenter.actors.egress.exchange import Answered, CallbackRequest
from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.actors.egress.resolver import NameService
from taskcenter.actors.egress.targets import check_url
from taskcenter.actors.egress.transport import CallbackTransport

BODY = b'{"task_id":"01JD","business_code":"demo","business_id":"order-1","attempt":1,"payload":{"amount":12345}}' * 3
HEADERS = [
    ("Content-Type", "application/json"),
    ("User-Agent", "TaskCenter/0"),
    ("webhook-id", "01JDZ0000000000000000000000-1"),
    ("webhook-timestamp", "1700000000"),
    ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ("Idempotency-Key", "01JDZ0000000000000000000000-1"),
    ("X-TaskCenter-Task-Id", "01JDZ0000000000000000000000"),
    ("X-TaskCenter-Business-Id", "order-1"),
    ("X-TaskCenter-Attempt", "1"),
    ("X-TaskCenter-Due", "1700000000000"),
    ("X-TaskCenter-Term", "7"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]
DEADLINE_S = 5.0

Send = Callable[[], Awaitable[None]]
Client = Callable[[AsyncExitStack, str, int], Awaitable[Send]]  # stack, url, lane → one exchange


@dataclass(slots=True)
class Lanes:
    """A client set up for one concurrency; every lane sends one exchange after another."""

    sends: list[Send]

    async def run(self, exchanges: int) -> float:
        """µs of this process's CPU for each exchange."""
        each = max(1, exchanges // len(self.sends))

        async def lane(send: Send) -> None:
            for _ in range(each):
                await send()

        began = time.process_time()
        async with trio.open_nursery() as nursery:
            for send in self.sends:
                nursery.start_soon(lane, send)
        return (time.process_time() - began) / (each * len(self.sends)) * 1e6


async def exchange_lanes(stack: AsyncExitStack, url: str, lanes: int) -> Lanes:
    transport = _transport(lanes)
    stack.push_async_callback(transport.aclose)
    target = check_url(url)

    async def send() -> None:
        answer = await transport.exchange(CallbackRequest("POST", target, HEADERS, BODY), DEADLINE_S)
        if not (isinstance(answer, Answered) and answer.status == 200):
            raise RuntimeError(f"unexpected: {answer}")

    return Lanes([send] * lanes)


async def httpx_ours_lanes(stack: AsyncExitStack, url: str, lanes: int) -> Lanes:
    return await _httpx_lanes(stack, url, lanes, _transport(lanes))


async def httpx_pool_lanes(stack: AsyncExitStack, url: str, lanes: int) -> Lanes:
    limits = httpx.Limits(max_connections=lanes + 1, max_keepalive_connections=lanes + 1)
    return await _httpx_lanes(stack, url, lanes, httpx.AsyncHTTPTransport(limits=limits, trust_env=False))


async def _httpx_lanes(stack: AsyncExitStack, url: str, lanes: int, transport: httpx.AsyncBaseTransport) -> Lanes:
    client = await stack.enter_async_context(
        httpx.AsyncClient(transport=transport, trust_env=False, timeout=DEADLINE_S)
    )

    async def send() -> None:
        with trio.fail_after(DEADLINE_S):
            response = await client.post(url, headers=HEADERS, content=BODY)
        if response.status_code != 200:
            raise RuntimeError(f"unexpected: {response}")

    return Lanes([send] * lanes)


async def raw_lanes(stack: AsyncExitStack, url: str, lanes: int) -> Lanes:
    parsed = httpx.URL(url)
    headers = [("Host", parsed.netloc.decode()), ("Content-Length", str(len(BODY))), *HEADERS]

    async def lane() -> Send:
        stream = await stack.enter_async_context(await trio.open_tcp_stream(parsed.host, parsed.port or 80))
        protocol = h11.Connection(h11.CLIENT)

        async def send() -> None:
            parts = [
                protocol.send(h11.Request(method="POST", target=parsed.raw_path, headers=headers)),
                protocol.send(h11.Data(BODY)),
                protocol.send(h11.EndOfMessage()),
            ]
            await stream.send_all(b"".join(parts))
            while True:
                event = protocol.next_event()
                if event is h11.NEED_DATA:
                    protocol.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.EndOfMessage):
                    break
            protocol.start_next_cycle()

        return send

    return Lanes([await lane() for _ in range(lanes)])


def _transport(lanes: int) -> CallbackTransport:
    policy = EgressPolicy(allowed_networks=(ip_network("127.0.0.0/8"),))
    return CallbackTransport(policy=policy, resolver=NameService().for_business(), max_connections=lanes + 1)


CLIENTS = {
    "raw": raw_lanes,
    "exchange": exchange_lanes,
    "httpx/ours": httpx_ours_lanes,
    "httpx/pool": httpx_pool_lanes,
}


async def measure(url: str, concurrency: int, exchanges: int, rounds: int) -> dict[str, float]:
    """The best round of each client."""
    best: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        lanes = {name: await client(stack, url, concurrency) for name, client in CLIENTS.items()}
        for each in lanes.values():
            await each.run(concurrency * 2)  # connections up, caches warm
        for _ in range(rounds):
            for name, each in lanes.items():
                cost = await each.run(exchanges if name != "httpx/pool" or concurrency < 50 else exchanges // 4)
                best[name] = min(cost, best.get(name, cost))
    return best


async def receiver() -> None:
    """Answers everything with 200 and a small JSON body, on any number of kept connections. Prints its port."""
    answer = (
        b"HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: bench\r\n"
        b"Content-Type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}'
    )

    async def serve(stream: trio.SocketStream) -> None:
        buffer = b""
        while data := await stream.receive_some(65536):
            buffer += data
            while (end := buffer.find(b"\r\n\r\n")) >= 0:
                head = buffer[:end].lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
                if len(buffer) < end + 4 + length:
                    break
                buffer = buffer[end + 4 + length :]
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        print(listeners[0].socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)  # the parent closes the pipe when it ends
        nursery.cancel_scope.cancel()


async def report(url: str, concurrencies: list[int], exchanges: int, rounds: int) -> None:
    print(f"{'µs of CPU / exchange':<22}" + "".join(f"{name:>16}" for name in CLIENTS))
    for concurrency in concurrencies:
        best = await measure(url, concurrency, exchanges, rounds)
        cells = [f"{cost:7.0f} {cost / best['exchange']:5.2f}x" for cost in best.values()]
        print(f"{f'concurrency {concurrency}':<22}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def main(concurrencies: list[int], exchanges: int, rounds: int) -> None:
    command = [sys.executable, __file__, "--receiver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipes to the receiver")
        try:
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}/hooks/order?source=bench"
            trio.run(report, url, concurrencies, exchanges, rounds)
        finally:
            process.stdin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=2000, help="in each round, over all lanes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", default="1,16,100")
    parser.add_argument("--receiver", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receiver:
        trio.run(receiver)
    else:
        main([int(part) for part in options.concurrency.split(",")], options.exchanges, options.rounds)
