"""The signing secrets that attempts use: remembered for an instant, and never older than a rotation made here."""

from __future__ import annotations

import trio
import trio.testing

from taskcenter.actors.signing import SigningSecret
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.runtime.signing_keys import FRESH_S, SigningSecrets
from taskcenter.store.records import SigningSecret as SecretRow

FORMER, NEWER = (f"whsec_{letter * 40}" for letter in "AB")


class Kept:
    """What the store holds. `slow` makes a read of it take a second, though it tells of its beginning."""

    def __init__(self) -> None:
        self.secrets: tuple[str, ...] = (FORMER,)
        self.reads = 0
        self.out = self.slow = False

    async def read(self, business_id: int, now: int) -> list[SecretRow]:
        self.reads += 1
        if self.out:
            raise StoreUnavailable("out")
        rows = [SecretRow(secret, business_id, secret, 0, None) for secret in self.secrets]
        await trio.sleep(1 if self.slow else 0)
        return rows


def parsed(*secrets: str) -> tuple[SigningSecret, ...]:
    return tuple(map(SigningSecret.parse, secrets))


async def test_one_read_serves_for_an_instant(autojump_clock: object) -> None:
    store = Kept()
    secrets = SigningSecrets(store.read, Clock())
    for _ in range(3):
        assert tuple(await secrets.of(1)) == parsed(FORMER)
    assert store.reads == 1
    store.secrets = (NEWER, FORMER)
    await trio.sleep(FRESH_S)
    assert tuple(await secrets.of(1)) == parsed(NEWER, FORMER)


async def test_a_change_made_here_is_in_force_with_the_next_attempt(autojump_clock: object) -> None:
    store = Kept()
    secrets = SigningSecrets(store.read, Clock())
    await secrets.of(1)
    store.secrets = (NEWER, FORMER)
    secrets.changed(1)
    assert tuple(await secrets.of(1)) == parsed(NEWER, FORMER)
    await secrets.of(1)
    assert store.reads == 2


async def test_what_a_read_of_before_the_change_brings_is_given_to_nobody_after_it(autojump_clock: object) -> None:
    store = Kept()
    secrets = SigningSecrets(store.read, Clock())
    given: list[tuple[SigningSecret, ...]] = []

    async def attempt() -> None:
        given.append(tuple(await secrets.of(1)))

    async with trio.open_nursery() as nursery:
        store.slow = True
        nursery.start_soon(attempt)
        await trio.testing.wait_all_tasks_blocked()
        store.secrets = (NEWER, FORMER)
        secrets.changed(1)
        nursery.start_soon(attempt)
    assert given == [parsed(FORMER), parsed(NEWER, FORMER)]
    assert tuple(await secrets.of(1)) == parsed(NEWER, FORMER)


async def test_without_the_store_the_last_known_go_on(autojump_clock: object) -> None:
    store = Kept()
    secrets = SigningSecrets(store.read, Clock())
    await secrets.of(1)
    store.out = True
    secrets.changed(1)
    assert tuple(await secrets.of(1)) == parsed(FORMER)
