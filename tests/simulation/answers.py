"""What clients were told against what the store did and the network carried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.simulation.ledger import Asked

if TYPE_CHECKING:
    from tests.simulation.receivers import Sent
    from tests.simulation.world import World

ACKNOWLEDGED: Final = {"create", "replay"}


class Answers:
    def __init__(self, world: World) -> None:
        self._world = world
        self._moves = world.journal.moves
        self._ids = {
            (world.business_ids[moves[0].row.business_id], moves[0].row.business_unique_id.decode()): task_id
            for task_id, moves in self._moves.items()
            if moves[0].row.kind == "callback"
        }
        self._sends: dict[str, list[Sent]] = {}
        for sent in filter(lambda sent: sent.left, world.receivers.sent):
            self._sends.setdefault(sent.task_id, []).append(sent)

    def check(self) -> Iterator[str]:
        for asked in self._world.ledger.calls:
            yield from self._told(asked)
            if asked.in_flight is False:
                yield from self._truthful(asked)
        yield from self._everything_is_there()

    def _told(self, asked: Asked) -> Iterator[str]:
        """An answer tells what was committed, and a name stands for one task for ever."""
        if asked.told == "unknown":
            return
        task = asked.task
        if asked.what == "other body" and asked.told == "ok":
            yield f"{asked.code} {asked.name}: another body was taken for the same"
        if asked.what == "replay" and not (asked.replayed or asked.told != "ok"):
            yield f"{asked.code} {asked.name}: created twice"
        if asked.told in {"internal_error", "invalid_request", "forbidden", "unauthenticated", "not_found"}:
            yield f"{asked.what} {asked.name or asked.task_id}: {asked.told}"
        if task is None:
            return
        known = self._world.ledger.known[asked.code, asked.name]
        if task.id != known or self._ids.get((asked.code, asked.name)) != known:
            yield f"{asked.what} {asked.name}: told of {task.id}, known as {known}"
        if not any(
            move.row.version == task.version and move.row.status == task.status for move in self._moves[task.id]
        ):
            yield f"{asked.what} {asked.name}: told {task.status} at version {task.version}, which never was"

    def _everything_is_there(self) -> Iterator[str]:
        """Nothing acknowledged is lost, nothing is there that nobody asked for, and all is as it was asked for."""
        for (code, name), task_id in self._world.ledger.known.items():
            if self._ids.get((code, name)) != task_id:
                yield f"task {task_id} ({name}) was acknowledged and is not there"
        for (code, name), task_id in self._ids.items():
            body = self._world.ledger.bodies.get((code, name))
            if body is None:
                yield f"task {task_id} ({name}) was never asked for"
                continue
            row = self._moves[task_id][0].row
            wanted = [round(interval * 1000) for interval in body["retry_intervals"]]
            if (json.loads(row.retry_intervals), row.timeout_ms) != (wanted, round(body["timeout"] * 1000)):
                yield f"task {task_id} ({name}) is not what was asked for"

    def _truthful(self, asked: Asked) -> Iterator[str]:
        """After a cancel that said that nothing was on its way nothing is sent, and nothing was."""
        assert asked.answered_at is not None
        for task_id in self._cancelled_by(asked):
            told = f"task {task_id}: cancelled at {asked.answered_at}, nothing on its way"
            again = self._redelivered_at(task_id, asked.at)
            for sent in self._sends.get(task_id, []):
                begun_later = asked.answered_at <= sent.at < again
                on_its_way = sent.at < asked.at and (sent.ended_at is None or sent.ended_at > asked.answered_at)
                if begun_later:
                    yield f"{told}; sent at {sent.at}"
                if on_its_way and not sent.lost_before(asked.at):
                    yield f"{told}; it was, since {sent.at}"

    def _cancelled_by(self, asked: Asked) -> list[str]:
        if asked.task_id:
            return [asked.task_id]
        assert asked.answered_at is not None
        number = next(number for number, code in self._world.business_ids.items() if code == asked.code)
        return [
            task_id
            for task_id, moves in self._moves.items()
            if any(
                move.row.status == "cancelled" and asked.at <= move.at <= asked.answered_at
                and move.row.business_id == number and asked.tag in (json.loads(move.row.tags or "[]"))
                and not self._told_by_another(task_id, move.at)
                for move in moves
            )
        ]  # fmt: skip

    def _told_by_another(self, task_id: str, at: int) -> bool:
        """Whether a cancel of this task alone, answered at the same time, told that it was on its way: it was that one
        which cancelled it.
        """
        return any(
            call.task_id == task_id and call.in_flight and call.at <= at <= (call.answered_at or 0)
            for call in self._world.ledger.calls
        )

    def _redelivered_at(self, task_id: str, since: int) -> float:
        """When somebody called it back to life."""
        moves = self._moves[task_id]
        found = (move.at for before, move in pairwise(moves) if move.row.run > before.row.run and move.at >= since)
        return next(found, float("inf"))
