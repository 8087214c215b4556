"""One event is one line of JSON, whatever is in it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from taskcenter import log


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Logs an event, and returns the line it became."""
    before = structlog.get_config()
    log.configure("info", "json")

    def write(event: str, **fields: Any) -> dict[str, Any]:
        log.get("test").info(event, **fields)
        (line,) = capsys.readouterr().out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    yield write
    structlog.configure(**before)


def test_fields_keep_their_types(logged: Any) -> None:
    line = logged("attempt", run=1, lateness_ms=0.25, error=None, host="bücher.example", sent=True)
    assert {name: line[name] for name in ("run", "lateness_ms", "error", "host", "sent")} == {
        "run": 1, "lateness_ms": 0.25, "error": None, "host": "bücher.example", "sent": True,
    }  # fmt: skip
    assert (line["event"], line["level"], line["room"]) == ("attempt", "info", "test")
    assert line["timestamp"].endswith("Z")


def test_a_strange_object_is_shown_by_its_repr(logged: Any) -> None:
    assert logged("opened", path=Path("/a"))["path"] == repr(Path("/a"))


def test_what_sounds_like_a_secret_is_hidden(logged: Any) -> None:
    line = logged("odd", api_key="tck_1", Authorization="Bearer x", signing_secret="whsec_1", key_id="k1", token=None)
    hidden = {name: line[name] for name in ("api_key", "Authorization", "signing_secret")}
    assert set(hidden.values()) == {"***"}
    assert (line["key_id"], line["token"]) == ("k1", None)


@pytest.mark.parametrize("control", ["\r\n", "\x1b[31m", "\x7f", "\x85", "\u2028", "\0"])
def test_no_control_character_is_written_raw(logged: Any, capsys: pytest.CaptureFixture[str], control: str) -> None:
    line = logged("odd", agent=f"a{control}b", note="a b\u00a0c")
    assert (
        line["agent"] == "a" + "".join(f"\\u{ord(one):04x}" if not one.isprintable() else one for one in control) + "b"
    )
    assert line["note"] == "a b\u00a0c"


def test_a_logger_writes_to_the_stdout_of_the_moment(logged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It is bound at its first line; whoever replaces stdout later reads what follows."""
    lasting = log.get("test")
    lasting.info("first")
    capsys.readouterr()
    replaced = io.StringIO()
    with contextlib.redirect_stdout(replaced):
        lasting.info("second")
    assert "second" in replaced.getvalue()
    assert capsys.readouterr().out == ""
