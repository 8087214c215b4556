"""The threats' page names real tests."""

from __future__ import annotations

import re

from tests.meta.tree import ROOT

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_defence_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in page.split("## Threats, defences, tests")[1].split("## ")[0].splitlines() if "|" in line]
    assert len(rows) > 15
    for row in rows[2:]:
        assert _NAMED.search(row), f"no test defends: {row}"
    for file, name in _NAMED.findall(page):
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
