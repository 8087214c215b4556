"""What this process may open, and who may have how much of it: the API's clients, callbacks, and all the rest.

At the start the soft RLIMIT_NOFILE is raised as far as the settings can use it and the hard one allows: 1,024, which
most systems begin with, is there for programs that use select(2). Where that is not enough the API's connections get
their share (`http.limits`), a reserve is kept for the store, name look-ups and files, and callbacks get what is left:
fewer are on their way at once, the others wait in due order. Nobody is refused a descriptor in the middle of its work.
"""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from typing import Final

from taskcenter import log
from taskcenter.config import Settings
from taskcenter.http.limits import ServerSettings, connection_cap

_FILES: Final = resource.RLIMIT_NOFILE
RESERVED: Final = 48  # listeners, log, database files, name look-ups, what a library opens for a moment
LEAST_CALLBACKS: Final = 4  # however silly the limit


@dataclass(frozen=True, slots=True)
class Descriptors:
    limit: float  # infinite: there is none
    api: int  # connections of clients at once
    callbacks: float  # connections to receivers at once, those kept for reuse included


def shares(limit: float, settings: Settings, server: ServerSettings) -> Descriptors:
    """Who gets what of so many descriptors. Pure."""
    api = server.max_connections if math.isinf(limit) else connection_cap(server, int(limit))
    return Descriptors(limit, api, max(LEAST_CALLBACKS, limit - api - RESERVED - settings.db_pool_size))


def provide(settings: Settings, server: ServerSettings) -> Descriptors:
    """Raise the limit as far as it is of use, and share it out; told in the log where callbacks or clients get less
    than the settings allow.
    """
    useful = server.max_connections + 2 * settings.max_in_flight + RESERVED + settings.db_pool_size
    found = shares(_raised(useful), settings, server)
    if found.callbacks < settings.max_in_flight or found.api < server.max_connections:
        log.get("node").warning(
            "few file descriptors", limit=found.limit, api_connections=found.api, callbacks_at_once=found.callbacks
        )
    return found


def _raised(useful: int) -> float:
    """The soft limit, after it was raised to `useful` or to the hard one."""
    soft, hard = (math.inf if each == resource.RLIM_INFINITY else each for each in resource.getrlimit(_FILES))
    if soft >= useful:
        return soft
    wanted = int(min(useful, hard))
    resource.setrlimit(_FILES, (wanted, resource.RLIM_INFINITY if math.isinf(hard) else int(hard)))
    return wanted
