"""Structured logs: one event is one line of JSON on stdout, or a coloured line on a terminal.

Control characters, line separators and halves of surrogate pairs never reach the output raw, wherever they stand, and
values under a name that sounds like a secret are replaced, at any depth. Attempt lines are wide: every field of the
attempt in one event.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from functools import lru_cache
from typing import Any, Final, Protocol, TextIO, cast

import structlog
from structlog.typing import EventDict, WrappedLogger

SECRET_NAMES: Final = re.compile(
    r"(?i)(secret|token|password|authorization|api[_-]?key$|cookie|encryption_keys|private_?key|bearer)"
)
HIDDEN: Final = "***"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Sink(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int:
        """Take a line with its end."""

    def flush(self) -> None:
        """Hold nothing back."""


def configure(level: str = "info", fmt: str | None = None, *, sink: Sink | None = None, **fields: Any) -> None:
    """Set up structlog and the standard library's logging. `fmt`: `json`, `console`, or by whether stdout is a
    terminal. `sink`: instead of stdout. `fields`: borne by every event.
    """
    console = fmt == "console" or (fmt is None and sys.stdout.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()) if console else _render_json
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([_with(fields)] if fields else []),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            structlog.processors.format_exc_info,
            escape_controls,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", sink or _Stdout())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_Forward()], force=True)


def get(name: str) -> Any:
    return structlog.get_logger(room=name)  # bound at its first use, after `configure`


def _with(fields: dict[str, Any]) -> structlog.typing.Processor:
    return lambda _, __, event: {**event, **fields}


def hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if value is not None and _names_a_secret(name):
            event[name] = HIDDEN
        elif isinstance(value, dict | list | tuple):
            event[name] = _hidden_inside(value)
    return event


def _hidden_inside(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: HIDDEN if inner is not None and _names_a_secret(str(name)) else _hidden_inside(inner)
            for name, inner in value.items()
        }
    return [_hidden_inside(inner) for inner in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return SECRET_NAMES.search(name) is not None


def escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = (_BUT_LINES if name == "exception" else _CONTROL).sub(_escaped, value)
    return event


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


_encode: Final = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """What JSON leaves raw in its strings is put into JSON's own escapes: what is read stays the same."""
    line = _encode(event)
    return line if line.isprintable() else _CONTROL.sub(_escaped, line)


class Lines:
    """Whole lines to a descriptor that may refuse them: a full pipe that does not wait, a full disk, nobody who reads.

    Nothing of that holds up or ends the service: what is refused is dropped, counted, and told of when there is room.
    """

    def __init__(self, descriptor: int, **fields: Any) -> None:
        """`fields`: borne by the line that tells of lost ones."""
        self._descriptor = descriptor
        self._fields = fields
        self._rest = b""  # of a line that was taken in part
        self.lost = 0

    def write(self, text: str) -> int:
        """Never fails; waits only where the descriptor does."""
        told = b""
        if self.lost:
            told = _encode({"event": "log lines lost", "lines": self.lost, **self._fields}).encode() + b"\n"
        if self._put(self._rest):
            if told and self._put(told):
                self.lost = 0
            if not self._rest and self._put(text.encode("utf-8", "backslashreplace")):
                return len(text)
        self.lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing is held back but what was refused."""

    def _put(self, data: bytes) -> bool:
        """False: nothing of it was taken. Of what was taken in part the rest goes first the next time."""
        if not data:
            return True
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            return False
        self._rest = data[written:]
        return True


class _Stdout:
    """Whatever stdout is at that moment: a logger is bound once, for good, and stdout may be replaced."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


class _Forward(logging.Handler):
    """Lines of libraries that use the standard library's logging, in our format."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), room=record.name)
