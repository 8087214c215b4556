"""Where a handler runs: its faults end in its task, and nobody can wait for a handler that is gone.

Hypercorn's TaskGroup gives a handler a bounded channel of body messages and sends `http.disconnect` through it. A
handler that answers with ten messages unread leaves the reader waiting for room for ever, and itself too, when the end
of its own response wants to add the disconnect. Here the disconnect closes the channel, and the channel closes with the
handler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope
from quart import wrappers

from taskcenter.http.limits import ServerMeter

# Ends a handler whose client has left, from Quart 0.23 on (Python 3.12 and newer); Quart 0.22 only cancels it.
CLIENT_LEFT: Final[tuple[type[Exception], ...]] = tuple(
    filter(None, [getattr(wrappers, "ClientDisconnectedError", None)])
)
_PASSES: Final = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)


def split_fault(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """`(what must be raised on, what ends here as a fault)`, alone or out of a group.

    Cancellation and the interrupt go on. A client that has left is nobody's fault.
    """
    if isinstance(error, BaseExceptionGroup):
        passing, rest = error.split(_PASSES)
        return passing, None if rest is None else rest.split(CLIENT_LEFT)[1]
    if isinstance(error, _PASSES):
        return error, None
    return None, None if isinstance(error, CLIENT_LEFT) else error


class AppTasks(TaskGroup):
    """A connection's nursery. A handler's exceptions are counted as `handler`; cancellation goes on."""

    def __init__(self, meter: ServerMeter) -> None:
        super().__init__()
        self._meter = meter

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the handler; returns what gives it messages. `http.disconnect` closes the channel, and never waits."""
        to_app, from_client = trio.open_memory_channel[ASGIReceiveEvent](config.max_app_queue_size)

        async def put(event: ASGIReceiveEvent) -> None:
            if event["type"] == "http.disconnect":
                to_app.close()
                return
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await to_app.send(event)  # else: the handler has ended, or was told of the disconnect

        assert self._nursery is not None  # set by __aenter__, and requests come after it
        self._nursery.start_soon(self._run_app, app, scope, from_client, send)
        return put

    async def _run_app(
        self,
        app: AppWrapper,
        scope: Scope,
        from_client: trio.MemoryReceiveChannel[ASGIReceiveEvent],
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> None:
        async def receive() -> ASGIReceiveEvent:
            try:
                return await from_client.receive()
            except trio.EndOfChannel:
                return {"type": "http.disconnect"}

        with from_client:
            try:
                await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
            except BaseException as error:  # noqa: BLE001 - cancellation is split off and raised on
                passing, fault = split_fault(error)
                if fault is not None:
                    self._meter.fault("handler", fault)
                if passing is not None:
                    raise passing from None
        await send(None)
