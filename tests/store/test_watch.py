"""When a store counts as out, and when as back: by nothing but failures, and by the first success."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from tests.store.unanswered import UnansweredDatabase

from taskcenter.errors import CommitUnknown
from taskcenter.metrics import Metrics
from taskcenter.runtime.alerts import Alerts
from taskcenter.runtime.store_alarm import StoreAlarm
from taskcenter.store.metered import MeteredDatabase
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.watch import OUT_AFTER_S, Kind, StoreWatch, Turn


@dataclass
class Heard:
    """What a listener was told."""

    turns: list[Turn] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def turned(self, turn: Turn) -> None:
        self.turns.append(turn)

    def failed(self, work: Kind, fault: str) -> None:
        self.faults.append(f"{work} {fault}")


def heard_of(watch: StoreWatch) -> Heard:
    heard = Heard()
    watch.listen(heard)
    return heard


def test_out_is_a_second_of_nothing_but_failures_and_back_is_one_success() -> None:
    watch = StoreWatch()
    heard = heard_of(watch)
    turns = heard.turns
    watch.failed("read", "refused", 10.0)
    watch.failed("read", "lost", 10.0 + OUT_AFTER_S - 0.01)
    assert watch.trouble() is None
    watch.failed("read", "timeout", 10.0 + OUT_AFTER_S)
    watch.failed("read", "timeout", 12.0)
    assert turns == [Turn("read", out=True, fault="timeout", lasted_s=1.0, failures=3)]
    assert watch.trouble() == "reads fail (timeout)"
    watch.succeeded("read", 14.5)
    watch.succeeded("read", 14.6)
    assert turns[1:] == [Turn("read", out=False, fault="timeout", lasted_s=4.5, failures=4)]
    assert watch.trouble() is None
    assert heard.faults == ["read refused", "read lost", "read timeout", "read timeout"]


def test_a_success_between_failures_is_no_outage() -> None:
    watch = StoreWatch()
    heard = heard_of(watch)
    for second in range(10):
        watch.failed("write", "lost", second)
        watch.succeeded("write", second + 0.5)
    assert heard.turns == []


def test_writes_fail_while_reads_go_through() -> None:
    watch = StoreWatch()
    for now in (1.0, 2.0):
        watch.failed("write", "read_only", now)
        watch.succeeded("read", now)
    assert watch.trouble() == "writes fail (read_only)"
    assert repr(watch) == "<StoreWatch writes fail (read_only)>"


async def test_a_database_tells_its_watch_and_the_alarm_tells_the_operator(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskcenter.store.watch.OUT_AFTER_S", 0.0)
    watch, metrics, alerts = StoreWatch(), Metrics(), list[tuple[str, str]]()
    StoreAlarm(watch, metrics, Alerts(metrics, (lambda rule, text: alerts.append((rule, text)),)))
    inner = UnansweredDatabase(SqliteDatabase(path, in_loop=True))
    database = MeteredDatabase(inner, metrics, watch=watch)
    await database.open()
    lane = await database.lane("outcomes")

    def up(work: str) -> float | None:
        return metrics.registry.get_sample_value("taskcenter_db_up", {"work": work})

    try:
        inner.lost = "before"
        with pytest.raises(CommitUnknown):
            await lane.write(lambda connection: connection.fetch("SELECT 1"))
        assert (up("write"), up("read")) == (0, 1)
        assert alerts == [("store_out", "the store takes no writes: commit_unknown")]
        await database.write(lambda connection: connection.fetch("SELECT 1"))
        assert (up("write"), watch.trouble()) == (1, None)
        watch.failed("write", "full", 1.0)
        assert alerts[1:2] == [("store_full", "writes fail: the store's disk, a table or its connections are used up")]
    finally:
        await database.aclose()
