"""Run what the lines of docs/reliability.md name.

python scripts/reliability.py [ROW …]    rows by number; without one all of tests/reliability, where the long rows are
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
LONG = "tests/reliability"
TEST = re.compile(r"`(tests/[\w/]+(?:\.py(?:::test_\w+)?)?)`")
_PROMISE = re.compile(r"^\| (\d\d) \|")


def rows(page: str) -> dict[str, list[str]]:
    """Each row's number, with the four cells of the line below its promise: what shows it, and what was measured."""
    lines = page.splitlines()
    return {
        found[1]: [cell.strip() for cell in shown.strip("|").split("|")]
        for promise, shown in itertools.pairwise(lines)
        if (found := _PROMISE.match(promise))
    }


def named_by(cells: list[str]) -> list[str]:
    """The tests that a row's line names, as pytest takes them."""
    return TEST.findall(cells[1])


def command_for(wanted: list[str]) -> list[str]:
    """What runs the rows. Raises `SystemExit` with a line for the caller when there is none."""
    known = rows(PAGE.read_text("utf-8"))
    numbers = [number.zfill(2) for number in wanted]
    if unknown := [number for number in numbers if number not in known]:
        raise SystemExit(f"reliability: there is no row {', '.join(unknown)}; rows go from 01 to {max(known)}")
    named = list(dict.fromkeys(test for number in numbers for test in named_by(known[number])))
    if numbers and not named:
        raise SystemExit(f"reliability: {PAGE.name} names no test for row {', '.join(numbers)}")
    return [sys.executable, "-m", "pytest", "-v", "-o", "faulthandler_timeout=900", *(named or [LONG])]


if __name__ == "__main__":
    command = command_for(sys.argv[1:])
    os.chdir(ROOT)
    os.execv(command[0], command)  # noqa: S606  # our own interpreter, arguments from our own page, no shell
