"""Hints between instances: "a task of your shard is due about now" (DESIGN.md §1). Best effort, and by design no more.

**Theory.** A create, a change, a run now or a redelivery may reach any instance; only the owner of the shard sends. The
owner's sweep finds the row within a second or so, and what is due later than that in good time. So a hint is sent only
for what is due sooner, and it is a reference like all that the engine carries about: the row is claimed by version and
term, whoever told of it. A hint that is lost, late, repeated or stale changes at most when the owner looks.

**Invariants.** Nobody waits for a hint: a full outbox and a full socket drop it. A hint is never passed on, so it goes
nowhere twice. It can only make a task be looked at, never be left alone: there is no hint for a cancel. That one needs
none, for the claim of a cancelled row fails everywhere; and obeying a false one would leave a row running that nobody
sends.

**Safety.** Datagrams over UDP to numeric addresses that the peers have written into the store. Each is sealed (AES-GCM,
with a key derived from the encryption keys for this alone) for the one instance it is meant for, and says when it was
sealed. What does not open, is old or makes no sense is counted and dropped, before anything of it is used; a replay
within the time allowed costs a claim that is refused.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from ipaddress import IPv6Address, ip_address
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.config import split_address
from taskcenter.errors import ConfigError
from taskcenter.metrics import Metrics
from taskcenter.runtime.identity import same_machine
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.store.vault import Unsealable, Vault, derive
from taskcenter.task import FlowLimit, TaskRef

WITHIN_MS: Final = 3000  # what is due later is swept before it is due
FRESH_MS: Final = 30_000  # older or newer than this by our clock: refused
MAX_BYTES: Final = 1200  # of references in one datagram, if more than one: no link on the way cuts that
MAX_DATAGRAM: Final = 4096
MAX_OUTBOX: Final = 1000  # references waiting to be sent
PORTS: Final = 64  # tried from the one that is set: the processes of one machine share the setting
FAULT_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Peer:
    """An instance that can be told."""

    instance_id: str
    host: str
    port: int


def peers_by_shard(
    instances: Iterable[Instance], leases: Iterable[ShardLease], own_id: str, identity: str
) -> dict[int, Peer]:
    """The other instances that own shards and have an address that means something here. Pure.

    `identity`: this process's, as in the instances' rows. A loopback address is another machine's own affair.
    """
    peers = {
        one.id: peer
        for one in instances
        if one.id != own_id and not one.dead and (peer := _peer(one, identity)) is not None
    }
    return {lease.shard: peers[lease.owner] for lease in leases if lease.owner in peers}


def _peer(instance: Instance, identity: str) -> Peer | None:
    try:
        host, port = split_address(instance.address or "")
        address = ip_address(host)
    except ValueError:
        return None
    if address.is_loopback and not same_machine(identity, instance.host_identity):
        return None
    return Peer(instance.id, host, port)


def packed(refs: Sequence[TaskRef], now_ms: int) -> Iterator[bytes]:
    """The references in as many texts as it takes, each with the time. Pure."""
    some: list[str] = []
    size = 0
    for ref in refs:
        text = json.dumps(astuple(ref), separators=(",", ":"))
        if some and size + len(text) > MAX_BYTES:
            yield f"[{now_ms},{','.join(some)}]".encode()
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some:
        yield f"[{now_ms},{','.join(some)}]".encode()


def unpacked(text: bytes, now_ms: int) -> list[TaskRef]:
    """What `packed` packed. Pure. Raises ValueError for what is old, or of another release's making."""
    sealed_at, *rows = json.loads(text)
    if abs(now_ms - sealed_at) > FRESH_MS:
        raise ValueError("old")
    return [_ref(row) for row in rows]


def _ref(row: object) -> TaskRef:
    if not isinstance(row, list) or len(row) != len(fields(TaskRef)):
        raise ValueError("other fields")
    *most, limit = row
    values = [*most, None if limit is None else FlowLimit(*limit)]
    return TaskRef(*values)


