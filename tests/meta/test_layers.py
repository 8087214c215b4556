"""Who may import whom: import-linter's contracts in pyproject.toml, and the modules that must stay pure."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.meta.tree import PACKAGE, ROOT, name_of

# Pure modules are told the time and the randomness, so that a million ticks need no loop and no clock.
PURE = [
    "task.py",
    "schedule.py",
    "times.py",
    "wheel/wheel.py",
    "actors/answers.py",
    "actors/breaker.py",
    "actors/limiter.py",
    "actors/retry.py",
    "actors/ready.py",
]
IMPURE_MODULES = {"trio", "time", "random", "secrets", "asyncio", "threading", "socket"}
READS_A_CLOCK = {"now", "utcnow", "today"}


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_have_neither_clock_nor_chance_nor_loop(module: str) -> None:
    path = PACKAGE / module
    tree = ast.parse(path.read_text())
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imported.add(node.module.partition(".")[0])
    assert imported & IMPURE_MODULES <= _for_types_alone(tree), name_of(path)
    clocks = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS_A_CLOCK
    }
    assert not clocks, f"{name_of(path)} reads a clock: {clocks}"


def _for_types_alone(tree: ast.Module) -> set[str]:
    """Modules imported under `if TYPE_CHECKING:`, where `random.Random` may be named as a parameter's type."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom) and statement.module:
                    names.add(statement.module.partition(".")[0])
                elif isinstance(statement, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in statement.names}
    return names
