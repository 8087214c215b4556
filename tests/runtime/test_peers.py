"""Who the other instances are, and what is said between them: pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.runtime.peers import (
    FRESH_MS,
    MAX_BYTES,
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
from taskcenter.store.engine_records import Instance as Row
from taskcenter.store.engine_records import ShardLease
from taskcenter.task import FlowLimit, TaskRef

NOW = 1_800_000_000_000
REF = TaskRef("01JA8Z3N4V7Q2M6K9T5R1X8C0B", 7, 3, NOW, 1, "shop.example:443")


def row(name: str, address: str | None, **given: Any) -> Row:
    identity = given.pop("identity", f"boot|ns|{name}|1")
    return replace(Row(name, address, identity, 1, dead=False, expires_in_ms=9000, started_at=0), **given)


# --- who can be told ------------------------------------------------------------------------------------------------


def test_the_owners_that_can_be_told() -> None:
    rows = [
        row("me", "127.0.0.1:1"), row("near", "127.0.0.1:2"), row("six", "[::1]:3"), row("far", "10.0.0.5:4"),
        row("elsewhere", "127.0.0.1:5", identity="other|ns|1|1"), row("container", "[::1]:6", identity="boot|x|1|1"),
        row("unknown", "127.0.0.1:7", identity="|||"), row("dead", "10.0.0.6:8", dead=True), row("alone", None),
        row("named", "host.example:9"), row("odd", "10.0.0.7"),
    ]  # fmt: skip
    leases = [ShardLease(number, one.id, 1) for number, one in enumerate(rows)]
    leases += [ShardLease(98, None, 1), ShardLease(99, "gone", 1)]
    peers = peers_of(rows, leases, "me", "boot|ns|7|1")
    told = {shard: peer for shard in range(256) if (peer := peers.owner_of(shard)) is not None}
    assert told == {1: Peer("near", "127.0.0.1", 2), 2: Peer("six", "::1", 3), 3: Peer("far", "10.0.0.5", 4)}
    assert peers.owners.keys() == {0, 1, 2, 3, 4, 5, 6, 8, 9, 10}, "nobody alive runs the others"
    assert peers_of(rows, leases, "me", "").by_id.keys() == {"far"}, "who knows no machine tells none on it"


# --- the datagram ---------------------------------------------------------------------------------------------------

refs = st.builds(
    TaskRef,
    st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26), st.integers(1, 2**40), st.integers(0, 255),
    st.integers(NOW, NOW + 3000), st.integers(1, 2**40), st.text(max_size=255),
    st.none() | st.integers(NOW, NOW + 10**12), st.none() | st.text(min_size=1, max_size=128),
    st.none() | st.builds(FlowLimit, st.none() | st.just(5), st.integers(1000, 9000), st.none() | st.just(2)),
)  # fmt: skip


views = st.builds(
    WaitView,
    st.text(max_size=20),
    st.none() | st.integers(0, 10_000),
    st.none() | st.integers(NOW),
    st.text(max_size=500),
)
messages = (
    st.builds(Hints, st.lists(refs, max_size=3).map(tuple))
    | st.builds(Question, st.integers(1), st.text(max_size=26), st.integers(1), st.text(max_size=26))
    | st.builds(Reply, st.integers(1), st.none() | views)
    | st.builds(Released)
    | st.builds(Taken, st.text(max_size=26), st.lists(st.integers(0, 255), max_size=256).map(tuple))
)


@given(messages)
def test_what_is_packed_is_unpacked(message: Message) -> None:
    assert unpacked(packed(message, NOW), NOW + 5) == message


@given(st.lists(refs, max_size=40))
def test_hints_are_shared_out_over_datagrams(given_refs: list[TaskRef]) -> None:
    made = list(hints(given_refs))
    assert [ref for message in made for ref in message.refs] == given_refs
    assert all(len(message.refs) == 1 or len(packed(message, NOW)) <= MAX_BYTES + 40 for message in made)


def test_all_shards_in_one_datagram() -> None:
    assert len(packed(Taken(REF.task_id, tuple(range(256))), NOW)) <= MAX_BYTES


def test_who_took_shards_is_their_owner_if_it_is_known() -> None:
    peers = Peers({"two": Peer("two", "127.0.0.1", 1)}, {3: "me", 4: "two"})
    after = peers.with_taken(Taken("two", (3, 5)))
    assert after.owners == {3: "two", 4: "two", 5: "two"}
    assert after.owner_of(3) == Peer("two", "127.0.0.1", 1)
    assert peers.with_taken(Taken("nobody", (3,))) == peers


@pytest.mark.parametrize("off_by", [-FRESH_MS - 1, FRESH_MS + 1])
def test_what_is_old_is_refused(off_by: int) -> None:
    text = packed(Hints((REF,)), NOW)
    assert unpacked(text, NOW + off_by + (1 if off_by < 0 else -1)) == Hints((REF,))
    with pytest.raises(ValueError, match="old"):
        unpacked(text, NOW + off_by)


@pytest.mark.parametrize(
    "rows",
    [
        ["hints", ["x", 1]], ["hints", [*json.loads(packed(Hints((REF,)), NOW))[2], "new"]], ["hints", 5], ["dance"],
        ["question", [1, "a"]], ["question"], ["question", [1, "a", [], "x"]],
        ["reply", [[1]]], ["reply", [1, "time"]], ["reply", []], [["hints"]], ["released", 1],
        ["taken"], ["taken", 5], ["taken", "a", "b"], ["taken", "a", 7, True],
    ],
)  # fmt: skip
def test_what_another_release_made_is_refused(rows: list[Any]) -> None:
    with pytest.raises(ValueError):
        unpacked(json.dumps([NOW, *rows]).encode(), NOW)


@pytest.mark.parametrize(
    "text", ["5", "null", "[]", "[5]", '["now", "hints"]', '{"at": 1}', "[1800000000000, null]", "{"]
)
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        unpacked(text.encode(), NOW)


@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda one: st.lists(one, max_size=4), max_leaves=20)
)
def test_nothing_sealed_brings_anything_but_a_message_or_a_refusal(rows: object) -> None:
    for kind in ("hints", "question", "reply", "released", "taken"):
        try:
            unpacked(json.dumps([NOW, kind, rows]).encode(), NOW)
        except ValueError:
            continue
