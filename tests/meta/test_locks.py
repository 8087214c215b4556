"""The locks pin everything, and pin what pyproject.toml asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.meta.tree import ROOT

_PYTHONS = ("3.11.2", "3.12.1", "3.13.0")


def _locked(name: str, python: str) -> dict[str, str]:
    """Package → version that a lock gives on Linux for one version of Python."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_system": "Linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / f"{name}.lock").read_text().splitlines():
        if not line or line.startswith((" ", "#")):
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        if requirement.marker is None or requirement.marker.evaluate(environment):
            package = canonicalize_name(requirement.name)
            assert package not in found, f"{package} is pinned twice for Python {python}"
            found[package] = specifier.version
    return found


def _declared(name: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = project["project"]["dependencies"] + (project["dependency-groups"]["dev"] if name == "dev" else [])
    return [Requirement(text) for text in names]


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("name", ["run", "dev"])
def test_lock_meets_every_declared_dependency(name: str, python: str) -> None:
    locked = _locked(name, python)
    for requirement in _declared(name):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements/{name}.lock: run `make lock`"
        assert version in requirement.specifier, f"{requirement} but {version} is locked: run `make lock`"


@pytest.mark.parametrize("python", _PYTHONS)
def test_development_has_what_production_has(python: str) -> None:
    run, dev, build = (_locked(name, python) for name in ("run", "dev", "build"))
    assert run.items() <= dev.items()
    assert {package: dev[package] for package in build.keys() & dev.keys()} == {
        package: build[package] for package in build.keys() & dev.keys()
    }


@pytest.mark.parametrize("name", ["build", "run", "dev"])
def test_lock_says_where_nothing_is_fetched_from(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert not re.search(r"://|--(?:index|extra|find)", text)
