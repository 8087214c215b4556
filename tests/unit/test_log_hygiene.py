"""Logs: whatever is in a value, one event is one line of JSON, no control character is raw, and no secret is in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from taskcenter import log

NASTY = [
    "a\r\nb", "\x1b[31mred\x1b[0m", "\x00", "\x7f", "\x85", "\x9b31m", "\u2028", "\u2029", '"}\n{"event": "forged"}',
    "\ud800", "é业务😀", "\t\v\f",
]  # fmt: skip
SECRETS = [
    "secret", "client_secret", "signing_secret", "token", "access_token", "admin_token", "password", "authorization",
    "Authorization", "api_key", "x-api-key", "apikey", "cookie", "Set-Cookie", "encryption_keys", "private_key",
    "bearer",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def written(fmt: str = "json", **fields: object) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        structlog.reset_defaults()
        log.configure("debug", fmt)
        log.get("test").info("event", **fields)
    return out.getvalue()


@pytest.mark.parametrize("text", NASTY)
def test_one_event_is_one_line_of_json(text: str) -> None:
    line = written(said=text, nested={"of": [text]})
    assert line.count("\n") == 1 and line.endswith("\n")
    assert not set(line[:-1]) & {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
    assert json.loads(line)["event"] == "event"
    line.encode()  # no half of a surrogate pair, which no terminal or file takes


@given(st.dictionaries(st.text(st.characters(categories=["Ll"]), min_size=1), st.text(), max_size=5))
def test_any_text_is_one_line(fields: dict[str, str]) -> None:
    reserved = {"event", "level", "timestamp", "room", "exc_info", "stack_info", "fmt"}
    line = written(**{name: value for name, value in fields.items() if name not in reserved})
    assert line.count("\n") == 1 and line.isprintable() is False  # the newline is the only one
    assert line[:-1].isprintable() or json.loads(line)


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_gets_no_control_character_from_a_value(text: str) -> None:
    line = written("console", said=text)
    assert "\x1b[31mred" not in line and "\x00" not in line and "\x9b" not in line and line.count("\n") == 1


@pytest.mark.parametrize("name", SECRETS)
def test_what_sounds_like_a_secret_is_not_written(name: str) -> None:
    told: dict[str, Any] = {name: "canary-value", "headers": {name: "canary-value"}, "list": [{name: "canary-value"}]}
    line = written(**told)
    assert "canary" not in line and line.count(log.HIDDEN) == 3


def test_what_only_names_a_key_is_written() -> None:
    line = written(key_id="k7q2m6", token_count=None)
    assert json.loads(line)["key_id"] == "k7q2m6"


def test_lines_of_libraries_are_in_our_form() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        structlog.reset_defaults()
        log.configure("debug", "json")
        logging.getLogger("lib").warning("broken\r\n\x1b[31m by %s", "them")
    assert json.loads(out.getvalue())["event"] == "broken\\u000d\\u000a\\u001b[31m by them"
    assert out.getvalue().count("\n") == 1


def test_an_exception_is_one_line_without_raw_controls() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        structlog.reset_defaults()
        log.configure("debug", "json")
        try:
            raise ValueError("bad\r\n\x1b[31m\u2028 text")
        except ValueError as error:
            log.get("test").error("failed", exc_info=error)
    assert out.getvalue().count("\n") == 1 and "\u2028" not in out.getvalue() and "\x1b" not in out.getvalue()
