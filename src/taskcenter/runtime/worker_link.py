"""What a parent and one of its workers say to each other, over a socket pair that is the worker's stdin.

Both ends are the same: each may ask and tell. A message is JSON with its length in four bytes before it. The reader
never waits for the writer, so that two ends that both send much do not wait for each other; one task writes, so that
an asker who gives up leaves no half message. The end of the stream is the end of the other process.
"""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from typing import Any, Final, Protocol

import trio

LENGTH: Final = struct.Struct(">I")
QUEUE: Final = 64
CHUNK: Final = 256 * 1024


class NoAnswer(Exception):
    """The other end is gone, or did not answer in time."""


class Answers(Protocol):
    """What an end does with what it hears."""

    async def answer(self, what: str, argument: Any) -> Any:
        """Answer a question; what is returned is sent back as JSON."""

    def told(self, what: str, value: Any) -> None:
        """Take a message that wants no answer."""


class _Waiting:
    """One question under way."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.value: Any = None
        self.lost = False


class Link:
    """One end. `run` it; then `ask` and `tell`."""

    def __init__(self, stream: trio.SocketStream, answers: Answers) -> None:
        self._stream = stream
        self._answers = answers
        self._out, self._to_write = trio.open_memory_channel[bytes](QUEUE)
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}

    async def run(self) -> None:
        """Until the other end is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                async for message in self._read():
                    self._take(message, nursery)
                nursery.cancel_scope.cancel()
        finally:
            for waiting in self._waiting.values():
                waiting.lost = True
                waiting.answered.set()
            await trio.aclose_forcefully(self._stream)

    async def ask(self, what: str, argument: Any = None, *, timeout_s: float) -> Any:
        """The other end's answer. Raises `NoAnswer`."""
        number, waiting = next(self._numbers), _Waiting()
        self._waiting[number] = waiting
        try:
            with trio.move_on_after(timeout_s), suppress(trio.BrokenResourceError):
                await self._out.send(_packed("ask", number, what, argument))
                await waiting.answered.wait()
        finally:
            del self._waiting[number]
        if waiting.lost or not waiting.answered.is_set():
            raise NoAnswer(what)
        return waiting.value

    def tell(self, what: str, value: Any) -> None:
        """Say it, unless the other end is gone or reads nothing: both are seen elsewhere."""
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._out.send_nowait(_packed("tell", what, value))

    async def _write(self) -> None:
        async with self._to_write:  # closed with it: who asks after the end hears so
            async for data in self._to_write:
                try:
                    await self._stream.send_all(data)
                except trio.BrokenResourceError:
                    return  # the reader sees the end too, after what was sent before it

    async def _read(self) -> AsyncIterator[list[Any]]:
        buffer = bytearray()
        while True:
            try:
                chunk = await self._stream.receive_some(CHUNK)
            except trio.BrokenResourceError:
                return
            if not chunk:
                return
            buffer += chunk
            while len(buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
                if len(buffer) < end:
                    break
                yield json.loads(buffer[LENGTH.size : end])
                del buffer[:end]

    def _take(self, message: list[Any], nursery: trio.Nursery) -> None:
        kind, *rest = message
        if kind == "ask":
            nursery.start_soon(self._reply, *rest)
        elif kind == "tell":
            self._answers.told(*rest)
        elif (waiting := self._waiting.get(rest[0])) is not None:
            waiting.value = rest[1]
            waiting.answered.set()

    async def _reply(self, number: int, what: str, argument: Any) -> None:
        answer = await self._answers.answer(what, argument)
        with suppress(trio.BrokenResourceError):  # nobody waits for it any more
            await self._out.send(_packed("answer", number, answer))


def _packed(*message: Any) -> bytes:
    data = json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data
