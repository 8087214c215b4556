"""Structured logs: one event is one line of JSON on stdout, or a coloured line on a terminal.

Control characters never reach the output raw (JSON escapes them; the console renderer quotes), and values under a name
that sounds like a secret are replaced. Attempt lines are wide: every field of the attempt in one event.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from functools import lru_cache
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

SECRET_NAMES: Final = re.compile(r"(?i)(secret|token|password|authorization|api_?key$|cookie|encryption_keys)")
HIDDEN: Final = "***"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def configure(level: str = "info", fmt: str | None = None) -> None:
    """Set up structlog and the standard library's logging. `fmt`: `json`, `console`, or by whether stdout is a
    terminal.
    """
    console = fmt == "console" or (fmt is None and sys.stdout.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty()) if console else _render_json
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            structlog.processors.format_exc_info,
            escape_controls,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_Forward()], force=True)


def get(name: str) -> Any:
    return structlog.get_logger(room=name)  # bound at its first use, after `configure`


def hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in event:
        if _names_a_secret(name) and event[name] is not None:
            event[name] = HIDDEN
    return event


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return SECRET_NAMES.search(name) is not None


def escape_controls(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable() and name != "exception":
            event[name] = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return event


_encode: Final = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return _encode(event)


class _Forward(logging.Handler):
    """Lines of libraries that use the standard library's logging, in our format."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(record.levelno, record.getMessage(), room=record.name)
