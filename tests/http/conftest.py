"""An API to test: the real app over a real store, asked through the ASGI interface.

`api` has a SQLite store in the event loop, so that a test may have virtual time (it asks for `autojump_clock` itself).
`stored_api` runs on each kind of store in turn, in real time. The engine alone is a double: it writes down what it is
told, and answers as a test wants.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.http.api_kit import Api, serve


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[Api, None]:
    """On SQLite, in the event loop."""
    async with serve(f"sqlite:///{tmp_path / 'tasks.db'}", in_loop=True) as served:
        yield served


@pytest.fixture
async def stored_api(database_url: str) -> AsyncGenerator[Api, None]:
    """On each store in turn."""
    async with serve(database_url, in_loop=False) as served:
        yield served
