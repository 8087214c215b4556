"""Servers that belong to the tests: started, stopped, killed and frozen as a test likes."""

import random
import secrets
import shutil
import signal
import socket
import time
from abc import abstractmethod
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pymysql
from tests.servers.databases import DATABASE_PREFIX, DatabaseServer, mysql_url
from tests.servers.process import ServerProcess, run_to_end
from tests.servers.programs import Program, find_helper, find_server
from tests.servers.rundir import RunDirectory, ServerError, cache_directory, file_lock

if TYPE_CHECKING:
    from pymysql.connections import Connection

_HOST = "127.0.0.1"
_PORTS = range(20_000, 32_000)  # below the kernel's ephemeral range: nobody takes a killed server's port meanwhile
_START_PATIENCE_S = 60
_POLL_S = 0.02
_PORT_TRIES = 5
_ARGUMENTS = (
    f"--bind-address={_HOST}",
    "--skip-name-resolve",
    "--skip-log-bin",
    "--character-set-server=utf8mb4",
    "--max-connections=400",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=128M",
)


def free_port() -> int:
    """A port that a program can be told to listen on: nobody gets it from the kernel without asking for it."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return port
    raise ServerError(f"no free port between {_PORTS.start} and {_PORTS.stop} on {_HOST}")


class PrivateServer(DatabaseServer):
    """A server with a data directory, a port and accounts of its own.

    `start` is `begin` (data directory and process, at once) followed by `finish` (wait until it answers, make the
    accounts), so that several can start side by side. The port stays the same over restarts. `extra_arguments` are
    read at each start.
    """

    init_version: ClassVar[int] = 1  # raise when the way a data directory is initialised changes

    def __init__(self, run: RunDirectory, *, name: str | None = None, extra_arguments: tuple[str, ...] = ()) -> None:
        self.run = run
        self.program: Program = find_server(self.kind)
        self.directory: Path = run.path / (name or self.kind)
        self.datadir: Path = self.directory / "data"
        self.socket: Path = self.directory / "server.sock"
        self.ca_file: Path = run.certificates.ca
        self.extra_arguments = extra_arguments
        self.host = _HOST
        self.port = free_port()
        self.user = "taskcenter"
        self.password = secrets.token_hex(12)
        self._admin_password = secrets.token_hex(12)
        self._process: ServerProcess | None = None
        self._has_accounts = False
        self._answers = False
        self._meant_to_be_down = True

    def __repr__(self) -> str:
        state = "down" if self._process is None or self._process.ended else f"pid {self.pid}"
        return f"<{type(self).__name__} {self.host}:{self.port} {state}>"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        return self._running().pid

    @property
    def admin_url(self) -> str:
        return mysql_url("admin", self._admin_password, self.host, self.port)

    def connect(self, database: str | None = None) -> "Connection[Any]":
        return pymysql.connect(
            unix_socket=str(self.socket), user="root", database=database, autocommit=True, read_timeout=30
        )

    # --- life -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the process without waiting for it. Does nothing when it runs already."""
        if self._process is not None and not self._process.ended:
            return
        if not self.datadir.exists():
            self.directory.mkdir(parents=True)
            (self.directory / "tmp").mkdir()
            shutil.copytree(self._pristine(), self.datadir)
        self._answers = False
        self._meant_to_be_down = False
        arguments = [
            *_ARGUMENTS,
            f"--port={self.port}",
            f"--datadir={self._seen(self.datadir)}",
            f"--socket={self._seen(self.socket)}",
            f"--pid-file={self._seen(self.directory / 'server.pid')}",
            f"--log-error={self._seen(self.directory / 'error.log')}",
            f"--tmpdir={self._seen(self.directory / 'tmp')}",
            f"--ssl-ca={self._seen(self.run.certificates.ca)}",
            f"--ssl-cert={self._seen(self.run.certificates.cert)}",
            f"--ssl-key={self._seen(self.run.certificates.key)}",
            *self._kind_arguments(),
            *self.extra_arguments,
        ]
        command = self.program.command(self.run.path, arguments)
        self._process = ServerProcess(command, self.directory, self.run.path, self.directory / "server.pid")

    def finish(self) -> None:
        """Wait until the begun server answers; make its accounts the first time. Raises `ServerError` after 60 s."""
        if self._answers:
            return
        tries = 1 if self._has_accounts else _PORT_TRIES
        while not self._wait_for_answer():
            process, tries = self._running(), tries - 1
            if tries == 0 or "already in use" not in process.last_words():
                raise ServerError(f"{self.kind} did not start:\n{process.last_words()}")
            self.port = free_port()  # somebody took it between the look and the start
            (self.directory / "error.log").unlink(missing_ok=True)
            self.begin()
        if not self._has_accounts:
            self._make_accounts()
            self._has_accounts = True
        self._answers = True

    def start(self) -> None:
        """Start the server and return once it answers."""
        self.begin()
        self.finish()

    def stop(self) -> None:
        """End the server in order (SIGTERM, SIGKILL after 20 s)."""
        self._meant_to_be_down = True
        self._answers = False
        if self._process is not None:
            self._process.terminate()

    def ask_to_stop(self) -> None:
        """SIGTERM without waiting; `stop` waits."""
        self._meant_to_be_down = True
        if self._process is not None:
            self._process.signal(signal.SIGCONT)
            self._process.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would: SIGKILL. What it had committed is on its files."""
        self._meant_to_be_down = True
        self._answers = False
        self._running().kill()

    def restart(self) -> None:
        """`stop`, then `start` on the same port and data."""
        self.stop()
        self.start()

    def stop_signal(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered. Returns once every thread has stopped."""
        self._running().freeze()

    def cont(self) -> None:
        """SIGCONT, the end of `stop_signal`."""
        self._running().signal(signal.SIGCONT)

    def wait_until_ended(self) -> None:
        """Wait for a server that was told to end by other means, e.g. SHUTDOWN over SQL."""
        self._running().wait()

    def ensure_running(self) -> None:
        """Bring back what a test killed, stopped or froze; raises `ServerError` when the server died by itself."""
        process = self._process
        if process is None or (process.ended and self._meant_to_be_down):
            self.start()
        elif process.ended:
            raise ServerError(f"{self.kind} died by itself:\n{process.last_words()}")
        else:
            self.cont()
            self.finish()

    # --- what differs between the two ---------------------------------------------------------------------------------

    @abstractmethod
    def _initialise(self, datadir: Path) -> None:
        """Fill a new data directory: root without a password over the socket, nobody else."""

    @abstractmethod
    def _kind_arguments(self) -> list[str]:
        """Options that only this kind of server has."""

    @abstractmethod
    def _identified(self, password: str) -> str:
        """The words after IDENTIFIED that give an account the kind's usual way to log in."""

    # --- parts --------------------------------------------------------------------------------------------------------

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerError(f"{self.kind} has not been started")
        return self._process

    def _seen(self, path: Path) -> str:
        return self.program.seen(path, self.run.path)

    def _wait_for_answer(self) -> bool:
        process = self._running()
        deadline = time.monotonic() + _START_PATIENCE_S
        while time.monotonic() < deadline:
            try:
                with socket.socket(socket.AF_UNIX) as probe:  # PyMySQL leaves its socket open when it can't connect
                    probe.connect(str(self.socket))
                self.connect().close()
            except (OSError, pymysql.err.OperationalError):
                if process.ended:
                    return False
                time.sleep(_POLL_S)
            else:
                return True
        process.kill()
        return False

    def _make_accounts(self) -> None:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            for user, password, scope in (
                (self.user, self.password, rf"GRANT ALL ON `{DATABASE_PREFIX}%`.* TO".replace("_", r"\_")),
                ("admin", self._admin_password, "GRANT ALL ON *.* TO"),
            ):
                cursor.execute(f"CREATE USER {user}@'%' IDENTIFIED {self._identified(password)}")
                cursor.execute(f"{scope} {user}@'%'" + (" WITH GRANT OPTION" if user == "admin" else ""))

    def _pristine(self) -> Path:
        """Return a freshly initialised data directory, made once for each server version and kept in the cache."""
        cache = cache_directory()
        pristine = cache / f"data-{self.kind}-{self.program.fingerprint()}-{self.init_version}"
        with file_lock(cache / f"data-{self.kind}.lock"):
            if not pristine.exists():
                for outdated in cache.glob(f"data-{self.kind}-*"):
                    shutil.rmtree(outdated, ignore_errors=True)
                fresh, copy = self.directory / "fresh", cache / f"data-{self.kind}-{self.run.path.name}.part"
                self._initialise(fresh)
                shutil.copytree(fresh, copy)
                copy.rename(pristine)
                shutil.rmtree(fresh)
        return pristine


