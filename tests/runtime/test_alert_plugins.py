"""The operator's functions that hear of alerts: each in its own time, and none in anybody's way."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from taskcenter.errors import ConfigError
from taskcenter.metrics import Metrics
from taskcenter.runtime.alert_plugins import WAITING, AlertPlugin, load_plugins
from taskcenter.runtime.alerts import Alerts, Sink


class Heard:
    """What a plugin was told, in which thread; it raises at what says so."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self._one_more = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, rule: str, text: str) -> None:
        self.alerts.append((rule, text))
        self.threads.add(threading.get_ident())
        self._token.run_sync_soon(self._one_more.set)
        if "poison" in text:
            raise RuntimeError("the pager is broken")

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(60):
            while len(self.alerts) < count:
                self._one_more = trio.Event()
                if len(self.alerts) < count:
                    await self._one_more.wait()


async def test_each_alert_is_handed_on_in_order_beside_the_loop_one_that_failed_too() -> None:
    heard = Heard()
    plugin = AlertPlugin("ops:page", heard)
    alerts = Alerts(Metrics(), [plugin])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plugin.run)
        for text in ("first", "poison", "third"):
            alerts("store_out", text)
        await heard.wait_for(3)
        nursery.cancel_scope.cancel()
    assert heard.alerts == [("store_out", "first"), ("store_out", "poison"), ("store_out", "third")]
    assert threading.get_ident() not in heard.threads


async def test_one_that_hangs_holds_up_neither_the_others_nor_the_end() -> None:
    over = threading.Event()
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def hang(_rule: str, _text: str) -> None:
        token.run_sync_soon(begun.set)
        over.wait(60)

    heard = Heard()
    hanging, sound = AlertPlugin("ops:hang", hang), AlertPlugin("ops:page", heard)
    alerts = Alerts(Metrics(), [hanging, sound])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hanging.run)
            nursery.start_soon(sound.run)
            alerts("disk_low", "0")
            with trio.fail_after(60):
                await begun.wait()
            for number in range(1, WAITING + 20):  # more than may wait for the one that hangs
                alerts("disk_low", str(number))
                if number % 50 == 0:
                    await heard.wait_for(number + 1)
            await heard.wait_for(WAITING + 20)
            nursery.cancel_scope.cancel()
    finally:
        over.set()
    assert [text for _, text in heard.alerts] == [str(number) for number in range(WAITING + 20)]


def test_plugins_are_imported_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ops_alerts_of_this_test.py").write_text("told = []\ndef page(rule, text):\n    told.append(rule)\n")
    monkeypatch.syspath_prepend(tmp_path)
    loaded: dict[str, Sink] = load_plugins(("ops_alerts_of_this_test:page",))
    loaded["ops_alerts_of_this_test:page"]("store_out", "out")
    assert sys.modules.pop("ops_alerts_of_this_test").told == ["store_out"]


@pytest.mark.parametrize("name", ["nowhere_at_all:page", "json:nothing", "json:__name__", "json", ":page", "a b:c"])
def test_what_cannot_be_called_is_told_with_its_setting(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^TASKCENTER_ALERT_PLUGINS: .*; e\.g\. ops_alerts:page$"):
        load_plugins((name,))
