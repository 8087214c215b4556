"""One function for each thing that may be wrong with a trial; see `judge.KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.reliability.books import Books, claim_of
from tests.reliability.ledger import Execution, Send, TaskRow

from taskcenter.task import TERMINAL, TRANSITIONS, Event, Status

MINUTE_MS: Final = 60_000
GAP_TOLERANCE_MS: Final = 3.0  # history keeps whole ms of the start and a duration beside it
ARRIVED: Final = frozenset({"success", "retry", "deferred", "stop", "http_error", "invalid_response"})
CALLED_AGAIN: Final = ("update", "run", "redeliver")  # changes after which a task's times are its client's


@dataclass(frozen=True, slots=True)
class Violation:
    kind: str  # of judge.KINDS
    task_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.task_id}: {self.detail}"


# --- what clients were told, and what is there ----------------------------------------------------------------------


def lost(books: Books) -> Iterator[Violation]:
    for create in books.ledger.creates:
        if create.task_id is not None and create.result in {"created", "replayed"}:
            row = books.ledger.rows.get(create.task_id)
            if row is None:
                yield Violation("lost", create.task_id, f"acknowledged at {create.told_at:.0f} as {create.result}")


def unfinished(books: Books) -> Iterator[Violation]:
    if books.rules.settled:
        for row in books.ledger.rows.values():
            if row.status not in TERMINAL:
                yield Violation("unfinished", row.id, f"is {row.status}")


def phantom(books: Books) -> Iterator[Violation]:
    for row in books.ledger.rows.values():
        asked = books.creates.get((row.business, row.business_id), ())
        if not row.derived and all(create.result == "refused" for create in asked):
            yield Violation("phantom", row.id, "every asker was refused" if asked else "nobody asked for it")
    for task_id, sends in books.by_task.items():
        if task_id not in books.ledger.rows:
            yield Violation("phantom", task_id, f"{len(sends)} callbacks of a task that is not there")


def doubled(books: Books) -> Iterator[Violation]:
    found: dict[tuple[str, str], set[str]] = {
        name: {create.task_id for create in creates if create.task_id is not None and create.result != "refused"}
        for name, creates in books.creates.items()
    }
    for row in books.ledger.rows.values():
        if not row.derived:
            found.setdefault((row.business, row.business_id), set()).add(row.id)
    for (business, business_id), ids in found.items():
        if len(ids) > 1:
            yield Violation("doubled", min(ids), f"{business}/{business_id} is {', '.join(sorted(ids))}")


def foreign(books: Books) -> Iterator[Violation]:
    for send in books.sends:
        row = books.ledger.rows.get(send.task_id)
        if row is not None and row.business != send.business:
            yield Violation("foreign", send.task_id, f"of {row.business}, sent as {send.business}'s")


def uncancelled(books: Books) -> Iterator[Violation]:
    for task_id, changes in books.changes.items():
        told = [change for change in changes if change.kind == "cancel" and change.result == "done"]
        if not told or books.changed(task_id, "redeliver"):
            continue
        first = min(told, key=lambda change: change.told_at)
        later = [send for send in books.by_task.get(task_id, ()) if send.arrived_at > first.told_at]
        if len(later) > first.in_flight:
            after_ms = later[-1].arrived_at - first.told_at
            yield Violation("uncancelled", task_id, f"{len(later)} after the cancel, {after_ms:.0f} ms at the latest")


# --- what the receiver saw ------------------------------------------------------------------------------------------


def early(books: Books) -> Iterator[Violation]:
    asked = {create.task_id: create.due_at for create in books.ledger.creates if create.due_at is not None}
    for send in books.sends:
        if send.arrived_at < send.due_at:
            yield Violation("early", send.task_id, f"{send.due_at - send.arrived_at:.1f} ms before it was due")
        due_at = asked.get(send.task_id)
        if due_at is not None and send.arrived_at < due_at and not books.changed(send.task_id, *CALLED_AGAIN):
            yield Violation("early", send.task_id, f"{due_at - send.arrived_at:.1f} ms before its client asked for it")


def repeats(books: Books) -> Iterator[Violation]:
    for before, again in books.repeats:
        task_id = before.task_id
        where = f"run {before.run} attempt {before.attempt} under term {before.term}, again under {again.term}"
        if _reconnected(before, again):
            continue
        if not books.excused(before, again):
            yield Violation("repeated", task_id, f"{where} {again.arrived_at - before.arrived_at:.0f} ms later")
        if not again.redelivery:
            yield Violation("unflagged", task_id, where)
        reason = books.executions.get(claim_of(before))
        if task_id in books.ledger.rows and (reason is None or reason.status != "interrupted"):
            yield Violation("unreasoned", task_id, f"{where}: history says {reason and reason.status}")


def doubted(books: Books) -> Iterator[Violation]:
    """Who puts off what he may have had already is told so the next time, too."""
    for before, again in books.followed:
        if before.redelivery and not again.redelivery and books.put_off(before):
            where = f"run {before.run} attempt {before.attempt} after it was put off"
            yield Violation("unflagged", before.task_id, where)


def overlapping(books: Books) -> Iterator[Violation]:
    for task_id, sends in books.by_task.items():
        for before, again in pairwise(sends):
            same = (before.run, before.attempt) == (again.run, again.attempt)
            if again.arrived_at < before.ended_at and not (same and books.excused(before, again)):
                yield Violation("overlapping", task_id, f"attempts {before.attempt} and {again.attempt}")


def out_of_term(books: Books) -> Iterator[Violation]:
    for business, sends in books.by_business.items():
        newest = 0
        senders: dict[int, str] = {}
        for send in sends:
            if send.term < newest:
                yield Violation("out_of_term", send.task_id, f"{business}: term {send.term} after {newest}")
            newest = max(newest, send.term)
            if send.sender is not None and senders.setdefault(send.term, send.sender) != send.sender:
                others = f"{senders[send.term]} and {send.sender}"
                yield Violation("out_of_term", send.task_id, f"{business}: term {send.term} sent by {others}")


def over_rate(books: Books) -> Iterator[Violation]:
    window_ms = MINUTE_MS - books.rules.jitter_ms
    for business, limit in books.rules.rate_limits.items():
        sends = books.by_business.get(business, [])
        for first, last in zip(sends, sends[limit:], strict=False):
            if last.arrived_at - first.arrived_at < window_ms:
                yield Violation("over_rate", last.task_id, f"{business}: {limit + 1} of {limit} within a minute")
                break


# --- what history says ----------------------------------------------------------------------------------------------


def resurrected(books: Books) -> Iterator[Violation]:
    for task_id, sights in books.sights.items():
        again = books.changed(task_id, "redeliver")
        for before, now in pairwise(sorted(sights, key=lambda sight: sight.version)):
            if now.status not in _reachable(before.status, again, moved=now.version > before.version):
                yield Violation(
                    "resurrected", task_id, f"{before.status} v{before.version}, {now.status} v{now.version}"
                )
        for before, now in pairwise(sorted(sights, key=lambda sight: sight.told_at)):
            if before.told_at < now.asked_at and now.version < before.version:
                yield Violation("resurrected", task_id, f"version {now.version} was read after {before.version}")
        row = books.ledger.rows.get(task_id)
        last = max(sights, key=lambda sight: sight.version)
        if row is not None and row.status not in _reachable(last.status, again, moved=True):
            yield Violation("resurrected", task_id, f"was {last.status} v{last.version}, is {row.status}")


def recorded(books: Books) -> Iterator[Violation]:
    """History and the receiver's record, against one another."""
    for claim, sends in books.by_claim.items():
        if claim[0] in books.ledger.rows:
            yield from _one_claim(books.executions.get(claim), sends)
    for claim, one in books.executions.items():
        if one.status in ARRIVED and claim not in books.by_claim and not books.ledger.rows[claim[0]].derived:
            yield Violation("unsent", claim[0], f"attempt {one.attempt} is {one.status} in history")
    for row in books.ledger.rows.values():
        ends = {one.status for one in row.executions}
        if row.status == Status.SUCCEEDED and not row.recurring and "success" not in ends:
            yield Violation("misrecorded", row.id, f"succeeded, but its attempts are {sorted(ends)}")


