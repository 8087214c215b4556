"""One stream of lines from several processes: each worker has a pipe, and the parent passes its lines on whole.

A worker never waits for its log: its pipe is not blocking. What does not fit while the parent passes nothing on (its
reader is stuck, it is stopped, it is gone) is dropped, counted, and told of as soon as there is room. The parent writes
in a thread, one block of whole lines at a time, so that a stuck reader does not keep it from passing on signals.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import Final

import trio

PIPE_BYTES: Final = 1024 * 1024
GATHER_S: Final = 0.01  # between two looks into a pipe: a block holds what came meanwhile
LONGEST: Final = 1024 * 1024  # of one line; a longer one is cut
OWN_LINES: Final = 1000


def worker_pipe(*, blocking: bool) -> tuple[int, int]:
    """Descriptors: the parent's end to read, the worker's end to write."""
    read, write = os.pipe()
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a user may have only so much of it: then it is as large as it is
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.set_blocking(write, blocking)
    return read, write


class Output:
    """The parent's end: its own stdout or stderr, for one writer at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._writing = trio.Lock()
        self._own, self._told = trio.open_memory_channel[str](OWN_LINES)

    async def pass_on(self, descriptor: int, mark: bytes = b"") -> None:
        """Every line of a worker's pipe, until its end; `mark` before each."""
        rest = b""
        async with trio.lowlevel.FdStream(descriptor) as pipe:
            while chunk := await pipe.receive_some(PIPE_BYTES):
                block, newline, rest = (rest + chunk).rpartition(b"\n")
                if len(rest) > LONGEST:
                    block, newline, rest = block + newline + rest, b"\n", b""
                await self._write(block + newline, mark)
                await trio.sleep(GATHER_S)
        if rest:
            await self._write(rest + b"\n", mark)

    async def pass_own(self) -> None:
        """The parent's own lines, among the others."""
        async for line in self._told:
            await self._write(line.encode("utf-8", "backslashreplace"), b"")

    def write(self, text: str) -> int:
        """A line of the parent's own; what finds no room is dropped."""
        with contextlib.suppress(trio.WouldBlock):
            self._own.send_nowait(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """No further line of the parent's own: `pass_own` ends with the last."""
        self._own.close()

    async def _write(self, block: bytes, mark: bytes) -> None:
        if not block:
            return
        if mark:
            block = b"".join(mark + line + b"\n" for line in block[:-1].split(b"\n"))
        async with self._writing:
            await trio.to_thread.run_sync(self._write_all, block, abandon_on_cancel=True)

    def _write_all(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError:  # nobody reads it any more, or its disk is full: the service goes on without a log
                return
