"""`serve --processes N`: a parent that starts N workers on one port and keeps them alive. The parent serves nothing.

Workers are whole processes of their own, each an instance with its own lease; they share the port by SO_REUSEPORT and
the database by leases. One that dies is started again, after a pause that grows while it keeps dying at once. SIGTERM
and SIGINT are passed on, and the parent ends when the last worker has.

A worker's stdin is a pipe that the parent holds open and never writes to: its end tells the worker that the parent is
gone, however it went. (`PR_SET_PDEATHSIG` would not do: the kernel sends it when the *thread* that started the worker
ends, and trio starts processes in threads that it lets end after 10 idle seconds.)
"""

from __future__ import annotations

import os
import signal
import subprocess  # nosec B404  # starts this program itself, no shell
import sys
import threading
from collections.abc import Mapping
from typing import Final

import trio

from taskcenter import log

WORKER: Final = "TASKCENTER_WORKER_OF"  # the parent's pid, in a worker's environment
FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
STDIN: Final = 0
ENDED_AS_TOLD: Final = (0, -signal.SIGTERM, -signal.SIGINT)  # by the signal itself: it had not begun to serve


def is_worker() -> bool:
    return WORKER in os.environ


def follow_parent() -> None:
    """In a worker: end as on SIGTERM when the parent ends, however it does."""
    threading.Thread(target=_end_with_stdin, name="follow-parent", daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(STDIN, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def serve_processes(arguments: list[str], processes: int) -> int:
    """Run `taskcenter serve <arguments>` `processes` times. The exit status: 0 if all workers ended well when told
    to.
    """
    return trio.run(_Parent(arguments, processes).run)


class _Parent:
    def __init__(self, arguments: list[str], processes: int) -> None:
        self._command = [sys.executable, "-m", "taskcenter", "serve", *arguments]
        self._processes = processes
        self._alive: set[trio.Process] = set()
        self._stopping = trio.Event()
        self._failed = False
        self._log = log.get("processes")

    async def run(self) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_signals)
            async with trio.open_nursery() as workers:
                for number in range(self._processes):
                    workers.start_soon(self._keep_alive, number, {**os.environ, WORKER: str(os.getpid())})
            nursery.cancel_scope.cancel()
        return 1 if self._failed else 0

    async def _pass_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                self._stopping.set()
                for worker in list(self._alive):
                    worker.send_signal(number)

    async def _keep_alive(self, number: int, environment: Mapping[str, str]) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = trio.current_time()
            worker = await trio.lowlevel.open_process(self._command, env=environment, stdin=subprocess.PIPE)
            self._alive.add(worker)
            if self._stopping.is_set():  # the signal came while it was being started
                worker.terminate()
            status = await worker.wait()
            self._alive.discard(worker)
            if worker.stdin is not None:
                await worker.stdin.aclose()
            if self._stopping.is_set():
                self._failed = self._failed or status not in ENDED_AS_TOLD
                return
            self._log.error("worker ended", worker=number, pid=worker.pid, status=status)
            if trio.current_time() - began > STABLE_S:
                pause_s = FIRST_PAUSE_S
            with trio.move_on_after(pause_s):
                await self._stopping.wait()
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
