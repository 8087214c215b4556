"""When keys and businesses were last used: noted in memory and written in batches, so that a read costs no write.

Everything noted is written once a minute; what was not used in this minute before, a second after its first use, so
that a new business is not shown as never used.

With them go the hashes of keys that were made with an older encryption key: whoever shows the key lets us make it anew.

Memory is bounded by the keys that are in use. A crash loses at most a minute of it; a store that is out only delays it.
"""

from __future__ import annotations

from typing import Final, TypeVar

import trio

from taskcenter import log
from taskcenter.errors import StoreUnavailable
from taskcenter.store.interface import BusinessStore

WRITE_EVERY_S: Final = 60.0
GATHER_S: Final = 1.0  # first uses in a minute are written together
FINAL_WRITE_S: Final = 2.0
MOST: Final = 50_000

Key = TypeVar("Key", int, str)

_log = log.get("usage")


class Usage:
    """Notes uses and writes them in batches; `run` beside the server."""

    def __init__(self, store: BusinessStore) -> None:
        self._store = store
        self._businesses: dict[int, int] = {}  # id → ms
        self._keys: dict[str, int] = {}  # key id → ms
        self._hashes: dict[str, tuple[bytes, bytes]] = {}  # key id → what is kept, what shall be
        self._seen: set[int | str] = set()  # businesses and keys that were written in this minute
        self._first_use = trio.Event()

    def note(self, business_id: int, key_id: str | None, now: int) -> None:
        if not self._seen.issuperset((business_id, key_id or business_id)):
            self._first_use.set()
        if len(self._businesses) < MOST or business_id in self._businesses:
            self._businesses[business_id] = now
        if key_id is not None and (len(self._keys) < MOST or key_id in self._keys):
            self._keys[key_id] = now

    def rehash(self, key_id: str, kept: bytes, new: bytes) -> None:
        if len(self._hashes) < MOST:
            self._hashes[key_id] = (kept, new)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write for ever, and a last time when cancelled."""
        task_status.started()
        try:
            while True:
                self._seen.clear()
                with trio.move_on_after(WRITE_EVERY_S):
                    await self._write_first_uses()
                await self.write()
        finally:
            with trio.move_on_after(FINAL_WRITE_S, shield=True):
                await self.write()

    async def _write_first_uses(self) -> None:
        while True:
            await self._first_use.wait()
            await trio.sleep(GATHER_S)
            self._first_use = trio.Event()
            self._seen.update(self._businesses, self._keys)
            await self.write()

    async def write(self) -> None:
        """Write what was noted. What could not be written stays noted; writing twice is harmless."""
        try:
            if businesses := dict(self._businesses):
                await self._store.touch(businesses)
                _forget(self._businesses, businesses)
            if keys := dict(self._keys):
                await self._store.touch_credentials(keys)
                _forget(self._keys, keys)
            for key_id, (kept, new) in list(self._hashes.items()):
                await self._store.rehash(key_id, kept, new)
                del self._hashes[key_id]
        except StoreUnavailable as error:
            _log.info("the times of last use could not be written yet", fault=str(error))

    def __repr__(self) -> str:
        return f"<Usage {len(self._businesses)} businesses, {len(self._keys)} keys to write>"


def _forget(noted: dict[Key, int], written: dict[Key, int]) -> None:
    for key, at in written.items():
        if noted.get(key) == at:
            del noted[key]
