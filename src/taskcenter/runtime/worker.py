"""A worker's side of `serve --processes N`: it follows its parent, tells what it counted, and asks for everybody's.

Its stdin is a socket to the parent (`worker_link`). The end of that socket tells the worker that the parent is gone,
however it went. (`PR_SET_PDEATHSIG` would not do: the kernel sends it when the *thread* that started the worker ends,
and trio starts processes in threads that it lets end after 10 idle seconds.)
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

import trio

from taskcenter import log
from taskcenter.errors import Overloaded
from taskcenter.metrics import Metrics
from taskcenter.runtime.merged_metrics import snapshot
from taskcenter.runtime.worker_link import Link, NoAnswer

WORKER: Final = "TASKCENTER_WORKER_OF"  # the parent's pid, in a worker's environment
NUMBER: Final = "TASKCENTER_WORKER_NUMBER"
STDIN: Final = 0
STDOUT: Final = 1
ORPHAN_S: Final = 10.0  # beyond the grace
EXPOSITION_S: Final = 8.0  # a scraper waits for 10
FAREWELL_S: Final = 1.0


def is_worker() -> bool:
    return WORKER in os.environ


def worker_number() -> int:
    return int(os.environ[NUMBER])


def log_to_parent(level: str, fmt: str | None) -> None:
    """Have every line of this worker bear its number and go to the parent."""
    log.configure(level, fmt, sink=log.Lines(STDOUT, worker=worker_number()), worker=worker_number())


def follow_parent(grace_s: float) -> None:
    """End as on SIGTERM when the parent ends, however it does; and at once when that takes longer than the grace."""
    threading.Thread(target=_end_with_parent, args=(grace_s,), name="follow-parent", daemon=True).start()


def _end_with_parent(grace_s: float) -> None:
    poll = select.poll()
    poll.register(STDIN, select.POLLRDHUP)  # and POLLHUP, which is always told; not what there is to read
    poll.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s + ORPHAN_S)
    os._exit(1)


class Worker:
    """This process as one of several. `run` it from before the engine starts until all else has ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._link: Link | None = None
        self._serving, self._wanted = 0, 0  # as the parent told last

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, or until the parent is gone."""
        self._link = Link(trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(STDIN)))), self)
        task_status.started()
        await self._link.run()

    async def serving(self) -> None:
        """Tell the parent that this worker takes requests."""
        with suppress(NoAnswer):  # the parent is gone: this worker is about to end
            await self._ask("serving", None, FAREWELL_S)

    async def farewell(self) -> None:
        """Leave the totals with the parent; a parent that does not take them is not waited for."""
        try:
            await self._ask("last", snapshot(self._metrics), FAREWELL_S)
        except NoAnswer:
            log.get("worker").warning("the last counts were not taken")

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Everybody's metrics, and their content type. Raises `Overloaded` when the parent does not answer."""
        try:
            text, content_type = await self._ask("metrics", accept, EXPOSITION_S)
        except NoAnswer:
            raise Overloaded("the metrics of the other processes did not come in time") from None
        return text.encode(), content_type

    async def _ask(self, what: str, argument: Any, timeout_s: float) -> Any:
        if self._link is None:
            raise NoAnswer(what)
        return await self._link.ask(what, argument, timeout_s=timeout_s)

    def health(self) -> str:
        """`ok` when all the processes serve."""
        if self._serving >= self._wanted:
            return "ok"
        return f"degraded: {self._serving} of {self._wanted} processes serve"

    async def answer(self, what: str, argument: Any) -> Any:
        """For the parent: `snapshot`, or `ping`, whose answer says that the loop runs."""
        return snapshot(self._metrics) if what == "snapshot" else None

    def told(self, what: str, value: Any) -> None:
        """By the parent: how many serve, of how many."""
        if what == "serving":
            self._serving, self._wanted = value
