"""The network's record against the store's: who sent what, when, under which term, how often and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.simulation.journal import BURIED

from taskcenter.store.records import Execution, ExecutionStatus

if TYPE_CHECKING:
    from tests.simulation.journal import Move, Row
    from tests.simulation.receivers import Sent
    from tests.simulation.world import World

CLOSE_MS: Final = 3
Key = tuple[str, int, int]  # task, term, due


class Sends:
    """All callbacks of a run, and what the store knows of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.by_key: dict[Key, list[Sent]] = defaultdict(list)
        for sent in world.receivers.sent:
            self.by_key[sent.key].append(sent)
        self._history: dict[Key, Execution] = {(one.task_id, one.term, one.scheduled_at): one for one in world.history}
        self._attempts: dict[str, list[Execution]] = defaultdict(list)
        for one in sorted(world.history, key=lambda one: one.number):
            self._attempts[one.task_id].append(one)
        self._claims = {
            (move.row.id, move.row.term, move.row.scheduled_at): move
            for moves in world.journal.moves.values()
            for before, move in pairwise(moves)
            if move.row.sends != before.row.sends
        }
        self._holders = {
            (lease.shard, lease.term): world.identities.get(lease.owner, lease.owner)
            for leases in world.journal.leases.values()
            for lease in leases
            if lease.owner is not None
        }

    def check(self) -> Iterator[str]:
        for sent in self.world.receivers.sent:
            yield from self._sent(sent)
        for execution in self.world.history:
            yield from self._kept(execution)
        yield from self._repeats()
        yield from self._authors()
        yield from self._terms()

    # --- each callback ------------------------------------------------------------------------------------------

    def _sent(self, sent: Sent) -> Iterator[str]:
        claim = self._claims.get(sent.key)
        if claim is None:
            yield f"{_told(sent)} without a claim"
            return
        if claim.at > sent.at:
            yield f"{_told(sent)} before its claim at {claim.at}"
        if len(self.by_key[sent.key]) > 1 and sent is self.by_key[sent.key][0]:
            yield f"{_told(sent)} {len(self.by_key[sent.key])} times for one claim"
        if sent.left and sent.sender_at < sent.due_at:
            yield f"{_told(sent)} early: at {sent.sender_at} by its sender's clock, due {sent.due_at}"
        holder = self._holders.get((claim.row.shard, sent.term))
        if holder != sent.sender:
            yield f"{_told(sent)} under a term that was {holder}'s"
        yield from self._out_of_term(sent, claim)
        if sent.flagged != self._doubtful(claim):
            yield f"{_told(sent)}: flagged {sent.flagged} after {claim.row.interruptions} interruptions"
        if sent.key not in self._history:
            yield f"{_told(sent)} and is not in the history"

    def _out_of_term(self, sent: Sent, claim: Move) -> Iterator[str]:
        """Sent though the shard had a new owner already."""
        leases = self.world.journal.leases[claim.row.shard]
        taken = next((lease.at for lease in leases if lease.term > sent.term and lease.at <= sent.at), None)
        if taken is not None and sent.left:
            yield f"{_told(sent)} at {sent.at}, though another owner had the shard since {taken}"

    def _doubtful(self, claim: Move) -> bool:
        """Whether a former send of the attempt may have come in unheard of, and it was at most put off since."""
        row = claim.row
        former = [
            one.status for one in self._attempts[row.id]
            if (one.run, one.attempt) == (row.run, row.current_retry + 1) and one.number < row.sends
        ]  # fmt: skip
        while former and former[-1] is ExecutionStatus.DEFERRED:
            former.pop()
        return former[-1:] == [ExecutionStatus.INTERRUPTED]

    def _kept(self, execution: Execution) -> Iterator[str]:
        key = (execution.task_id, execution.term, execution.scheduled_at)
        sends = self.by_key.get(key, [])
        name = f"attempt {execution.id} (term {execution.term}, {execution.status})"
        claim = self._claims.get(key)
        if claim is None or claim.row.sends != execution.number:
            yield f"{name} is in the history without a claim"
            return
        if execution.status is ExecutionStatus.INTERRUPTED:
            yield from self._interrupted(name, claim)
            return
        if not sends:
            yield f"{name} is in the history and was never sent"
            return
        (sent, *_) = sends
        told = (sent.mood.history if sent.mood else None, sent.run, sent.attempt)
        if told != (execution.status.value, execution.run, execution.attempt):
            yield f"{name}: the receiver's record says {told}"
        if abs(sent.began_at - execution.started_at) > CLOSE_MS:
            yield f"{name}: started at {execution.started_at}, begun at {sent.began_at}"
        ended_at = execution.started_at + execution.duration_ms
        if abs(ended_at - sent.sender_ended_at) > CLOSE_MS:
            yield f"{name}: ended at {ended_at}, heard at {sent.sender_ended_at}"

    def _interrupted(self, name: str, claim: Move) -> Iterator[str]:
        row = claim.row
        holder = self._holders.get((row.shard, row.term))
        moves = self.world.journal.moves[row.id]
        lost = next((move for move in moves if move.row.version > row.version and move.row.interruptions), None)
        until = self.world.clock.now_ms() if lost is None else lost.at
        if holder is None or not self.world.faults.explain(holder, claim.at, until):
            yield f"{name}: interrupted, though nothing befell {holder} between {claim.at} and {until}"

    # --- all together -------------------------------------------------------------------------------------------

    def _repeats(self) -> Iterator[str]:
        """The same attempt twice: deferred by its receiver, lost with its sender and then flagged, or a failed retry
        that was asked for before its time.
        """
        attempts: dict[tuple[str, int, int], list[Sent]] = defaultdict(list)
        for sent in (sent for sent in self.world.receivers.sent if sent.left):
            attempts[sent.task_id, sent.run, sent.attempt].append(sent)
        for sends in attempts.values():
            for former, again in pairwise(sends):
                kept = self._history.get(former.key)
                if kept is None:
                    yield f"{_told(again)} though {_told(former)} had no end"
                elif kept.status is ExecutionStatus.INTERRUPTED:
                    if not again.flagged:
                        yield f"{_told(again)} again, after a loss, and does not say so"
                elif kept.status is not ExecutionStatus.DEFERRED and not self._claims[former.key].row.manual:
                    yield f"{_told(again)} again, though {_told(former)} ended as {kept.status}"

    def _authors(self) -> Iterator[str]:
        """An engine changes a task under a term that is its own; but for an end that is recorded late, the newest."""
        for moves in self.world.journal.moves.values():
            for before, move in pairwise(moves):
                old, new = before.row, move.row
                if new.sends != old.sends:
                    yield from self._owner_did(move, new.term, "claimed")
                elif new.interruptions > old.interruptions:
                    yield from self._owner_did(move, None, "recovered")
                elif new.finish_reason == "deadline_passed" != old.finish_reason and old.status != "running":
                    yield from self._owner_did(move, None, "expired")
                elif old.status == "running" != new.status != "cancelled":
                    yield from self._claimant_did(move, old)

    def _claimant_did(self, move: Move, old: Row) -> Iterator[str]:
        holder = self._holders.get((old.shard, old.term))
        if move.by != holder:
            yield f"task {old.id} at {move.at}: recorded by {move.by}, though {holder} had claimed it"

    def _owner_did(self, move: Move, term: int | None, what: str) -> Iterator[str]:
        leases = self.world.journal.leases[move.row.shard]
        newest = next(lease for lease in reversed(leases) if lease.seq < move.seq)
        owner = self.world.identities.get(newest.owner or "", "nobody")
        if move.by != owner or term not in (None, newest.term):
            yield (
                f"task {move.row.id} at {move.at}: {what} by {move.by} under term {term}, though {owner} had the shard"
                f" under {newest.term}"
            )

    def _terms(self) -> Iterator[str]:
        """A term is given out once, and grows; none is taken from who lives."""
        buried = {lease.owner: lease.seq for lease in reversed(self.world.journal.leases[BURIED])}
        for shard, leases in self.world.journal.leases.items():
            if shard == BURIED:
                continue
            owners: dict[int, str | None] = {}
            for lease in leases:
                if lease.owner is None:
                    if lease.term != lease.former:
                        yield f"shard {shard} was given up at term {lease.former} and is at {lease.term}"
                    continue
                if lease.term != lease.former + 1 or lease.term in owners:
                    yield f"shard {shard} went from term {lease.former} to {lease.term} of {lease.owner}"
                owners[lease.term] = lease.owner
                if lease.former_owner is not None and buried.get(lease.former_owner, lease.seq) >= lease.seq:
                    yield f"shard {shard} was taken from {lease.former_owner}, which lives, at {lease.at}"


def _told(sent: Sent) -> str:
    return f"task {sent.task_id} run {sent.run} attempt {sent.attempt}: sent by {sent.sender} under term {sent.term}"
