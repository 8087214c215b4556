"""File descriptors: raised where that is allowed, shared out where they are few."""

from __future__ import annotations

import math
import resource
import subprocess
import sys

import pytest

from taskcenter.config import Settings
from taskcenter.http.limits import ServerSettings
from taskcenter.runtime.descriptors import LEAST_CALLBACKS, RESERVED, provide, shares

SETTINGS = Settings()
SERVER = ServerSettings()
SMALL_WANTS = 200 + 2 * 100 + RESERVED + SETTINGS.db_pool_size  # what the child has use for, where others may have less


@pytest.mark.parametrize(
    ("limit", "api", "callbacks"),
    [(math.inf, 2000, math.inf), (20_000, 2000, 17_944), (1024, 614, 354), (256, 153, 47), (64, 38, LEAST_CALLBACKS)],
)
def test_callbacks_get_what_clients_and_the_reserve_leave(limit: float, api: int, callbacks: float) -> None:
    found = shares(limit, SETTINGS, SERVER)
    assert (found.api, found.callbacks) == (api, callbacks)
    assert callbacks == LEAST_CALLBACKS or api + callbacks + RESERVED + SETTINGS.db_pool_size <= limit


@pytest.mark.parametrize(("soft", "hard", "raised"), [(128, 128, 128), (128, 300, 300), (128, 600, SMALL_WANTS)])
def test_the_soft_limit_is_raised_as_far_as_it_is_of_use(soft: int, hard: int, raised: int) -> None:
    """In a process of its own: a hard limit is lowered once and for all."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from tests.runtime.test_descriptors import limit_after; limit_after()"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split()[-1] == str(raised)
    assert ("few file descriptors" in found.stdout + found.stderr) == (raised < SMALL_WANTS)


def limit_after() -> None:
    """What the child of the test above does."""
    found = provide(Settings(max_in_flight=100), ServerSettings(max_connections=200))
    assert found.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    sys.stdout.write(f"{found.limit:.0f}\n")
