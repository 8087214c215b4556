"""Receivers of every mood: those that answer, by the path of the URL, and those that do not know how to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import trio
from tests.actors import receivers
from tests.actors.test_transport_moods import GALLERY, Mood
from tests.flow.kit import Answer, Call

BIG = json.dumps({"action": "none", "filler": "x" * 100_000}).encode()


def _first(call: Call, now: Answer, later: Answer) -> Answer:
    return now if call.headers["x-taskcenter-attempt"] == "1" else later


class Answers:
    """What a receiver answers to a callback whose URL ends in `/<name>`; each of these tasks ends within some 5 s."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._of: dict[str, Callable[[Call], Answer]] = {
            "well": lambda call: Answer(),
            "slow": lambda call: Answer(delay_s=self._rng.uniform(0.05, 1)),
            "big": lambda call: Answer(body=BIG),
            "mended": lambda call: _first(call, Answer(500), Answer()),
            "ill": lambda call: Answer(500, b"no"),
            "gone": lambda call: Answer(410),
            "unknown": lambda call: Answer(404, b"<html>"),
            "moved": lambda call: Answer(302, headers={"Location": "/elsewhere"}),
            "asks again": lambda call: _first(call, Answer(body=b'{"action": "retry"}'), Answer()),
            "says stop": lambda call: Answer(body=b'{"action": "stop", "reason": "enough"}'),
            "puts off": lambda call: self._either(Answer(503, headers={"Retry-After": "1"}), Answer()),
            "puts off in words": lambda call: self._either(
                Answer(body=b'{"action": "retry", "retry_after": 1}'), Answer()
            ),
        }  # fmt: skip
        self.paths = {name: name.replace(" ", "-") for name in self._of}
        self._by_path = {f"/{path}": self._of[name] for name, path in self.paths.items()}

    def __call__(self, call: Call) -> Answer:
        return self._by_path[call.path](call)

    def any_path(self) -> str:
        return self._rng.choice(list(self.paths.values()))

    def _either(self, one: Answer, other: Answer) -> Answer:
        return one if self._rng.random() < 0.5 else other


@asynccontextmanager
async def gallery() -> AsyncIterator[dict[str, str]]:
    """The URL of a receiver of each bad mood: no answer of theirs is one."""
    urls: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        for name, (mood, _, _) in GALLERY.items():
            listeners = await nursery.start(
                partial(trio.serve_tcp, partial(_meet, mood), 0, host="127.0.0.1", backlog=2048)
            )
            urls[name] = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/hook"
        yield urls
        nursery.cancel_scope.cancel()


async def _meet(mood: Mood, stream: trio.SocketStream) -> None:
    try:
        await mood(receivers.Receiver(0), stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # the service has hung up
    finally:
        await trio.aclose_forcefully(stream)
