"""Group commit: what gathers is one batch, every producer gets its own result, and faults go to whom they belong."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from taskcenter.actors.committer import Committer
from taskcenter.errors import CommitUnknown, StoreUnavailable
from taskcenter.metrics import Metrics


def committer(
    commit: Callable[[Sequence[int]], Awaitable[Sequence[int]]], *, keep: bool = False
) -> Committer[int, int]:
    return Committer(
        "outcome",
        commit,
        metrics=Metrics(),
        rng=random.Random(1),
        gather_s=0.005,
        keep_until_stored=keep,
    )


async def test_what_gathers_is_one_batch_and_results_find_their_producers(autojump_clock: object) -> None:
    batches: list[list[int]] = []

    async def commit(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await trio.sleep(0.01)
        return [item * 10 for item in items]

    group, results = committer(commit), dict[int, int]()

    async def produce(item: int) -> None:
        results[item] = await group.submit(item)

    async with trio.open_nursery() as outer:
        outer.start_soon(group.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as producers:
            for item in range(600):
                producers.start_soon(produce, item)
        outer.cancel_scope.cancel()
    assert results == {item: item * 10 for item in range(600)}
    assert [len(batch) for batch in batches] == [256, 256, 88]


@pytest.mark.parametrize("error", [StoreUnavailable("down"), CommitUnknown("lost")])
async def test_outcomes_are_kept_until_the_store_is_back(autojump_clock: object, error: StoreUnavailable) -> None:
    tries: list[list[int]] = []

    async def commit(items: Sequence[int]) -> list[int]:
        tries.append(list(items))
        if len(tries) < 5:
            raise error
        return list(items)

    group = committer(commit, keep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        assert await group.submit(7) == 7
        nursery.cancel_scope.cancel()
    assert tries == [[7]] * 5


async def test_a_claim_is_given_back_when_the_store_is_out(autojump_clock: object) -> None:
    faults = [StoreUnavailable("down")]

    async def commit(items: Sequence[int]) -> list[int]:
        raise faults.pop(0)

    group = committer(commit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        with pytest.raises(StoreUnavailable, match="down"):
            await group.submit(7)
        nursery.cancel_scope.cancel()
    assert faults == []


async def test_a_poisonous_item_fails_alone(autojump_clock: object) -> None:
    async def commit(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("unlucky")
        return list(items)

    group, good, bad = committer(commit, keep=True), list[int](), list[int]()

    async def produce(item: int) -> None:
        try:
            good.append(await group.submit(item))
        except ValueError:
            bad.append(item)

    async with trio.open_nursery() as outer:
        outer.start_soon(group.run)
        async with trio.open_nursery() as producers:
            for item in range(30):
                producers.start_soon(produce, item)
        outer.cancel_scope.cancel()
    assert bad == [13]
    assert sorted(good) == [item for item in range(30) if item != 13]


async def test_a_cancelled_producer_does_not_take_its_item_back(autojump_clock: object) -> None:
    stored: list[int] = []

    async def commit(items: Sequence[int]) -> list[int]:
        stored.extend(items)
        return list(items)

    group = committer(commit, keep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(group.run)
        with trio.move_on_after(0.001):
            await group.submit(1)
        assert await group.submit(2) == 2
        nursery.cancel_scope.cancel()
    assert stored == [1, 2]


async def test_a_claim_of_unknown_end_is_kept_through_the_outage_and_those_behind_it_are_given_back(
    autojump_clock: object,
) -> None:
    """Let go of, its row could be ours and running, with nobody to send or end it."""
    answers: list[StoreUnavailable] = [CommitUnknown("lost"), *[StoreUnavailable("down")] * 8]
    batches: list[list[int]] = []

    async def commit(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await trio.sleep(0.1)
        if answers:
            raise answers.pop(0)
        return list(items)

    claims, ends = committer(commit), dict[int, object]()

    async def produce(item: int, after_s: float) -> None:
        await trio.sleep(after_s)
        try:
            ends[item] = await claims.submit(item)
        except StoreUnavailable as error:
            ends[item] = str(error)

    async with trio.open_nursery() as outer:
        outer.start_soon(claims.run)
        async with trio.open_nursery() as producers:
            producers.start_soon(produce, 1, 0)
            producers.start_soon(produce, 2, 0.2)
            producers.start_soon(produce, 3, 60)
        outer.cancel_scope.cancel()
    assert ends == {1: 1, 2: "down", 3: 3}
    assert batches == [[1]] * 10 + [[3]]