class Nudges:
    """One socket, for both ways. Made inside `trio.run`; `send` and `learn` are sync and never wait."""

    def __init__(
        self, bind: str, keys: Sequence[tuple[str, bytes]], identity: str, clock: Clock, metrics: Metrics
    ) -> None:
        """`bind`: a numeric address and a port, 0 for any. `keys`: the encryption keys. Raises `ConfigError`."""
        self._vault = Vault([(key_id, derive(key, "nudge")) for key_id, key in keys])
        self._identity = identity
        self._clock = clock
        self._count = metrics.nudges
        self._socket = _bound(bind)
        self._peers: dict[int, Peer] = {}  # by shard; replaced by `learn`
        self._outbox: list[tuple[Peer, TaskRef]] = []
        self._wake = trio.Event()
        self._log = log.get("nudges")

    @property
    def address(self) -> str:
        """What peers find in this instance's row."""
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def learn(self, instances: Iterable[Instance], leases: Iterable[ShardLease], own_id: str) -> None:
        """Who owns what now, as the store says."""
        self._peers = peers_by_shard(instances, leases, own_id, self._identity)

    def send(self, ref: TaskRef) -> None:
        """Tell the owner of a task that is due about now."""
        if ref.due_at > self._clock.now_ms() + WITHIN_MS:
            return
        peer = self._peers.get(ref.shard)
        if peer is None or len(self._outbox) >= MAX_OUTBOX:
            self._count.labels("dropped").inc()
            return
        self._outbox.append((peer, ref))
        self._wake.set()

    async def run(self, take: Callable[[TaskRef], None], own_id: Callable[[], str]) -> None:
        """Send and receive for ever; `take` gets what peers tell."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_all)
                nursery.start_soon(self._receive, take, own_id)
        finally:
            self._socket.close()

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            outbox, self._outbox = self._outbox, []
            by_peer: dict[Peer, list[TaskRef]] = {}
            for peer, ref in outbox:
                by_peer.setdefault(peer, []).append(ref)
            for peer, refs in by_peer.items():
                for text in packed(refs, self._clock.now_ms()):
                    self._send(peer, text)
                    await trio.lowlevel.checkpoint()

    def _send(self, peer: Peer, text: bytes) -> None:
        try:
            self._socket.sendto(self._vault.seal(text, _context(peer.instance_id)), (peer.host, peer.port))
        except OSError as error:  # no room, no way there, another family: the sweep finds the rows
            self._count.labels("dropped").inc()
            self._log.debug("hint not sent", peer=peer.instance_id, error=errno.errorcode.get(error.errno or 0))
        else:
            self._count.labels("sent").inc()

    async def _receive(self, take: Callable[[TaskRef], None], own_id: Callable[[], str]) -> None:
        receiver = trio.socket.from_stdlib_socket(self._socket)
        while True:
            try:
                sealed = await receiver.recv(MAX_DATAGRAM)
            except OSError as error:
                self._log.debug("hints not received", error=errno.errorcode.get(error.errno or 0))
                await trio.sleep(FAULT_PAUSE_S)
                continue
            try:
                refs = unpacked(self._vault.open(sealed, _context(own_id())), self._clock.now_ms())
            except (Unsealable, ValueError):
                self._count.labels("refused").inc()
                continue
            self._count.labels("taken").inc()
            for ref in refs:
                take(ref)

    def __repr__(self) -> str:
        return f"<Nudges at {self.address}, {len(self._peers)} shards elsewhere, {len(self._outbox)} waiting>"


def _context(receiver_id: str) -> str:
    return f"nudge:{receiver_id}"


def _bound(bind: str) -> socket.socket:
    host, first = split_address(bind)
    family = socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    for port in range(first, min(first + PORTS, 65536) if first else 1):
        try:
            made.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            made.close()
            raise ConfigError(f"TASKCENTER_PEER_ADDRESS: {bind}: {error.strerror}; e.g. 10.0.0.5:7070") from None
        return made
    made.close()
    raise ConfigError(f"TASKCENTER_PEER_ADDRESS: {bind}: this port and those after it are taken; e.g. 10.0.0.5:0")
