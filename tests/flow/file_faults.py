"""What may befall a database file: a disk that is full, and somebody else's lock.

A disk that can be filled is a tmpfs of bounded size. Mounting takes root or passwordless sudo, as the servers do.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import trio
from tests.servers import PrivateServer

ROOM_BYTES: Final = 48 << 20  # beside what a fresh server takes
BALLAST: Final = "ballast"
_CHUNK: Final = bytes(1 << 16)


@contextmanager
def small_disk(at: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes, mounted over the directory `at`."""
    owner = f"size={size},mode=0700,uid={os.geteuid()},gid={os.getegid()}"
    _as_root("mount", "-t", "tmpfs", "-o", owner, "tmpfs", str(at))
    try:
        yield at
    finally:
        _as_root("umount", "--lazy", str(at))


def _as_root(*command: str) -> None:
    subprocess.run([*([] if os.geteuid() == 0 else ["sudo", "-n"]), *command], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (disk / BALLAST).open("ab", buffering=0) as ballast:
        for chunk in (_CHUNK, bytes(512), b"\0"):
            with suppress(OSError):
                while ballast.write(chunk) == len(chunk):
                    pass


def make_room(disk: Path) -> None:
    (disk / BALLAST).unlink()


@asynccontextmanager
async def full(disk: Path) -> AsyncIterator[None]:
    """Not a byte is left."""
    await trio.to_thread.run_sync(fill, disk)
    try:
        yield
    finally:
        make_room(disk)


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process, or a console, holds a SQLite file's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def on_small_disk(server: PrivateServer) -> Iterator[PrivateServer]:
    """A new server, started, with its data on a disk that is soon full."""
    server.start()
    server.stop()
    aside = server.datadir.with_name("aside")
    server.datadir.rename(aside)
    server.datadir.mkdir()
    used = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    with small_disk(server.datadir, used + ROOM_BYTES):
        shutil.copytree(aside, server.datadir, dirs_exist_ok=True)
        shutil.rmtree(aside)
        server.start()
        try:
            yield server
        finally:
            server.stop()
