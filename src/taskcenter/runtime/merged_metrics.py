"""The metrics of all workers as those of one service.

Counters and histograms are summed, and what a worker had counted when it was last asked is kept when it ends: a total
never goes backwards. Gauges are those of the living: most are summed; where a sum would mean nothing the greatest
counts (`Metrics.greatest`); what the kernel says of a process (`process_…`) bears the worker's number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

from taskcenter.metrics import Metrics

Snapshot = list[list[Any]]  # as it is sent: families, each [name, kind, help, how, [[sample's name, labels, value] …]]
Key = tuple[str, tuple[tuple[str, str], ...]]
SUM: Final = "sum"
GREATEST: Final = "greatest"
EACH: Final = "each"
KEPT: Final = ("counter", "histogram")


def snapshot(metrics: Metrics) -> Snapshot:
    """Everything a worker has counted, as JSON can carry it."""
    return [
        [
            family.name,
            family.type,
            family.documentation,
            _how(family.name, metrics),
            [[one.name, one.labels, one.value] for one in family.samples],
        ]
        for family in metrics.registry.collect()
    ]


def _how(name: str, metrics: Metrics) -> str:
    if name.startswith("process_"):
        return EACH
    return GREATEST if name in metrics.greatest else SUM


@dataclass(slots=True)
class _Family:
    name: str
    kind: str
    text: str
    how: str
    values: dict[Key, float] = field(default_factory=dict)

    def add(self, samples: Iterable[tuple[str, dict[str, str], float]], worker: int) -> None:
        created = f"{self.name}_created"
        for name, labels, value in samples:
            key = (name, (*labels.items(), ("worker", str(worker))) if self.how == EACH else tuple(labels.items()))
            known = self.values.get(key)
            if known is None:
                self.values[key] = value
            elif name == created:
                self.values[key] = min(known, value)
            else:
                self.values[key] = max(known, value) if self.how == GREATEST else known + value

    def join(self, other: _Family) -> None:
        """Add what `other` has; its samples bear their worker's number already."""
        created = f"{self.name}_created"
        for key, value in other.values.items():
            known = self.values.get(key, value if key[0] == created else 0.0)
            self.values[key] = min(known, value) if key[0] == created else known + value

    def metric(self) -> Metric:
        metric = Metric(self.name, self.text, self.kind)
        metric.samples = [Sample(name, dict(labels), value) for (name, labels), value in self.values.items()]
        return metric


class Member:
    """One worker's run, from its start to its end."""

    def __init__(self, merged: MergedMetrics, worker: int) -> None:
        self._merged = merged
        self.worker = worker
        self.latest: Snapshot = []
        self.ended = False

    def update(self, latest: Snapshot) -> None:
        """Take its newest figures. An answer that comes after its end is not counted any more."""
        if not self.ended:
            self.latest = latest

    def end(self) -> None:
        """It is gone: its totals stay."""
        if not self.ended:
            self.ended = True
            self._merged.keep(self)


class MergedMetrics:
    """What the encoders of prometheus_client take for a registry."""

    def __init__(self, own: CollectorRegistry) -> None:
        """`own`: what the parent counts itself."""
        self._own = own
        self._members: list[Member] = []
        self._kept: dict[str, _Family] = {}

    def join(self, worker: int) -> Member:
        member = Member(self, worker)
        self._members.append(member)
        return member

    def keep(self, member: Member) -> None:
        """Part from a member that ended: add what it had counted to what others had that ended before."""
        self._members.remove(member)
        _add(self._kept, [family for family in member.latest if family[1] in KEPT], member.worker)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, _Family] = {}
        for member in self._members:
            _add(families, member.latest, member.worker)
        for name, kept in self._kept.items():
            if name in families:
                families[name].join(kept)
            else:
                families[name] = kept
        yield from (family.metric() for family in families.values())
        yield from self._own.collect()


def _add(families: dict[str, _Family], told: Snapshot, worker: int) -> None:
    for name, kind, text, how, samples in told:
        family = families.get(name)
        if family is None:
            family = families[name] = _Family(name, kind, text, how)
        family.add(samples, worker)
