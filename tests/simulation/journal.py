"""What really happened in the store: each change of a task and of a lease that was committed, in order, by whom.

Triggers write it in the changing transaction itself, so what is rolled back is not in it and nothing that a statement
does can be missed. History is written once: a trigger refuses everything else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import trio
from tests.store.store_kit import NOW

from taskcenter.store.connection import Connection

COLUMNS: Final = (
    "id", "kind", "business_id", "shard", "business_unique_id", "status", "version", "term", "sends", "current_retry",
    "max_retries", "retry_intervals", "deferrals", "interruptions", "doubtful", "manual", "run", "runs_done",
    "schedule", "deadline_at", "finish_url", "tags", "timeout_ms", "scheduled_at", "anchor_at", "next_execute_at",
    "finish_reason", "updated_at", "finished_at",
)  # fmt: skip
_NAMES: Final = ", ".join(COLUMNS)
_NEW: Final = ", ".join(f"NEW.{name}" for name in COLUMNS)
DDL: Final = (
    f"CREATE TABLE sim_tasks (seq INTEGER PRIMARY KEY, former, {_NAMES})",
    "CREATE TABLE sim_leases (seq INTEGER PRIMARY KEY, shard, former, former_owner, term, owner)",
    f"""CREATE TRIGGER sim_born AFTER INSERT ON tasks BEGIN
        INSERT INTO sim_tasks (former, {_NAMES}) VALUES (0, {_NEW}); END""",
    f"""CREATE TRIGGER sim_moved AFTER UPDATE ON tasks BEGIN
        INSERT INTO sim_tasks (former, {_NAMES}) VALUES (OLD.version, {_NEW}); END""",
    """CREATE TRIGGER sim_leased AFTER UPDATE ON shards BEGIN
        INSERT INTO sim_leases (shard, former, former_owner, term, owner)
        VALUES (NEW.shard, OLD.term, OLD.owner, NEW.term, NEW.owner); END""",
    """CREATE TRIGGER sim_buried AFTER UPDATE OF dead ON instances WHEN NEW.dead = 1 BEGIN
        INSERT INTO sim_leases (shard, owner) VALUES (-1, NEW.id); END""",
    """CREATE TRIGGER sim_kept BEFORE UPDATE ON task_executions BEGIN
        SELECT RAISE(ABORT, 'history is written once'); END""",
    """CREATE TRIGGER sim_gone BEFORE DELETE ON task_executions BEGIN
        SELECT RAISE(ABORT, 'history is written once'); END""",
)
_TASKS: Final = f"SELECT former, {_NAMES} FROM sim_tasks ORDER BY seq"
_LEASES: Final = "SELECT shard, former, former_owner, term, owner FROM sim_leases ORDER BY seq"


class Row(NamedTuple):
    """A task as it stood after a change: the columns that say where it is in its life."""

    id: str
    kind: str
    business_id: int
    shard: int
    business_unique_id: bytes
    status: str
    version: int
    term: int
    sends: int
    current_retry: int
    max_retries: int
    retry_intervals: str
    deferrals: int
    interruptions: int
    doubtful: int
    manual: int
    run: int
    runs_done: int
    schedule: str | None
    deadline_at: int | None
    finish_url: str | None
    tags: str | None
    timeout_ms: int
    scheduled_at: int
    anchor_at: int
    next_execute_at: int | None
    finish_reason: str | None
    updated_at: int
    finished_at: int | None


class Move(NamedTuple):
    seq: int  # of all that was committed
    at: int  # ms, true time
    by: str  # the instance whose transaction it was
    former: int  # version before; 0: there was no row
    row: Row


class Lease(NamedTuple):
    """A shard's change of hands; or an instance's burial, whose shard is `BURIED`."""

    seq: int
    at: int
    by: str
    shard: int
    former: int  # term before
    former_owner: str | None
    term: int
    owner: str | None


class Watcher:
    """Waits for a line of the trace that has a word in it. `who` is the one it is about."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.who = ""
        self.seen = trio.Event()


BURIED: Final = -1
Noted = tuple[Sequence[tuple[Any, ...]], Sequence[tuple[Any, ...]]]


@dataclass
class Journal:
    """`collect` within each transaction, `add` once it is committed. Also the trace: a line for all that happens."""

    now_ms: Callable[[], int] = lambda: NOW
    moves: dict[str, list[Move]] = field(default_factory=lambda: defaultdict(list))  # by task
    leases: dict[int, list[Lease]] = field(default_factory=lambda: defaultdict(list))  # by shard
    trace: list[str] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    seq: int = 0

    @staticmethod
    async def collect(connection: Connection) -> Noted:
        tasks = await connection.fetch(_TASKS)
        leases = await connection.fetch(_LEASES)
        if tasks:
            await connection.execute("DELETE FROM sim_tasks")
        if leases:
            await connection.execute("DELETE FROM sim_leases")
        return tasks, leases

    def add(self, noted: Noted, by: str) -> None:
        at = self.now_ms()
        for former, *values in noted[0]:
            self.seq += 1
            move = Move(self.seq, at, by, former, Row(*values))
            self.moves[move.row.id].append(move)
            row = move.row
            self.say(
                by, f"{row.id[-6:]} {row.status} v{row.version} term {row.term} sends {row.sends} "
                f"retry {row.current_retry}/{row.max_retries} deferrals {row.deferrals} due {row.next_execute_at} "
                f"{row.finish_reason or ''}"
            )  # fmt: skip
        for lease in noted[1]:
            self.seq += 1
            made = Lease(self.seq, at, by, *lease)
            self.leases[made.shard].append(made)
        if noted[1]:
            self.say(by, f"{len(noted[1])} shards change hands: {_short(noted[1])}")

    def say(self, who: str, what: str) -> None:
        self.trace.append(f"{(self.now_ms() - NOW) / 1000:10.3f} {who:<10} {what}")
        self.notify(who, what)

    def notify(self, who: str, what: str) -> None:
        """Wake those who wait for it."""
        if self.watchers:
            for watcher in [one for one in self.watchers if one.word in what]:
                self.watchers.remove(watcher)
                watcher.who = who
                watcher.seen.set()

    async def wait_for(self, word: str, within_s: float) -> str | None:
        """Who the next line with this word is about; None: there was none."""
        watcher = Watcher(word)
        self.watchers.append(watcher)
        with trio.move_on_after(within_s):
            await watcher.seen.wait()
            return watcher.who
        self.watchers.remove(watcher)
        return None

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def _short(leases: Sequence[tuple[object, ...]]) -> str:
    """Enough to see who took what, and for the digest."""
    return hashlib.sha256(repr(leases).encode()).hexdigest()[:12]