def gaps(books: Books) -> Iterator[Violation]:
    for row in books.ledger.rows.values():
        if books.changed(row.id, *CALLED_AGAIN):
            continue
        for before, after in pairwise(row.executions):
            if (before.run, before.attempt + 1) != (after.run, after.attempt):
                continue
            due_at = before.ended_at + _interval(row, before)
            if abs(after.scheduled_at - due_at) > GAP_TOLERANCE_MS:
                yield Violation("gap", row.id, f"attempt {after.attempt} due {after.scheduled_at - due_at:+.1f} ms off")


# --- parts ----------------------------------------------------------------------------------------------------------


def _reconnected(before: Send, again: Send) -> bool:
    """The transport's own second try: a kept connection that ended before a byte of the answer."""
    return claim_of(before) == claim_of(again) and before.status is None and before.ended_at <= again.arrived_at


def _reachable(status: str, redelivered: bool, *, moved: bool) -> set[str]:
    """The states a task may be in after `status`; only itself if its row has not been written since."""
    found = {status}
    while moved:
        more = {
            after for (before, event), after in TRANSITIONS.items()
            if before in found and (redelivered or event is not Event.REDELIVER)
        } - found  # fmt: skip
        if not more:
            break
        found |= more
    return found


def _one_claim(one: Execution | None, sends: list[Send]) -> Iterator[Violation]:
    task_id, last = sends[0].task_id, sends[-1]
    if one is None:
        yield Violation("unrecorded", task_id, f"attempt {last.attempt} under term {last.term}, due {last.due_at:.0f}")
        return
    if len(sends) > 1 and not all(_reconnected(before, again) for before, again in pairwise(sends)):
        yield Violation("misrecorded", task_id, f"attempt {last.attempt} was sent {len(sends)} times, recorded once")
    if one.status == "blocked":
        yield Violation("misrecorded", task_id, f"attempt {last.attempt} is blocked in history, but it was sent")
    if one.response_status is not None and last.status is not None and one.response_status != last.status:
        yield Violation("misrecorded", task_id, f"{one.response_status} in history, {last.status} was answered")
    if one.status != "interrupted" and one.started_at > last.arrived_at + 1:
        yield Violation("misrecorded", task_id, f"started {one.started_at - last.arrived_at:.1f} ms after it arrived")


def _interval(row: TaskRow, before: Execution) -> float:
    intervals = row.retry_intervals_ms
    return intervals[before.attempt - 1] if before.attempt <= len(intervals) else 0.0


ALL: Final[tuple[Callable[[Books], Iterator[Violation]], ...]] = (
    lost, unfinished, phantom, doubled, foreign, uncancelled, early, repeats, doubted, overlapping, out_of_term,
    over_rate, resurrected, recorded, gaps,
)  # fmt: skip
