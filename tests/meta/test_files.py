"""What no file of the repository may contain, and what its papers must agree on."""

import re
import tomllib
from pathlib import Path

import pytest
from tests.meta.tree import ROOT, name_of, tracked_files

import taskcenter

# Assembled, so that this file does not contain what it looks for.
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~-])/(?:" + "|".join(["root", "wo" + "rk", "fa" + "rm", "home/[a-z][\\w-]*"]) + r")/(?=[\w.])"
    ),
    "a package registry's host": re.compile(
        r"\b(?:"
        + "|".join([r"pypi\.or" + "g", r"pythonhosted\.or" + "g", r"deb\.debian\.or" + "g"])
        + r"|"
        + r"registry\.npm"
        + r"js\.org)\b"
    ),
}
NOTES_TO_SELF = re.compile(r"#.*\b(?:" + "TO" + "DO|FIX" + "ME|XX" + r"X)\b")
_HEADING = re.compile(r"^(#{1,6}) ")
_FENCE = re.compile(r"^```(\S*)\s*$")


def _text(path: Path) -> str | None:
    data = path.read_bytes()
    return None if b"\0" in data else data.decode()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_a_machine_or_a_registry(what: str) -> None:
    found = [
        f"{name_of(path)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate((_text(path) or "").splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_forbidden_patterns_find_what_they_are_for() -> None:
    machine, registry = FORBIDDEN.values()
    assert machine.search("see /ro" + "ot/x")
    assert machine.search("cd '/wo" + "rk/main'")
    assert not machine.search("docs/wo" + "rk/x")
    assert not machine.search("the root/ of it")
    assert registry.search("https://pypi." + "org/simple")
    assert not registry.search("pypi")


def test_no_notes_to_self() -> None:
    found = [
        f"{name_of(path)}:{number}"
        for path in tracked_files()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if NOTES_TO_SELF.search(line)
    ]
    assert not found


def test_every_silenced_check_says_why() -> None:
    """`type: ignore` and `noqa` name what they silence and are followed by a reason."""
    silencer = re.compile(r"#\s*(?:type: ignore(\[[\w, -]+\])?|noqa(: [A-Z]+\d+(?:, ?[A-Z]+\d+)*)?)(.*)$")
    bare = []
    for path in tracked_files():
        if path.suffix != ".py" or path == Path(__file__):
            continue
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            match = silencer.search(line)
            if match is None:
                continue
            codes, rest = match[1] or match[2], match[3]
            again = silencer.search(rest)
            reason = (again[3] if again else rest).strip(" #-:,.")
            above = lines[number - 2].lstrip().startswith("#") if number > 1 else False
            if not codes or not (reason or above):
                bare.append(f"{name_of(path)}:{number}: {line.strip()}")
    assert not bare, "\n".join(bare)


def test_changelog_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(project['version'])}\]", changelog, re.MULTILINE)
    assert re.search(r"^## \[Unreleased\]", changelog, re.MULTILINE)
    assert taskcenter.__version__ == project["version"]


def _outline(path: Path) -> list[int]:
    levels, fenced = [], False
    for line in path.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and (match := _HEADING.match(line)):
            levels.append(len(match[1]))
    return levels


def _code_blocks(path: Path) -> list[tuple[str, str]]:
    """Language and commands of each fenced block; comments may be translated and are left out."""
    blocks: list[tuple[str, list[str]]] = []
    fenced = False
    for line in path.read_text().splitlines():
        if not fenced and (match := _FENCE.match(line)):
            blocks.append((match[1], []))
            fenced = True
        elif fenced and line.startswith("```"):
            fenced = False
        elif fenced:
            blocks[-1][1].append(re.sub(r"(^|\s)#\s.*$", "", line).rstrip())
    return [(language, "\n".join(line for line in lines if line)) for language, lines in blocks]


def test_both_readmes_are_in_step() -> None:
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    assert _outline(english)
    assert _outline(english) == _outline(chinese)
    assert _code_blocks(english)
    assert _code_blocks(english) == _code_blocks(chinese)


def test_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
