"""Private database servers for tests, benches and trials by hand.

A server here is a real `mariadbd` or `mysqld` with a data directory and a loopback port of its own, started by the
process that needs it and gone with it. Nothing of the machine's own database configuration is read or changed.

What keeps it safe:

- **Everything of one process is under one directory** (`RunDirectory`), locked by that process. A process that was
  killed leaves its directory unlocked; the next one to start finds it, ends the servers named in it, and removes it.
- **Mounts can't be left behind.** MySQL runs in a chroot (Debian carries it in the unstable suite alone; see
  scripts/prepare-test-servers) inside a mount namespace of its own, so `/proc` and `/dev` are unbound when it ends.
- **Durability is on** (`innodb_flush_log_at_trx_commit=1`): what a test sees after a killed server is what production
  would show. The directory itself is on tmpfs when there is room, so that hundreds of small databases do not wait for a
  slow disk: a killed server loses nothing there, only a killed machine would, and no test on it can have that case.

From a terminal: `python -m tests.servers start --print-env`.
"""

from tests.servers.fleet import Fleet, own_server_url
from tests.servers.own import OwnServer
from tests.servers.private import MariaDbServer, MySqlServer, PrivateServer, free_port
from tests.servers.rundir import RunDirectory, ServerError

__all__ = [
    "Fleet",
    "MariaDbServer",
    "MySqlServer",
    "OwnServer",
    "PrivateServer",
    "RunDirectory",
    "ServerError",
    "free_port",
    "own_server_url",
]
