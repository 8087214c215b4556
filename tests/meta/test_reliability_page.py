"""The page of promises has every row, and names tests and benches that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from scripts.reliability import LONG, PAGE, TEST, command_for, named_by, rows
from tests.meta.tree import ROOT

ROWS = [f"{number:02}" for number in range(1, 29)]
_BENCH = re.compile(r"`python -m (bench\.\w+)[^`]*`")
_MAKE = re.compile(r"`make ([a-z]+)[^`]*`")
_TO_COME = "to be written"


def lines() -> dict[str, list[str]]:
    return rows(PAGE.read_text("utf-8"))


def test_every_row_is_there_in_order() -> None:
    assert list(lines()) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_what_shows_a_row_exists(row: str) -> None:
    cells = lines()[row]
    assert len(cells) == 4 and cells[0] == "", "the line below a promise: | | what shows it | measured | on |"
    shown = cells[1]
    for named in named_by(cells):
        path, _, name = named.partition("::")
        assert (ROOT / path).exists(), named
        assert not name or re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), named
    for bench in _BENCH.findall(shown):
        assert importlib.util.find_spec(bench) is not None, bench
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(_MAKE.findall(shown)) <= set(targets), shown
    assert TEST.search(shown) or _BENCH.search(shown) or _MAKE.search(shown) or shown == _TO_COME, "nothing shows it"
    assert cells[2], "what was measured, or that nothing was yet"


def test_every_long_test_is_named_by_its_row() -> None:
    for path in (ROOT / "tests" / "reliability").glob("test_*.py"):
        found = re.match(r"test_row_(\d\d)_\w+$", path.stem)
        assert found, f"{path.name}: a row's file is named test_row_NN_<name>.py"
        named = {name.partition("::")[0] for name in named_by(lines()[found[1]])}
        assert f"tests/reliability/{path.name}" in named, f"docs/reliability.md, row {found[1]}: name {path.name}"


def test_the_long_rows_are_left_out_of_the_suite(pytestconfig: pytest.Config) -> None:
    assert Path(LONG).name in pytestconfig.getini("norecursedirs")


def test_a_row_is_run_by_what_its_line_names() -> None:
    assert command_for([])[-1] == LONG
    assert command_for(["9"])[-len(named_by(lines()["09"])) :] == named_by(lines()["09"])
    with pytest.raises(SystemExit, match="there is no row 29; rows go from 01 to 28"):
        command_for(["9", "29"])
