"""The API's front door: listens, accepts up to a cap, serves each connection apart, drains when told.

Hypercorn's own worker is not used: its accept loop, lifespan task and connections share one nursery, so that one
unauthenticated packet ends the process (hypercorn 0.18: a websocket upgrade with a trailing byte; HTTP/2 with a
non-ASCII `:path` or `:method`; a plain CONNECT). What is used is its HTTP/1.1 protocol, its ASGI stream and its task
group, subclassed (`protocol.py`) over a connection of our own (`connection.py`).

**Nurseries nest in the order of shutdown.** Connections outside, accepting inside:

    listeners open ─▶ started(addresses) ─▶ accepting … shutdown is set ─▶ accepting is cancelled, listeners close
    ─▶ idle connections end, the others get a deadline of `grace_s` on the connections' nursery ─▶ return

What is in the kernel's accept queue when the shutdown begins is still accepted: those clients have a connection and may
have sent a request, and closing the listener would reset them.

**Invariants.** No exception of a connection leaves its task (`Connection.run`). At most `connection_cap` connections
are open, plus one for each listener beyond the first; the rest wait in the backlog. At the cap the connection that has
been silent longest, for more than `evict_after_s`, makes room. `accept` failing for want of descriptors or memory backs
off.

**On failure.** Whatever else happens in the accept loops is a fault of this module and is raised out of `serve_api`, so
that the caller's nursery ends and the process with it: there is no half-dead server. There is no ASGI lifespan: the app
is given `http` scopes alone, has no nursery of ours, and so cannot keep anything in it that dies unseen. The engine is
a sibling of `serve_api` in the caller's nursery. Cancelling `serve_api` ends it at once, without grace.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import secrets
import socket as stdlib_socket
import ssl
from collections.abc import Callable
from typing import Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework as ASGIApp

from taskcenter.http.connection import Connection
from taskcenter.http.limits import ServerMeter, ServerSettings, connection_cap
from taskcenter.http.listeners import bound_address, open_listeners, tls_context
from taskcenter.http.shedding import Shedder

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LISTENER_GONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EFAULT})
ACCEPT_AT_ONCE: Final = 64  # one in each turn of a busy loop would keep a health probe waiting for seconds
_BACKOFF_S: Final = (0.05, 1.0)  # first and longest pause after an accept for which there were no descriptors


async def serve_api(
    app: ASGIApp,
    settings: ServerSettings,
    *,
    shutdown: trio.Event,
    meter: ServerMeter | None = None,
    new_request_id: Callable[[], str] | None = None,
    shedder: Shedder | None = None,
    task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` until `shutdown` is set and the requests on their way have ended or `grace_s` has passed.

    `task_status.started` gets the bound addresses (`host:port`, `[v6]:port`), in the order of `settings.bind`, when all
    of them listen. `meter` counts, and holds the fault hook. `new_request_id` names refusals whose request has no id.
    `shedder` refuses creates while the service is overloaded.
    Raises `ConfigError` if an address cannot be bound or the TLS files are no good.
    """
    server = ApiServer(app, settings, meter or ServerMeter(), new_request_id or _random_id, shedder)
    await server.serve(shutdown, task_status)


def _random_id() -> str:
    return secrets.token_hex(16)


