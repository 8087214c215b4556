"""The other instances: who they are by the store's rows, and what is said between them. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from ipaddress import ip_address
from typing import Any, Final

from taskcenter.config import split_address
from taskcenter.runtime.identity import same_machine
from taskcenter.service.engine_port import WaitView
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.task import FlowLimit, TaskRef

FRESH_MS: Final = 30_000  # older or newer than this by our clock: refused
MAX_BYTES: Final = 1200  # of references in one datagram, if more than one: no link on the way cuts that
MAX_DETAIL: Final = 500  # characters of an answer's text


@dataclass(frozen=True, slots=True)
class Peer:
    """An instance that can be told."""

    instance_id: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Peers:
    """Who else there is, and who owns what."""

    by_id: Mapping[str, Peer] = field(default_factory=dict)
    owners: Mapping[int, str] = field(default_factory=dict)  # shard → the live instance that owns it, ourselves too

    def with_taken(self, taken: Taken) -> Peers:
        """The same, once a peer that is known took some."""
        if taken.owner not in self.by_id:
            return self
        return Peers(self.by_id, {**self.owners, **dict.fromkeys(taken.shards, taken.owner)})

    def owner_of(self, shard: int) -> Peer | None:
        """None: nobody, ourselves, or one that cannot be told."""
        return self.by_id.get(self.owners.get(shard, ""))


def peers_of(instances: Iterable[Instance], leases: Iterable[ShardLease], own_id: str, identity: str) -> Peers:
    """From the store's rows. `identity`: this process's, as in the instances' rows.

    Left out is who has no numeric address, and a loopback address on another machine: that is its own affair.
    """
    alive = [one for one in instances if not one.dead]
    peers = (_peer(one, identity) for one in alive if one.id != own_id)
    ids = {one.id for one in alive}
    return Peers(
        {peer.instance_id: peer for peer in peers if peer is not None},
        {lease.shard: lease.owner for lease in leases if lease.owner in ids and lease.owner is not None},
    )


def _peer(instance: Instance, identity: str) -> Peer | None:
    try:
        host, port = split_address(instance.address or "")
        address = ip_address(host)
    except ValueError:
        return None
    if address.is_loopback and not same_machine(identity, instance.host_identity):
        return None
    return Peer(instance.id, host, port)


# --- messages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hints:
    """Tasks of the receiver's shards that are due about now."""

    refs: tuple[TaskRef, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What does this task, which is due, wait for?"""

    number: int
    asker: str  # the instance
    business_id: int
    task_id: str


@dataclass(frozen=True, slots=True)
class Reply:
    """To the question of that number. None: the task has not been taken up."""

    number: int
    view: WaitView | None


@dataclass(frozen=True, slots=True)
class Released:
    """Shards were given up: whoever lacks some may look at once."""


@dataclass(frozen=True, slots=True)
class Taken:
    """These shards are this instance's now: whoever has hints for them need not wait for his next look."""

    owner: str  # the instance
    shards: tuple[int, ...]


Message = Hints | Question | Reply | Released | Taken


def hints(refs: Sequence[TaskRef]) -> Iterator[Hints]:
    """The references in as many messages as it takes."""
    some: list[TaskRef] = []
    size = 0
    for ref in refs:
        length = len(json.dumps(astuple(ref)))
        if some and size + length > MAX_BYTES:
            yield Hints(tuple(some))
            some, size = [], 0
        some.append(ref)
        size += length
    if some:
        yield Hints(tuple(some))


def packed(message: Message, now_ms: int) -> bytes:
    """As text, with the time."""
    rows: list[Any]
    match message:
        case Hints(refs=refs):
            rows = ["hints", *map(astuple, refs)]
        case Question():
            rows = ["question", astuple(message)]
        case Reply(number=number, view=view):
            rows = ["reply", [number, *([] if view is None else [*astuple(view)[:-1], view.detail[:MAX_DETAIL]])]]
        case Released():
            rows = ["released"]
        case Taken(owner=owner, shards=shards):
            rows = ["taken", owner, *shards]
    return json.dumps([now_ms, *rows], separators=(",", ":")).encode()


def unpacked(text: bytes, now_ms: int) -> Message:
    """What `packed` packed. Raises ValueError for what is old, or of another release's making."""
    try:
        sealed_at, kind, *rows = json.loads(text)
        if abs(now_ms - sealed_at) > FRESH_MS:
            raise ValueError("old")
        return _READERS[kind](rows)
    except (KeyError, TypeError):
        raise ValueError("of another release") from None


def _hints(rows: list[Any]) -> Hints:
    return Hints(tuple(map(_ref, rows)))


def _ref(row: list[Any]) -> TaskRef:
    _must_be(row, [str, int, int, int, int, str], len(fields(TaskRef)))
    *most, limit = row
    values = [*most, None if limit is None else FlowLimit(*limit)]
    return TaskRef(*values)


def _question(rows: list[Any]) -> Question:
    [row] = rows
    _must_be(row, [int, str, int, str], 4)
    return Question(*row)


def _reply(rows: list[Any]) -> Reply:
    [[number, *view]] = rows
    _must_be([number], [int], 1)
    return Reply(number, WaitView(*view) if view else None)


def _released(rows: list[Any]) -> Released:
    _must_be(rows, [], 0)
    return Released()


def _taken(rows: list[Any]) -> Taken:
    _must_be(rows, [str, *[int] * (len(rows) - 1)], len(rows))
    owner, *shards = rows
    return Taken(owner, tuple(shards))


def _must_be(row: list[Any], begins: list[type], length: int) -> None:
    """What the engine looks up by must be of the right kind; the rest is only shown or compared with the row."""
    if len(row) != length or [type(value) for value in row[: len(begins)]] != begins:
        raise ValueError("of another release")


_READERS: Final[dict[str, Callable[[list[Any]], Message]]] = {
    "hints": _hints, "question": _question, "reply": _reply, "released": _released, "taken": _taken,
}  # fmt: skip
