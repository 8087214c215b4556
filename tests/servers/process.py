"""One server process: begin it, know its id, send it signals, see it end."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.servers.rundir import OWNER_VARIABLE, ServerError, state_in

_SBIN: Final = "/usr/sbin:/sbin:/usr/local/sbin"
_TERM_PATIENCE_S: Final = 20
_KILL_PATIENCE_S: Final = 20
_STOP_PATIENCE_S: Final = 10
_POLL_S: Final = 0.002
_LOG_LINES_SHOWN: Final = 15


def server_environment(run: Path) -> dict[str, str]:
    """Environment of every server: this process's, the directories of daemons on PATH, and the mark of its run."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {**os.environ, "PATH": f"{path}:{_SBIN}", OWNER_VARIABLE: str(run), "LC_ALL": "C"}


def run_to_end(command: list[str], run: Path, what: str) -> None:
    """Run a program that sets something up; raise `ServerError` with its output when it fails."""
    done = subprocess.run(command, env=server_environment(run), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-_LOG_LINES_SHOWN:])
        raise ServerError(f"{what} failed with status {done.returncode}:\n{tail}")


class ServerProcess:
    """A started `mariadbd` or `mysqld`.

    It has a session of its own, so a Ctrl-C at the terminal reaches the tests and not the server under them. `pid_file`
    is the one the server itself writes: under sudo the server is not the process that was started.
    """

    def __init__(self, command: list[str], directory: Path, run: Path, pid_file: Path) -> None:
        self._pid_file = pid_file
        self.log = directory / "error.log"
        pid_file.unlink(missing_ok=True)
        with (directory / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=server_environment(run),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (directory / "started.pid").write_text(str(self._process.pid))

    @property
    def pid(self) -> int:
        """Process id of the server itself."""
        try:
            return int(self._pid_file.read_text())
        except (OSError, ValueError):
            return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """Return the end of what the server logged and printed."""
        lines: list[str] = []
        for file in (self.log, self.log.with_name("output.log")):
            with suppress(OSError):
                lines += file.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        return "\n".join(lines)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server; nothing happens when it has ended."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """SIGSTOP; returns once no thread of the server runs any more, which the signal alone does not promise."""
        self.signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        deadline = time.monotonic() + _STOP_PATIENCE_S
        while any(state_in(thread / "stat") in "RSD" for thread in threads.iterdir()):
            if time.monotonic() > deadline:
                raise ServerError(f"process {self.pid} did not stop")
            time.sleep(_POLL_S)

    def wait(self) -> None:
        """Wait until the process is gone; raises `subprocess.TimeoutExpired` after 20 s."""
        self._process.wait(_TERM_PATIENCE_S)

    def terminate(self) -> None:
        """SIGTERM (after SIGCONT: a stopped process hears nothing), a wait, SIGKILL if it takes too long."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(_TERM_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL; returns once the process is gone."""
        self.signal(signal.SIGKILL)
        self._process.wait(_KILL_PATIENCE_S)
