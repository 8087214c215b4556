"""Limits: starts in every sliding minute, callbacks on their way at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.receivers import Sent
    from tests.simulation.world import World

MINUTE_MS: Final = 60_000
IN_FORCE_MS: Final = 2_000  # a change is in force everywhere within


@dataclass(frozen=True)
class _Value:
    """A limit, from the earliest moment at which it may have been in force to the latest."""

    limit: int
    since: float
    until: float


def _values(world: World, code: str, name: str, first: int) -> list[_Value]:
    changes = [
        call for call in world.ledger.calls
        if call.what == "business" and call.code == code and call.body and name in call.body
    ]  # fmt: skip
    values, since, limit = [], 0.0, first
    for call in changes:
        until = float("inf")
        if call.told == "ok" and call.answered_at is not None:
            until = call.answered_at + _slack(world)
        values.append(_Value(limit, since, until))
        since, limit = call.at, call.body[name]
    return [*values, _Value(limit, since, float("inf"))]


def _slack(world: World) -> float:
    """How long an instance may go by the former limit: longer, if it was kept from hearing of the new one."""
    return IN_FORCE_MS + (30_000 if world.faults.incidents else 0)


def limits(world: World) -> Iterator[str]:
    for shape in world.shape.businesses:
        number = next(number for number, code in world.business_ids.items() if code == shape.code)
        sends = [sent for sent in world.receivers.sent if sent.business_id == number and sent.left]
        yield from _paused(world, shape.code, sends)
        yield from _rate(world, shape.code, _values(world, shape.code, "rate_limit", shape.rate_limit), sends)
        held = _values(world, shape.code, "max_concurrent_tasks", shape.concurrency)
        for name in dict.fromkeys(sent.sender for sent in sends):
            yield from _at_once(shape.code, held, [sent for sent in sends if sent.sender == name])


def _rate(world: World, code: str, values: list[_Value], sends: list[Sent]) -> Iterator[str]:
    """Two clocks that differ, or one that is led, make a minute of theirs a little shorter than a true one."""
    errors = [sent.sender_at - sent.at for sent in sends]
    window = MINUTE_MS - (max(errors) - min(errors) if errors else 0)
    starts = [sent.at for sent in sends]
    first = 0
    for last, at in enumerate(starts):
        while starts[first] <= at - window:
            first += 1
        most = max(value.limit for value in values if value.since <= at and value.until >= at - window)
        if last - first + 1 > most:
            yield f"business {code}: {last - first + 1} starts in the minute before {at}, of {most}"
            return


def _paused(world: World, code: str, sends: list[Sent]) -> Iterator[str]:
    """Nothing starts while the business is paused for certain, and has been for as long as it takes to be heard of."""
    changes = [
        call for call in world.ledger.calls
        if call.what == "business" and call.code == code and call.body and "status" in call.body
    ]  # fmt: skip
    for call in changes:
        if call.body["status"] != "paused" or call.told != "ok" or call.answered_at is None:
            continue
        since = call.answered_at + _slack(world)
        until = min(
            (other.at for other in changes if other.body["status"] == "active" and other.at > call.at), default=0
        )
        for sent in sends:
            if since < sent.at < until:
                yield f"business {code}: paused since {call.answered_at}, {sent.task_id} sent at {sent.at}"
                return


def _at_once(code: str, values: list[_Value], sends: list[Sent]) -> Iterator[str]:
    ends = sorted(sent.ended_at for sent in sends if sent.ended_at is not None)
    over = under_way = 0
    lost = sum(sent.ended_at is None for sent in sends)
    for sent in sends:
        while over < len(ends) and ends[over] <= sent.at:
            over += 1
            under_way -= 1
        under_way += 1
        most = max(value.limit for value in values if value.since <= sent.at and value.until >= sent.at - 5_000)
        if under_way - lost > most:
            yield f"business {code}: {under_way} callbacks of {sent.sender} at once at {sent.at}, of {most}"
            return
