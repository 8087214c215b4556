"""What every test may ask for: databases on each store, private servers, a clean environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from tests.servers import Fleet, PrivateServer, ServerError, own_server_url
from tests.servers.databases import DatabaseServer, Kind
from trio.testing import MockClock

_OWN_URL = own_server_url()
_STORES = ["sqlite", "mariadb", "mysql"] if _OWN_URL is None else ["sqlite", "own"]
_PRIVATE: dict[str, Kind] = {"mariadb_server": "mariadb", "mysql_server": "mysql"}
_KEPT_PREFIX = "TASKCENTER_TEST_"
LOOPBACK_IDLE_S = 0.02  # of real time; bytes to oneself are there at once
_fleet_key = pytest.StashKey[Fleet]()
_left_out_key = pytest.StashKey[int]()

# No test asserts the speed of the machine it runs on, so no example has a time limit either.
hypothesis.settings.register_profile("taskcenter", deadline=None, print_blob=True)
hypothesis.settings.load_profile("taskcenter")


def pytest_configure(config: pytest.Config) -> None:
    """Make the fleet; it starts nothing until a test needs it."""
    config.stash[_fleet_key] = Fleet()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers, however the session ended."""
    config.stash[_fleet_key].close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With a server of the user's own, leave out the tests that kill and freeze a server, and say so at the end."""
    if _OWN_URL is None:
        return
    left_out = [item for item in items if "server_fleet" in getattr(item, "fixturenames", ())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    config.stash[_left_out_key] = len(left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the servers that the collected tests will want, side by side, while the first tests run."""
    if session.config.option.collectonly:
        return
    fleet = session.config.stash[_fleet_key]
    wanted = {store for item in session.items for store in _stores_wanted(item)}
    try:
        for kind in sorted(set(_PRIVATE.values()) & wanted):
            fleet.begin(kind)
        if _OWN_URL is not None and "own" in wanted:
            fleet.own(_OWN_URL)
    except ServerError as error:
        pytest.exit(str(error), returncode=1)


def _stores_wanted(item: pytest.Item) -> Iterator[str]:
    yield from (kind for fixture, kind in _PRIVATE.items() if fixture in getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    if callspec is not None:
        yield str(callspec.params.get("database_url"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell what a server of the user's own could not be asked to bear."""
    left_out = config.stash.get(_left_out_key, 0)
    if left_out:
        terminalreporter.write_line(
            f"TASKCENTER_TEST_MYSQL_URL is set: {left_out} tests that stop, kill or freeze a server were left out"
        )


@pytest.fixture(scope="session")
def server_fleet(pytestconfig: pytest.Config) -> Fleet:
    """The session's servers. `server_fleet.new(kind, extra_arguments=…)` makes one for a test alone."""
    return pytestconfig.stash[_fleet_key]


@pytest.fixture(scope="session")
def mariadb_server(server_fleet: Fleet) -> PrivateServer:
    """The session's MariaDB (10.6+). A test that kills or freezes it need not bring it back."""
    return server_fleet.get("mariadb")


@pytest.fixture(scope="session")
def mysql_server(server_fleet: Fleet) -> PrivateServer:
    """The session's MySQL (8.0+, caching_sha2_password). A test that kills or freezes it need not bring it back."""
    return server_fleet.get("mysql")


@pytest.fixture(params=_STORES, ids=_STORES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, on each store in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'taskcenter.db'}"
        return
    fleet: Fleet = request.getfixturevalue("server_fleet")
    server: DatabaseServer
    server = fleet.own(_OWN_URL) if _OWN_URL is not None else fleet.get(request.param)
    url = server.create_database()
    try:
        yield url
    finally:
        server.drop_database(url)


@pytest.fixture
def loopback_clock(mock_clock: MockClock) -> MockClock:
    """Virtual time where every socket has both its ends in the test: while bytes move the clock stands still, and when
    nothing has moved for a while it leaps to the next deadline. A machine that stalls is no time that passes.
    """
    mock_clock.autojump_threshold = LOOPBACK_IDLE_S
    return mock_clock


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the environment of whoever runs the tests are not the tests' settings."""
    for name in list(os.environ):
        if name.startswith(("TASKCENTER_", "OTEL_")) and not name.startswith(_KEPT_PREFIX):
            monkeypatch.delenv(name)
