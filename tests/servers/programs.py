"""Which server programs this machine has, and what has to stand before them on a command line."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers.databases import Kind
from tests.servers.rundir import ServerError, cache_directory

_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/bin", "/usr/libexec")
_OLDEST: dict[Kind, tuple[int, int]] = {"mariadb": (10, 6), "mysql": (8, 0)}
_INSIDE = "/srv"  # where a run directory is seen from within the chroot

# Mounts made here belong to a namespace of their own and vanish with the server, whatever ends it.
_ENTER = """
set -e
root=$1 run=$2 user=$3; shift 3
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind "$run" "$root/srv"
TASKCENTER_TEST_RUN=$run; export TASKCENTER_TEST_RUN
exec chroot ${user:+"--userspec=$user"} "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A server program. `root` is the tree it must be run in (chroot), or None when it is installed on this machine."""

    path: Path
    root: Path | None = None

    def command(self, run: Path, arguments: Sequence[str]) -> list[str]:
        """Return the command line that runs it with a view of `run` (`seen`)."""
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        if self.root is None:
            return [str(self.path), "--no-defaults", *as_root, *arguments]
        prefix, user = _privileges()
        if not user:
            as_root = ["--user=root"]
        inside = f"/{self.path.relative_to(self.root)}"
        enter = ["sh", "-c", _ENTER, "sh", str(self.root), str(run), user]
        return [*prefix, *enter, inside, "--no-defaults", *as_root, *arguments]

    def seen(self, path: Path, run: Path) -> str:
        """Return the name by which the program sees a file in the run directory."""
        return str(path) if self.root is None else f"{_INSIDE}/{path.relative_to(run)}"

    def fingerprint(self) -> str:
        """Return a word that changes when the program is replaced by another version."""
        status = self.path.stat()
        return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _privileges() -> tuple[list[str], str]:
    """Return what gives the right to mount and chroot, and the user to become after it ("": stay root)."""
    namespace = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() == 0:
        if not _succeeds([*namespace, "true"]):  # inside a chroot, / is no mount point whose propagation could be set
            namespace[-1] = "unchanged"
        return namespace, ""
    mapped = ["unshare", "--map-root-user", *namespace[1:]]
    if _succeeds([*mapped, "true"]):
        return mapped, ""
    if shutil.which("sudo") and _succeeds(["sudo", "-n", "true"]):
        return ["sudo", "-n", *namespace], f"{os.geteuid()}:{os.getegid()}"
    raise ServerError(
        "MySQL runs in a chroot, which takes root, passwordless sudo, or user namespaces, and none is to be had here. "
        "Run the tests as root, or name a server of your own in TASKCENTER_TEST_MYSQL_URL."
    )


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def find_helper(name: str) -> Path:
    """Return the path of an installed program, the daemons' directories included."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *_DIRECTORIES]))
    if found is None:
        raise ServerError(f"{name} is not installed; run scripts/prepare-test-servers")
    return Path(found)


def _installed(kind: Kind, names: Sequence[str]) -> Program | None:
    for name in names:
        for directory in _DIRECTORIES:
            path = Path(directory) / name
            if os.access(path, os.X_OK) and _is(kind, path):
                return Program(path.resolve())
    return None


def _is(kind: Kind, path: Path) -> bool:
    shown = subprocess.run([path, "--no-defaults", "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"Ver (\d+)\.(\d+)", shown)
    if version is None or ("MariaDB" in shown) is not (kind == "mariadb"):
        return False
    return (int(version[1]), int(version[2])) >= _OLDEST[kind]


def find_server(kind: Kind) -> Program:
    """Return the server program of a kind; raises `ServerError` with what to do when there is none."""
    program: Program | None
    if kind == "mariadb":
        program = _installed(kind, ("mariadbd", "mysqld"))
    else:
        root = cache_directory() / "mysql-sid"
        tree = Program(root / "usr/sbin/mysqld", root)
        program = tree if tree.path.is_file() else _installed(kind, ("mysqld",))
    if program is None:
        raise ServerError(
            f"no {kind} server on this machine: run scripts/prepare-test-servers, "
            "or name a server of your own in TASKCENTER_TEST_MYSQL_URL"
        )
    return program
