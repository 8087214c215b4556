"""What instances tell and ask one another: "a task of your shard is due now", "why does this one not start?".

**Theory.** A request reaches any instance; only the owner of the shard sends, and only it knows what holds a task
back. Its sweep finds a new row within a second or so, and what is due later than that in good time. So a *hint* is
sent only for what is due sooner, and it is a reference like all that the engine carries about: the row is claimed by
version and term, whoever told of it. A hint that is lost, late, repeated or stale changes at most when the owner
looks. A *question* is a read; without a reply the asker says that there was none. DESIGN.md §1, docs/decisions/0007.

A hint to a former owner is lost, so whoever takes shards *tells*, and nobody goes by his last look until the next.

**Invariants.** No write waits for a peer: a full outbox and a full socket drop the hint. A hint is never passed on, so
it goes nowhere twice. It can only make a task be looked at, never be left alone: there is no hint for a cancel. That
one needs none, for the claim of a cancelled row fails everywhere; and obeying a false one would leave a row running
that nobody sends.

**Safety.** Datagrams over UDP between numeric addresses that the instances have written into the store. Each is sealed
(AES-GCM, with a key derived from the encryption keys for this alone) for the one instance it is meant for, and says
when that was. What does not open, is old or makes no sense is counted and dropped, before anything of it is used. A
replay within the time allowed costs a claim that is refused, or a reply that goes where the peer lives by its row.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.metrics import Metrics
from taskcenter.runtime.datagrams import Datagrams
from taskcenter.runtime.peers import (
    Hints,
    Message,
    Peer,
    Peers,
    Question,
    Released,
    Reply,
    Taken,
    hints,
    packed,
    peers_of,
    unpacked,
)
from taskcenter.service.engine_port import WaitView
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.store.vault import Unsealable, Vault, derive
from taskcenter.task import TaskRef

WITHIN_MS: Final = 3000  # what is due later is swept before it is due
MAX_OUTBOX: Final = 1000  # references waiting to be sent
MAX_ASKED: Final = 64  # questions without a reply yet
PATIENCE_S: Final = 0.4  # for a reply
FAULT_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ears:
    """What this instance does with what it is told and asked."""

    own_id: Callable[[], str]
    take: Callable[[TaskRef], None]  # a hint
    tell: Callable[[int, str], WaitView | None]  # (business, task): what holds it back here
    look: Callable[[], None]  # at the shards, for some are free


class PeerLink:
    """One socket, for both ways. Made inside `trio.run`; `send` and `learn` are sync and never wait."""

    def __init__(
        self, datagrams: Datagrams, keys: Sequence[tuple[str, bytes]], identity: str, clock: Clock, metrics: Metrics
    ) -> None:
        """`datagrams`: closed by `run`. `keys`: the encryption keys."""
        self._vault = Vault([(key_id, derive(key, "nudge")) for key_id, key in keys])
        self._identity = identity
        self._clock = clock
        self._count = metrics.peer_datagrams
        self._datagrams = datagrams
        self._peers = Peers()  # replaced by `learn`, and when a peer tells that it took shards
        self._own_id = ""
        self._outbox: list[tuple[Peer, TaskRef]] = []
        self._wake = trio.Event()
        self._numbers = itertools.count(1)
        self._asked: dict[int, trio.MemorySendChannel[Reply]] = {}
        self._log = log.get("peers")

    @property
    def address(self) -> str:
        """What peers find in this instance's row."""
        return self._datagrams.address

    def learn(self, instances: Iterable[Instance], leases: Iterable[ShardLease], own_id: str) -> None:
        """Who owns what now, as the store says."""
        self._peers, self._own_id = peers_of(instances, leases, own_id, self._identity), own_id

    def send(self, ref: TaskRef) -> None:
        """Tell the owner of a task that is due about now."""
        if ref.due_at > self._clock.now_ms() + WITHIN_MS:
            return
        peer = self._peers.owner_of(ref.shard)
        if peer is None or len(self._outbox) >= MAX_OUTBOX:
            self._count.labels("dropped").inc()
            return
        self._outbox.append((peer, ref))
        self._wake.set()

    def released(self) -> None:
        """Tell all that shards were given up."""
        for peer in self._peers.by_id.values():
            self._say(peer, Released())

    def taken(self, shards: Iterable[int]) -> None:
        """Tell all that these are this instance's now."""
        for peer in self._peers.by_id.values():
            self._say(peer, Taken(self._own_id, tuple(sorted(shards))))

    async def ask(self, shard: int, business_id: int, task_id: str) -> WaitView | None:
        """What the owner of `shard` says holds this task back; None: it has not taken it up yet."""
        peer = self._peers.owner_of(shard)
        if shard not in self._peers.owners:
            return WaitView(
                "owner", None, None, f"no instance runs shard {shard} now; another is about to take it over"
            )
        silent = WaitView("owner", None, None, f"shard {shard} is run by another instance, which did not say")
        if peer is None or len(self._asked) >= MAX_ASKED:
            return silent
        number = next(self._numbers)
        self._asked[number], replies = trio.open_memory_channel[Reply](1)
        try:
            with trio.move_on_after(PATIENCE_S):
                self._say(peer, Question(number, self._own_id, business_id, task_id))
                return (await replies.receive()).view
            return silent
        finally:
            del self._asked[number]

    async def run(self, ears: Ears) -> None:
        """Send and receive for ever."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_hints)
                nursery.start_soon(self._receive, ears)
        finally:
            self._datagrams.close()

    async def _send_hints(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            outbox, self._outbox = self._outbox, []
            by_peer: dict[Peer, list[TaskRef]] = {}
            for peer, ref in outbox:
                by_peer.setdefault(peer, []).append(ref)
            for peer, refs in by_peer.items():
                for message in hints(refs):
                    self._say(peer, message)
                    await trio.lowlevel.checkpoint()

    def _say(self, peer: Peer, message: Message) -> None:
        sealed = self._vault.seal(packed(message, self._clock.now_ms()), _context(peer.instance_id))
        try:
            self._datagrams.send(sealed, peer.host, peer.port)
        except OSError as error:  # no room, no way there, another family
            self._count.labels("dropped").inc()
            self._log.debug("peer not told", peer=peer.instance_id, error=errno.errorcode.get(error.errno or 0))
        else:
            self._count.labels("sent").inc()

    async def _receive(self, ears: Ears) -> None:
        while True:
            try:
                sealed = await self._datagrams.receive()
            except OSError as error:
                self._log.debug("peers not heard", error=errno.errorcode.get(error.errno or 0))
                await trio.sleep(FAULT_PAUSE_S)
                continue
            try:
                message = unpacked(self._vault.open(sealed, _context(ears.own_id())), self._clock.now_ms())
            except (Unsealable, ValueError):
                self._count.labels("refused").inc()
                continue
            self._count.labels("taken").inc()
            self._hear(message, ears)

    def _hear(self, message: Message, ears: Ears) -> None:
        match message:
            case Hints(refs=refs):
                for ref in refs:
                    ears.take(ref)
            case Question(number=number, asker=asker, business_id=business_id, task_id=task_id):
                if (peer := self._peers.by_id.get(asker)) is not None:
                    self._say(peer, Reply(number, ears.tell(business_id, task_id)))
            case Reply(number=number):
                if (waiting := self._asked.get(number)) is not None and not waiting.statistics().current_buffer_used:
                    waiting.send_nowait(message)
            case Released():
                ears.look()
            case Taken():
                self._peers = self._peers.with_taken(message)

    def __repr__(self) -> str:
        return f"<PeerLink at {self.address}, {len(self._peers.by_id)} peers, {len(self._outbox)} hints waiting>"


def _context(receiver_id: str) -> str:
    return f"nudge:{receiver_id}"
