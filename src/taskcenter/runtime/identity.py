"""Which process this is, so that a neighbour on the same machine can see that it is dead without waiting for its lease.

boot id | pid namespace | pid | start time. The same boot and namespace and no such process (or one that started at
another time): the instance that wrote it is gone for certain. Anything else: the lease decides.
"""

from __future__ import annotations

import os
from pathlib import Path


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def own_identity() -> str:
    """At most 200 characters."""
    pid = os.getpid()
    return f"{_boot()}|{_namespace()}|{pid}|{_started(pid) or ''}"


def same_machine(one: str, other: str) -> bool:
    """Whether two processes run under the same kernel and see each other: what is loopback to one is to the other."""
    ours, theirs = one.split("|")[:2], other.split("|")[:2]
    return len(ours) == 2 and all(ours) and ours == theirs


def surely_dead(identity: str) -> bool:
    """Whether the process that wrote `identity` has ended, as far as this machine can know for certain."""
    parts = identity.split("|")
    if len(parts) != 4 or not all(parts) or not parts[2].isdigit():
        return False
    boot, namespace, pid, started = parts
    if boot != _boot() or namespace != _namespace():
        return False
    return _started(int(pid)) != started
