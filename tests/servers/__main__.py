"""Servers for benches and trials by hand: `python -m tests.servers start`. They run until Ctrl-C."""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.servers.databases import Kind

if not __package__:  # run as `python tests/servers`
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers import Fleet, ServerError


def _start(kinds: Sequence[Kind], *, print_env: bool) -> None:
    with Fleet() as fleet:
        for kind in kinds:
            fleet.begin(kind)
        for kind in kinds:
            server = fleet.get(kind)
            url = server.create_database()
            name = kind.upper()
            values = {
                f"{name}_URL": url,
                f"{name}_ADMIN_URL": server.admin_url,
                f"{name}_SOCKET": str(server.socket),
                f"{name}_PID": str(server.pid),
                f"{name}_CA": str(server.ca_file),
            }
            if print_env:
                print(*(f"export {key}={shlex.quote(value)}" for key, value in values.items()), sep="\n", flush=True)
            else:
                print(f"{kind:8} {url}", flush=True)
        if not print_env:
            print("Ctrl-C ends them", flush=True)
        while True:
            signal.pause()


def main() -> int:
    """Parse the command line and serve; 0 after Ctrl-C, 1 when a server can't be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start", help="start servers, print how to reach them, end them at Ctrl-C")
    start.add_argument("--kind", action="append", choices=("mariadb", "mysql"), help="which (default: both)")
    start.add_argument("--print-env", action="store_true", help="print shell assignments, for eval")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had SIGINT ignored (`… &` in a script)
        signal.signal(number, signal.default_int_handler)
    try:
        _start(options.kind or ["mariadb", "mysql"], print_env=options.print_env)
    except KeyboardInterrupt:
        return 0
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
