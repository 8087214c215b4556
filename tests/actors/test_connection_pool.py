"""The pool alone: every slot accounted for, whatever order things happen in."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from taskcenter.actors.egress.connection_pool import ConnectionPool
from taskcenter.actors.egress.connection_room import ConnectionRoom
from taskcenter.actors.egress.http1 import Http1Connection, Origin

A = ("http", "a.example", 80, "")
B = ("http", "b.example", 80, "")


class QuietWire:
    """Alive until closed, or until `dead` is set."""

    open_now = 0

    def __init__(self) -> None:
        QuietWire.open_now += 1
        self.closed = False
        self.dead = False

    def begin_send(self, data: bytes) -> bool:
        return True

    async def finish_send(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    def receive_nowait(self) -> bytes | None:
        return b"" if self.dead else None

    def untaken(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            QuietWire.open_now -= 1


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    QuietWire.open_now = 0


def dialled(pool: ConnectionPool, origin: Origin) -> Http1Connection:
    connection = Http1Connection(QuietWire(), origin, "192.0.2.1:80", born_at=0.0)
    pool.add(connection)
    return connection


def wire_of(connection: Http1Connection) -> QuietWire:
    wire = connection._wire
    assert isinstance(wire, QuietWire)
    return wire


async def test_the_last_used_connection_is_taken_first() -> None:
    pool = ConnectionPool(4, max_idle_s=20, max_age_s=300)
    connections = []
    for _ in range(3):
        assert await pool.acquire(A) is None
        connections.append(dialled(pool, A))
    for connection in connections:
        pool.give_back(connection, now=1.0)
    assert pool.take(B, now=1.0) is None
    assert pool.take(A, now=1.0) is connections[2]
    assert pool.take(A, now=1.0) is connections[1]
    assert (pool.open, pool.idle, pool.slots_taken) == (3, 1, 3)


async def test_dead_ones_are_passed_over_and_closed() -> None:
    pool = ConnectionPool(4, max_idle_s=20, max_age_s=300)
    connections = []
    for _ in range(3):
        await pool.acquire(A)
        connections.append(dialled(pool, A))
    for connection in connections:
        pool.give_back(connection, now=1.0)
    for connection in connections[1:]:
        wire_of(connection).dead = True  # the peer has hung up
    assert pool.take(A, now=1.0) is connections[0]
    assert (QuietWire.open_now, pool.slots_taken) == (1, 1)


async def test_the_longest_rest_makes_room_for_another_origin() -> None:
    pool = ConnectionPool(2, max_idle_s=20, max_age_s=300)
    for origin in (A, B):
        await pool.acquire(origin)
        pool.give_back(dialled(pool, origin), now=1.0)
    assert await pool.acquire(("http", "c.example", 80, "")) is None
    assert pool.take(A, now=1.0) is None
    assert (pool.open, pool.slots_taken) == (1, 2)
    assert pool.take(B, now=1.0) is not None


async def test_a_waiter_is_handed_a_connection_of_its_origin_and_a_slot_of_another() -> None:
    pool = ConnectionPool(1, max_idle_s=20, max_age_s=300)
    await pool.acquire(A)
    connection = dialled(pool, A)
    got: list[Http1Connection | None] = []

    async def wants(origin: Origin) -> None:
        got.append(await pool.acquire(origin))

    async with trio.open_nursery() as nursery:
        for origin in (A, B):
            nursery.start_soon(wants, origin)
            await trio.testing.wait_all_tasks_blocked()
        assert pool.waiting == 2
        pool.give_back(connection, now=1.0)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [connection]
        pool.give_back(connection, now=2.0)
    assert got == [connection, None]
    assert (QuietWire.open_now, pool.slots_taken) == (0, 1)


async def test_who_waits_when_it_closes_is_told() -> None:
    pool = ConnectionPool(1, max_idle_s=20, max_age_s=300)
    await pool.acquire(A)
    connection = dialled(pool, A)

    async def wants() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.acquire(A)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wants)
        nursery.start_soon(wants)
        await trio.testing.wait_all_tasks_blocked()
        pool.give_back(connection, now=1.0)  # one of them is handed it …
        pool.close()  # … and cannot use it any more
    assert (QuietWire.open_now, pool.open, pool.slots_taken, pool.waiting) == (0, 0, 0, 0)


async def test_a_greater_bound_serves_who_waits_and_a_smaller_one_closes_what_rests() -> None:
    pool = ConnectionPool(1, max_idle_s=20, max_age_s=300)
    connections = []

    async def dial() -> None:
        assert await pool.acquire(A) is None
        connections.append(dialled(pool, A))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(dial)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(connections), pool.waiting) == (1, 2)
        pool.resize(3)
    assert (pool.slots_taken, pool.waiting, pool.max_connections) == (3, 0, 3)
    pool.give_back(connections[0], now=1.0)
    pool.resize(2)
    assert (pool.open, pool.idle, pool.slots_taken) == (2, 0, 2), "the one that rested"
    pool.resize(1)
    pool.give_back(connections[1], now=1.0)
    pool.give_back(connections[2], now=1.0)
    assert (QuietWire.open_now, pool.idle, pool.slots_taken) == (1, 1, 1)


def assert_account(pools: list[ConnectionPool], bound: int, room: ConnectionRoom[Http1Connection], most: int) -> None:
    """Of pools with `bound` each, and a room of `most`."""
    for pool in pools:
        assert pool.open <= pool.slots_taken <= bound
        assert not (pool.waiting and pool.slots_taken < pool.max_connections)
    assert sum(pool.open for pool in pools) == QuietWire.open_now
    assert sum(pool.slots_taken for pool in pools) == room.taken
    assert room.taken <= most or not any(pool.idle for pool in pools)


@pytest.mark.parametrize("seed", range(20))
async def test_chaos_keeps_the_account(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Sixty users of two businesses with random origins, bounds, delays, faults, cancellations: never over the bound,
    free at the end, and none at rest where both together have more than their room.
    """
    rng = random.Random(seed)
    bound = rng.randint(1, 6)
    most = rng.randint(1, 2 * bound)
    room: ConnectionRoom[Http1Connection] = ConnectionRoom(most)
    pools = [ConnectionPool(bound, max_idle_s=3, max_age_s=rng.choice([1, 300]), room=room) for _ in range(2)]

    def check() -> None:
        assert_account(pools, bound, room, most)

    async def use(pool: ConnectionPool, origin: Origin) -> None:
        connection = pool.take(origin, trio.current_time()) or await pool.acquire(origin)
        if connection is None:
            try:
                await trio.sleep(rng.choice([0, 0.1, 0.3]))
                if rng.random() < 0.2:
                    raise ConnectionRefusedError
            except BaseException:
                pool.free_slot()
                raise
            connection = dialled(pool, origin)
        check()
        try:
            await trio.sleep(rng.choice([0, 0.1, 0.5]))
        except BaseException:
            pool.drop(connection)
            raise
        connection.reusable = rng.random() < 0.8
        wire_of(connection).dead = rng.random() < 0.1
        pool.give_back(connection, trio.current_time())
        check()

    async def user() -> None:
        for _ in range(10):
            pool = rng.choice(pools)
            try:
                with trio.move_on_after(rng.choice([0.1, 0.2, 1, 5])):
                    await use(pool, rng.choice([A, A, B]))
            except ConnectionRefusedError:
                check()
            await trio.sleep(rng.choice([0, 0.1, 4]))
            pool.close_idle(trio.current_time())
            pool.resize(rng.randint(1, bound))
            check()

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(user)
    for pool in pools:
        assert pool.waiting == 0
        assert pool.slots_taken == pool.open == pool.idle
        pool.close()
        assert pool.slots_taken == 0
    assert (QuietWire.open_now, room.taken) == (0, 0)
