"""One service for all tests that only look at it from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.flow.contract_kit import Live, serving


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service on SQLite that the contract's tests share."""
    directory = tmp_path_factory.mktemp("live")
    with serving(f"sqlite:///{directory / 'taskcenter.db'}", directory) as live:
        yield live
