"""Every rule that may fire an alert stands in docs/operations.md, and no other."""

from __future__ import annotations

import ast
import re

from tests.meta.tree import ROOT

from taskcenter.runtime.alerts import RULES

CALLS = re.compile(r"_?alerts?$|_tell_daily$")


def fired() -> set[str]:
    """The literal rules of all calls that alert."""
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and CALLS.search(node.func.attr):
                words = [each.value for each in node.args if isinstance(each, ast.Constant)]
                found |= {word for word in words if isinstance(word, str) and re.fullmatch(r"[a-z_]+", word)}
    return found


def test_every_rule_is_documented() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("## Alerts")[2].partition("\n## ")[0]
    documented = {
        rule
        for line in table.splitlines()
        if line.startswith("| `")
        for rule in re.findall(r"`([a-z_]+)`", line.split("|")[1])
    }
    assert documented == fired()


def test_every_rule_is_counted_from_the_start() -> None:
    assert sorted(fired()) == list(RULES)
