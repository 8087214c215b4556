"""trio in virtual time, with all that is left to chance drawn from a seed."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import structlog
import trio
import trio._core._run as scheduler
from trio.testing import MockClock

from taskcenter.runtime import load

T = TypeVar("T")
Note = Callable[[str, str], None]  # who, what
PROBE_S: Final = 5.0  # nothing is late for the processor's sake here, and each look costs as much as a statement


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    former = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in former.items():
            setattr(owner, name, value)


@contextmanager
def _logged_to(note: Note) -> Iterator[None]:
    """Warnings and errors go to `note`, the rest nowhere."""

    def noting(_: Any, level: str, event: MutableMapping[str, Any]) -> NoReturn:
        fault = event.get("exc_info")
        fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"event", "exc_info"})
        note("log", f"{level}: {event['event']} {fields} {'' if fault is None else repr(fault)}")
        raise structlog.DropEvent

    former = structlog.get_config()
    level = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(processors=[noting], wrapper_class=level, cache_logger_on_first_use=False)  # for this run alone
    try:
        yield
    finally:
        structlog.configure(**former)


def run_seeded(seed: int, main: Callable[[], Awaitable[T]], note: Note) -> T:
    """`trio.run(main)`; the same seed, the same order of steps, whatever the machine does."""
    with _logged_to(note), _replaced(load, PROBE_S=PROBE_S):
        with _replaced(scheduler, _ALLOW_DETERMINISTIC_SCHEDULING=True, _r=random.Random(seed)):
            return trio.run(main, clock=MockClock(autojump_threshold=0))
