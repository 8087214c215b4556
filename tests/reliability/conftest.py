"""The rows of docs/reliability.md that take long: `make reliability`. What a row measures is kept by its `figure`s."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.servers import PrivateServer

OUT = Path(__file__).resolve().parents[2] / "bench" / "out"
_ROW = re.compile(r"test_row_(\d\d)_")

Figure = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure of one test."""

    row: str
    test: str
    name: str
    value: str


_measured_key = pytest.StashKey[list[Measured]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the session's record."""
    config.stash[_measured_key] = []


@pytest.fixture(params=["mariadb", "mysql"])
def database_server(request: pytest.FixtureRequest) -> PrivateServer:
    """A private server of each kind in turn, which may be killed, stopped and frozen."""
    server: PrivateServer = request.getfixturevalue(f"{request.param}_server")
    return server


def shown(value: object) -> str:
    """A number as a reader wants it, anything else as it is."""
    if isinstance(value, float) and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(name, value, unit="")`: keep what was measured for the table at the end of the run."""
    found = _ROW.search(request.path.name)
    assert found, f"{request.path.name}: a row's file is named test_row_NN_<name>.py"

    def keep(name: str, value: object, unit: str = "") -> None:
        request.config.stash[_measured_key].append(
            Measured(found[1], request.node.name, name, f"{shown(value)} {unit}".strip())
        )

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures as a table, and keep it in bench/out."""
    measured = config.stash[_measured_key]
    measured.sort(key=lambda one: (one.row, one.test))
    if not measured:
        return
    lines = ["| row | test | what | measured |", "| --- | --- | --- | --- |"]
    lines += [f"| {one.row} | {one.test} | {one.name} | {one.value} |" for one in measured]
    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / time.strftime("reliability-%Y%m%dT%H%M%SZ.md", time.gmtime())
    kept.write_text("\n".join(lines) + "\n", "utf-8")
    terminalreporter.section("figures of docs/reliability.md")
    for line in lines:
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"kept in {kept.relative_to(OUT.parents[1])}")
