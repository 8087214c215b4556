"""A store's verb that can be held up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class Gate:
    """A store's verb that waits at a gate, before or after it does its work; what it did is the real store's doing."""

    def __init__(self, verb: Callable[..., Awaitable[Any]], *, hold: str) -> None:
        self._verb = verb
        self._hold = hold
        self.reached = trio.Event()
        self.open = trio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._hold == "before":
            await self._wait()
        result = await self._verb(*args, **kwargs)
        if self._hold == "after":
            await self._wait()
        return result

    async def _wait(self) -> None:
        self.reached.set()
        await self.open.wait()