class MariaDbServer(PrivateServer):
    """MariaDB, as Debian's stable release has it. Accounts: `mysql_native_password`."""

    kind = "mariadb"

    def _initialise(self, datadir: Path) -> None:
        arguments = [
            f"--datadir={datadir}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=8M",
        ]
        installer = Program(find_helper("mariadb-install-db"))
        run_to_end(installer.command(self.run.path, arguments), self.run.path, "mariadb-install-db")

    def _kind_arguments(self) -> list[str]:
        return ["--innodb-log-file-size=64M"]

    def _identified(self, password: str) -> str:
        return f"VIA mysql_native_password USING PASSWORD('{password}')"

    def _make_accounts(self) -> None:
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("DROP USER IF EXISTS ''@'localhost', ''@'%'")
        super()._make_accounts()


class MySqlServer(PrivateServer):
    """MySQL 8.0 or newer. Accounts: `caching_sha2_password`, its default."""

    kind = "mysql"
    _everywhere: ClassVar[tuple[str, ...]] = ("--skip-log-bin", "--secure-file-priv=NULL")

    def _initialise(self, datadir: Path) -> None:
        arguments = [
            "--initialize-insecure",
            f"--datadir={self._seen(datadir)}",
            "--innodb-redo-log-capacity=8M",
            *self._everywhere,
        ]
        run_to_end(self.program.command(self.run.path, arguments), self.run.path, "mysqld --initialize-insecure")
        (datadir / "auto.cnf").unlink()  # a server's identity; each copy makes its own

    def _identified(self, password: str) -> str:
        return f"WITH caching_sha2_password BY '{password}'"

    def _kind_arguments(self) -> list[str]:
        return [*self._everywhere, "--mysqlx=OFF", "--innodb-redo-log-capacity=128M"]
