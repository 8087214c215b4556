"""Where one process keeps its servers, and how what a killed process left is cleared away."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates

_PREFIX = "taskcenter-run-"
_LOCK = "owner.lock"
_SHM = Path("/dev/shm")
_SHM_FREE_BYTES = 2 << 30
_KILL_PATIENCE_S = 10
_POLL_S = 0.005
OWNER_VARIABLE = "TASKCENTER_TEST_RUN"
"""In the environment of every server: the run directory it belongs to. Proves whose a process id is."""


class ServerError(RuntimeError):
    """A database server could not be had, started or stopped. The text says what to do."""


def cache_directory() -> Path:
    """The directory kept between runs: the MySQL tree and freshly initialised data directories."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    directory = Path(base) / "taskcenter"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes (flock: freed by the kernel if this process dies)."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _bases() -> list[Path]:
    return [base for base in (_SHM, Path(tempfile.gettempdir())) if base.is_dir() and os.access(base, os.W_OK)]


def _choose_base() -> Path:
    bases = _bases()
    if _SHM in bases and shutil.disk_usage(_SHM).free >= _SHM_FREE_BYTES:
        return _SHM
    return next(base for base in reversed(bases))


class RunDirectory:
    """One process's directory, mode 0700, on tmpfs when 2 GiB are free there. Short, since it holds sockets."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_choose_base()))
        self._lock = (self.path / "lock.new").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.path / "lock.new").rename(self.path / _LOCK)  # seen by a sweep only once it is held
        self.certificates: Certificates = make_certificates(self.path)

    def remove(self) -> None:
        """Delete everything; the servers in it must have been stopped."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def process_state(pid: int | str) -> str:
    """Return the kernel's letter for a process's state: Z when it waits to be reaped, X when it is gone."""
    return state_in(Path(f"/proc/{pid}/stat"))


def state_in(stat: Path) -> str:
    """Return the state letter in the `stat` file of a process or thread; X when it is gone."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def _kill_left_over(pid_file: Path, run: Path) -> None:
    """SIGKILL the server a dead process left, if the process id still is that server's, and see it gone."""
    try:
        pid = int(pid_file.read_text())
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if f"{OWNER_VARIABLE}={run}".encode() in environment:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_PATIENCE_S
        while process_state(pid) not in "ZX" and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def sweep() -> None:
    """Clear the run directories (and end the servers) of processes that are gone without having done it."""
    for base in _bases():
        for run in base.glob(f"{_PREFIX}*"):
            try:
                handle = (run / _LOCK).open("r+")
            except OSError:  # another user's, or being made or removed this moment
                continue
            with handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                for pid_file in run.glob("*/*.pid"):
                    _kill_left_over(pid_file, run)
                shutil.rmtree(run, ignore_errors=True)
