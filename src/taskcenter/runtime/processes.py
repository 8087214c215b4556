"""`serve --processes N`: a parent that starts N workers on one port and keeps them alive. The parent serves nothing.

Workers are whole processes of their own, each an instance with its own lease; they share the port by SO_REUSEPORT and
the database by leases. What they share beside that goes through the parent, over one socket each (`worker_link`): any
of them answers `/metrics` for all (`merged_metrics`), each knows how many of them serve, and their lines are one log
(`log_stream`).

One that dies is started again, after a pause that grows while it keeps dying at once; one whose loop answers no
question for a while is killed, for the kernel goes on giving it connections. SIGTERM and SIGINT are passed on,
and the parent ends when the last worker has; who overstays the grace is killed. The workers have a process group
each, so that Ctrl-C in a terminal reaches them once, through the parent.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import trio
from prometheus_client.exposition import choose_encoder

from taskcenter import log
from taskcenter.config import Settings
from taskcenter.metrics import ParentMetrics
from taskcenter.runtime.log_stream import Output, worker_pipe
from taskcenter.runtime.merged_metrics import Member, MergedMetrics
from taskcenter.runtime.worker import NUMBER, WORKER
from taskcenter.runtime.worker_link import Link, NoAnswer

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
OVERSTAY_S: Final = 10.0  # beyond the grace
LAST_LINES_S: Final = 5.0
SNAPSHOT_S: Final = 2.0
PING_S: Final = 2.5
MISSED_PINGS: Final = 6
STDOUT, STDERR = 1, 2
ENDED_AS_TOLD: Final = (0, -signal.SIGTERM, -signal.SIGINT)  # by the signal itself: it had not begun to serve
REFUSED_TO_START: Final = (2, 3)  # a setting or the schema: no second try mends it


def serve_processes(arguments: list[str], processes: int, settings: Settings, addresses: tuple[str, ...]) -> int:
    """Run `taskcenter serve <arguments>` `processes` times, on `addresses`. The exit status: 0 if all workers ended
    well when told to.
    """
    environment = {**os.environ, WORKER: str(os.getpid()), "TASKCENTER_BIND": ",".join(addresses)}
    if settings.log_format is None and sys.stdout.isatty():
        environment["TASKCENTER_LOG_FORMAT"] = "console"
    command = [sys.executable, "-m", "taskcenter", "serve", *arguments]
    parent = Parent(command, environment, processes, settings.shutdown_grace)
    log.configure(settings.log_level, settings.log_format, sink=parent.out)
    return trio.run(parent.run)


@dataclass(slots=True, eq=False)
class Running:
    """A worker that runs."""

    number: int
    process: trio.Process
    member: Member
    link: Link = field(init=False)
    serving: bool = False


class _Heard:
    """What a worker says."""

    def __init__(self, parent: Parent, worker: Running) -> None:
        self._parent = parent
        self._worker = worker

    async def answer(self, what: str, argument: Any) -> Any:
        if what == "metrics":
            return await self._parent.exposition(argument)
        if what == "serving":
            return self._parent.serves(self._worker)
        return self._worker.member.update(argument)  # its last counts

    def told(self, what: str, value: Any) -> None:
        """Nothing: a worker asks, or answers."""


class Parent:
    """`run` it, with the log configured to go to `out`."""

    def __init__(self, command: list[str], environment: Mapping[str, str], processes: int, grace_s: float) -> None:
        self._command = command
        self._environment = environment
        self._processes = processes
        self._grace_s = grace_s
        self.out, self._err = Output(STDOUT), Output(STDERR)
        self._log = log.get("processes")
        self._running: set[Running] = set()
        self._stopping = trio.Event()
        self._served = False
        self._status = 0
        self._metrics = ParentMetrics()
        self.merged = MergedMetrics(self._metrics.registry)
        self._metrics.workers.labels("wanted").set(processes)
        self._rounds, self._asking = 0, trio.Lock()

    async def run(self) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.out.pass_own)
            async with trio.open_nursery() as signals:
                signals.start_soon(self._pass_signals)
                signals.start_soon(self._end_overstayers)
                async with trio.open_nursery() as workers:
                    for number in range(self._processes):
                        self._metrics.worker_restarts.labels(str(number))
                        workers.start_soon(self._keep_alive, number)
                signals.cancel_scope.cancel()
            self._log.info("all processes have ended", status=self._status)
            self.out.close()
            nursery.cancel_scope.deadline = trio.current_time() + LAST_LINES_S
        return self._status

    async def _pass_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping.set()
        for worker in list(self._running):
            worker.process.send_signal(number)

    async def _end_overstayers(self) -> None:
        await self._stopping.wait()
        await trio.sleep(self._grace_s + OVERSTAY_S)
        for worker in list(self._running):
            self._log.error("worker did not end", worker=worker.number, pid=worker.process.pid)
            worker.process.kill()

    async def _keep_alive(self, number: int) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = trio.current_time()
            try:
                status = await self._run_worker(number)
            except OSError as error:  # no memory or no process left: as if it had ended at once
                self._log.error("worker cannot be started", worker=number, error=str(error))
                status = 1
            if self._stopping.is_set():
                self._status = self._status or int(status not in ENDED_AS_TOLD)
                return
            if status in REFUSED_TO_START and not self._served:
                self._status = status
                self._stop(signal.SIGTERM)
                return
            self._log.error("worker ended", worker=number, status=status, again_in_s=pause_s)
            if trio.current_time() - began > STABLE_S:
                pause_s = FIRST_PAUSE_S
            with trio.move_on_after(pause_s):
                await self._stopping.wait()
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
            self._metrics.worker_restarts.labels(str(number)).inc()

    async def _run_worker(self, number: int) -> int:
        """Its exit status, once its last line has been passed on."""
        async with trio.open_nursery() as nursery:
            worker = await self._start(number, nursery)
            self._running.add(worker)
            if self._stopping.is_set():  # the signal came while it was being started
                worker.process.terminate()
            async with trio.open_nursery() as alive:
                alive.start_soon(self.watch, worker)
                status = await worker.process.wait()
                alive.cancel_scope.cancel()
            self._running.discard(worker)
            nursery.cancel_scope.deadline = trio.current_time() + LAST_LINES_S
        worker.member.end()
        self._tell_how_many_serve()
        return status

    async def watch(self, worker: Running) -> None:
        """Kill it when its loop has not answered for a while. A pause of this process counts as one missed answer."""
        missed = 0
        while missed < MISSED_PINGS:
            await trio.sleep(PING_S)
            try:
                await worker.link.ask("ping", timeout_s=PING_S)
                missed = 0
            except NoAnswer:
                missed += worker.serving  # before that it may be busy without a loop
        self._log.error("worker does not answer", worker=worker.number, pid=worker.process.pid)
        worker.process.kill()

    async def _start(self, number: int, nursery: trio.Nursery) -> Running:
        """Start it; its pipes and its socket are read in `nursery` until they end with it. Raises `OSError`."""
        with ExitStack() as ours, ExitStack() as theirs:
            mine, its = socket.socketpair()
            ours.callback(mine.close)
            theirs.callback(its.close)
            out, its_out = worker_pipe(blocking=False)
            ours.callback(os.close, out)
            theirs.callback(os.close, its_out)
            err, its_err = worker_pipe(blocking=True)
            ours.callback(os.close, err)
            theirs.callback(os.close, its_err)
            process = await trio.lowlevel.open_process(
                self._command,
                env={**self._environment, NUMBER: str(number)},
                stdin=its.fileno(),
                stdout=its_out,
                stderr=its_err,
                process_group=0,
            )
            ours.pop_all()
        worker = Running(number, process, self.merged.join(number))
        worker.link = Link(trio.SocketStream(trio.socket.from_stdlib_socket(mine)), _Heard(self, worker))
        nursery.start_soon(worker.link.run)
        nursery.start_soon(self.out.pass_on, out)
        nursery.start_soon(self._err.pass_on, err, f"worker {number}: ".encode())
        return worker

    def serves(self, worker: Running) -> None:
        """It takes requests."""
        worker.serving = self._served = True
        self._tell_how_many_serve()

    def _tell_how_many_serve(self) -> None:
        serving = sum(worker.serving for worker in self._running)
        self._metrics.workers.labels("serving").set(serving)
        for worker in self._running:
            worker.link.tell("serving", [serving, self._processes])

    async def exposition(self, accept: str) -> list[str]:
        """Everybody's metrics and their content type. Who asks while others are being asked for waits for a new round,
        and all who wait share it.
        """
        wanted = self._rounds + 1
        async with self._asking:
            if self._rounds < wanted:
                self._rounds += 1
                async with trio.open_nursery() as nursery:
                    for worker in self._running:
                        nursery.start_soon(_ask_for_counts, worker)
        encode, content_type = choose_encoder(accept)
        return [encode(self.merged).decode(), content_type]


async def _ask_for_counts(worker: Running) -> None:
    """One that does not answer in time is shown as it was."""
    with suppress(NoAnswer):
        worker.member.update(await worker.link.ask("snapshot", timeout_s=SNAPSHOT_S))