class ApiServer:
    """One run of the server. Its sets of connections are changed by the connections' own tasks, through its methods."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        meter: ServerMeter,
        new_request_id: Callable[[], str],
        shedder: Shedder | None = None,
    ) -> None:
        self.settings = settings
        self.meter = meter
        self.new_request_id = new_request_id
        self._shedder = shedder
        self.asgi = ASGIWrapper(app)
        self.hypercorn = _hypercorn_config(settings)
        self.context = WorkerContext(None)
        self._cap = connection_cap(settings)
        self._open: set[Connection] = set()
        self._silent: dict[Connection, None] = {}  # FRESH and IDLE, the one silent longest first
        self._room = trio.Event()  # replaced when set: a connection ended
        meter.connections_cap = self._cap

    async def serve(self, shutdown: trio.Event, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        """As `serve_api`."""
        tls = tls_context(self.settings)
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(listener) for listener in await open_listeners(self.settings)]
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, tls, connections)
                    task_status.started(tuple(bound_address(listener) for listener in listeners))
                    await shutdown.wait()
                    await self.context.terminated.set()  # from here on answers say Connection: close
                    connections.cancel_scope.deadline = trio.current_time() + self.settings.grace_s
                    accepting.cancel_scope.cancel()
                self._accept_the_queue(listeners, tls, connections)
                stack.close()
                for connection in list(self._open):
                    connection.drain()

    # --- accepting -----------------------------------------------------------------------------------------------

    async def _accept(
        self, listener: stdlib_socket.socket, tls: ssl.SSLContext | None, connections: trio.Nursery
    ) -> None:
        door = trio.socket.from_stdlib_socket(listener)
        pause_s = _BACKOFF_S[0]
        while True:
            await self._wait_for_room(listener)
            try:
                socket, _ = await door.accept()
            except OSError as error:
                if error.errno in _LISTENER_GONE:
                    raise
                if error.errno in _EXHAUSTED:
                    self.meter.fault("accept", error)
                    await trio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _BACKOFF_S[1])
                continue  # else: the client is gone already, accept(2)
            pause_s = _BACKOFF_S[0]
            self._admit(socket, tls, connections)
            self._accept_the_queue([listener], tls, connections, ACCEPT_AT_ONCE)

    def _accept_the_queue(
        self,
        listeners: list[stdlib_socket.socket],
        tls: ssl.SSLContext | None,
        connections: trio.Nursery,
        most: int | None = None,
    ) -> None:
        """Take in, without waiting, who already has a connection in the kernel's queue; at most `most` of each."""
        for listener in listeners:
            for _ in itertools.count() if most is None else range(most):
                if len(self._open) >= self._cap:
                    break
                try:
                    socket, _ = listener.accept()
                except OSError:
                    break  # BlockingIOError: the queue is empty; else it must wait, and there is no time left
                self._admit(trio.socket.from_stdlib_socket(socket), tls, connections)

    def _admit(self, socket: trio.socket.SocketType, tls: ssl.SSLContext | None, connections: trio.Nursery) -> None:
        connection = Connection(self, socket, tls)
        self._open.add(connection)
        self._silent[connection] = None
        self.meter.connections_open += 1
        self.meter.connections_total += 1
        connections.start_soon(self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self._silent.pop(connection, None)
            self.meter.connections_open -= 1
            self._room.set()
            self._room = trio.Event()

    async def _wait_for_room(self, listener: stdlib_socket.socket) -> None:
        """Return when one more connection may be open. At the cap, and only if someone waits, evict the silent."""
        if len(self._open) < self._cap:
            return
        await trio.lowlevel.wait_readable(listener)
        while len(self._open) >= self._cap:
            room = self._room
            wait_s = self._evict()
            with trio.move_on_after(wait_s):
                await room.wait()

    def _evict(self) -> float:
        """Cut the connection that has been silent longest. Returns how long, in s, to wait before the next try."""
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return math.inf
        silent_s = trio.current_time() - oldest.since
        if silent_s < self.settings.evict_after_s:
            return self.settings.evict_after_s - silent_s
        self.busy(oldest)
        self.meter.cut_idle += 1
        oldest.cut()
        return math.inf

    # --- what connections ask and tell ---------------------------------------------------------------------------

    def shed(self, data: bytes) -> bytes | None:
        """The refusal of what a connection at rest received, or None: serve it."""
        if self._shedder is None or self.context.terminated.is_set():
            return None
        refusal = self._shedder.answer(data, self.settings, self.meter, trio.current_time())
        return None if refusal is None else refusal(self.new_request_id())

    def idle(self, connection: Connection) -> None:
        """`connection` waits for its next request."""
        self._silent[connection] = None

    def busy(self, connection: Connection) -> None:
        """`connection` waits for the next request no more."""
        self._silent.pop(connection, None)


def _hypercorn_config(settings: ServerSettings) -> Config:
    """Hypercorn without its logs, its banner and its limits: ours stand before them."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = settings.max_head_bytes
    config.keep_alive_max_requests = 100_000
    return config
