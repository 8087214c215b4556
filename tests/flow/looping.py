"""The served app in a loop of its own, for tests that are synchronous themselves."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from tests.http.api_kit import Api, serve

T = TypeVar("T")


class Loop:
    """The served app, in a thread of its own; `do` runs one call there."""

    def __init__(self, api: Api, token: trio.lowlevel.TrioToken) -> None:
        self.api = api
        self._token = token

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(work, trio_token=self._token)


@contextmanager
def looping(database_url: str) -> Iterator[Loop]:
    made: list[Loop] = []
    ready, over = threading.Event(), trio.Event()

    async def main() -> None:
        async with serve(database_url, in_loop=database_url.startswith("sqlite")) as api:
            made.append(Loop(api, trio.lowlevel.current_trio_token()))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield made[0]
    finally:
        trio.from_thread.run_sync(over.set, trio_token=made[0]._token)
        thread.join(30)
