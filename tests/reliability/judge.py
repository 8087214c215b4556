"""The verdict over a trial's books: pure, and without a threshold on speed. What it looks for is `KINDS`.

A repeat is explained when the attempt before it was on its way, or not yet recorded, while an instance or the store was
disrupted (`Books.excused`), it says that it may be a duplicate, and history has the lost one as `interrupted`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from tests.reliability import checks
from tests.reliability.books import Books, Rules
from tests.reliability.checks import Violation
from tests.reliability.ledger import Ledger

KINDS: Final = {
    "lost": "an acknowledged task is not in the store",
    "unfinished": "a task has not ended though all should have",
    "phantom": "a task or a callback that nobody asked for, or whose asker was refused",
    "doubled": "one business id has two tasks, or clients were told two ids for it",
    "foreign": "a callback under another business's name",
    "early": "a callback before its due time",
    "repeated": "an attempt arrived again though its sender was not lost with it",
    "unflagged": "an attempt arrived again and did not say that it may be a duplicate",
    "unreasoned": "an attempt arrived again and history does not say that its sender was lost",
    "overlapping": "two callbacks of one task on their way at once, though no sender was lost",
    "out_of_term": "a callback under a term older than one already seen, or one term with two senders",
    "resurrected": "a state that a task cannot get to from the one it was in",
    "uncancelled": "a callback after a cancel that told of none on its way",
    "unrecorded": "a callback that history does not have",
    "unsent": "an answered attempt in history that the receiver never saw",
    "misrecorded": "history has another answer, start or end than the receiver gave",
    "gap": "a retry that is not due its interval after the attempt before it ended",
    "over_rate": "more callbacks in a sliding minute than the business's limit",
}


LONG_MS: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`lateness_ms`: of each callback that arrived, by when its attempt was first due, least first. `own_lateness_ms`:
    without the time for which a policy held it back, such as the pace of a backlog after an outage.
    """

    violations: tuple[Violation, ...]
    acknowledged: int
    sends: int
    repeats: int
    lateness_ms: tuple[float, ...]
    own_lateness_ms: tuple[float, ...]
    held_back_by: dict[str, int]  # callbacks by the policy that held them back for more than a second

    @property
    def counts(self) -> dict[str, int]:
        """Violations by kind."""
        return dict(Counter(violation.kind for violation in self.violations))

    def lateness(self, share: float) -> float:
        """A percentile, ms; 0 when nothing arrived."""
        values = self.lateness_ms
        return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0

    def __str__(self) -> str:
        head = (
            f"{self.acknowledged} acknowledged, {self.sends} callbacks, {self.repeats} repeats, lateness ms"
            f" p50 {self.lateness(0.5):.0f} p99 {self.lateness(0.99):.0f} worst {self.lateness(1):.0f}"
        )
        return "\n".join([head, str(self.counts or "no violation"), *map(str, self.violations[:20])])


def verdict(ledger: Ledger, rules: Rules | None = None) -> Verdict:
    """Everything that is wrong with a trial, and what it measured."""
    books = Books(ledger, rules or Rules())
    waits = [(send.arrived_at - books.first_due(send), *books.held_back(send)) for send in ledger.sends]
    acknowledged = {create.task_id for create in ledger.creates if create.result in {"created", "replayed"}}
    return Verdict(
        tuple(violation for check in checks.ALL for violation in check(books)),
        acknowledged=len(acknowledged),
        sends=len(ledger.sends),
        repeats=len(books.repeats),
        lateness_ms=tuple(sorted(late for late, _, _ in waits)),
        own_lateness_ms=tuple(sorted(late - held for late, held, _ in waits)),
        held_back_by=dict(Counter(reason or "unknown" for _, held, reason in waits if held > LONG_MS)),
    )
