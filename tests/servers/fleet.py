"""The servers of one process: begun on request, each at most once, ended together."""

import atexit
import os
from types import TracebackType
from typing import Self

from tests.servers.databases import DatabaseServer, Kind
from tests.servers.own import OwnServer
from tests.servers.private import MariaDbServer, MySqlServer, PrivateServer
from tests.servers.rundir import RunDirectory

_CLASSES: dict[Kind, type[PrivateServer]] = {"mariadb": MariaDbServer, "mysql": MySqlServer}


def own_server_url() -> str | None:
    """TASKCENTER_TEST_MYSQL_URL, or None when the tests bring their own servers."""
    return os.environ.get("TASKCENTER_TEST_MYSQL_URL") or None


class Fleet:
    """Lazily started servers, one of each kind. Ended by `close`, which also runs when the interpreter exits."""

    def __init__(self) -> None:
        self._run: RunDirectory | None = None
        self._servers: list[PrivateServer] = []
        self._shared: dict[Kind, PrivateServer] = {}
        self._own: OwnServer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, kind: Kind) -> PrivateServer:
        """Start the shared server of a kind without waiting until it answers."""
        if kind not in self._shared:
            self._shared[kind] = self.new(kind)
            self._shared[kind].begin()
        return self._shared[kind]

    def get(self, kind: Kind) -> PrivateServer:
        """Return the shared server of a kind, ready to be used."""
        server = self.begin(kind)
        server.ensure_running()
        return server

    def new(self, kind: Kind, *, extra_arguments: tuple[str, ...] = ()) -> PrivateServer:
        """Make (not start) one more server; it ends with the fleet. For tests that need options of their own."""
        if self._run is None:
            self._run = RunDirectory()
            atexit.register(self.close)
        name = f"{kind}-{len(self._servers)}"
        server = _CLASSES[kind](self._run, name=name, extra_arguments=extra_arguments)
        self._servers.append(server)
        return server

    def own(self, url: str) -> DatabaseServer:
        """Return the user's own server."""
        if self._own is None:
            self._own = OwnServer(url)
        return self._own

    def close(self) -> None:
        """Stop every server (they leave together: all are asked before the first is waited for) and clear up."""
        for server in self._servers:
            server.ask_to_stop()
        for server in self._servers:
            server.stop()
        self._servers.clear()
        self._shared.clear()
        if self._run is not None:
            self._run.remove()
            self._run = None
        atexit.unregister(self.close)
