"""No god file, no function that does everything. The aim is 300 lines and 50; these are the hard limits."""

import ast
from pathlib import Path

import pytest
from tests.meta.tree import name_of, source_files

MOST_FILE_LINES = 350
MOST_FUNCTION_LINES = 60


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_file_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    lines = len(text.splitlines())
    assert lines <= MOST_FILE_LINES, f"{name_of(path)} has {lines} lines: split it by phase"
    long = {
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_FUNCTION_LINES
    }
    assert not long, f"{name_of(path)}: {', '.join(sorted(long))}"
