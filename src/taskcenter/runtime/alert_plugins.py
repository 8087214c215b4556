"""Functions of the operator's that hear of every alert: a pager, a chat, a mail (`TASKCENTER_ALERT_PLUGINS`).

Each gets the rule and the text, in a thread of its own, one alert after the other. A plugin that hangs, is slow or
raises holds up nothing: what comes while `WAITING` alerts wait for it is dropped, and the log tells of that and of what
it raised. The log line and the metric of an alert do not depend on plugins.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from taskcenter import log
from taskcenter.errors import ConfigError
from taskcenter.runtime.alerts import Sink

WAITING: Final = 100
SETTING: Final = "TASKCENTER_ALERT_PLUGINS"

_log = log.get("alerts")


def load_plugins(names: Sequence[str]) -> dict[str, Sink]:
    """Each `module:function` imported. Raises `ConfigError`."""
    return {name: _load(name) for name in names}


def _load(name: str) -> Sink:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001  # a module may raise anything while it is imported
        raise ConfigError(f"{SETTING}: {name!r} cannot be imported: {error}; e.g. ops_alerts:page") from None
    if not callable(found):
        raise ConfigError(f"{SETTING}: {name!r} is no function; e.g. ops_alerts:page")
    plugin: Sink = found
    return plugin


class AlertPlugin:
    """One plugin and the alerts that wait for it. Call it as a sink; `run` beside the engine."""

    def __init__(self, name: str, plugin: Sink) -> None:
        self._name = name
        self._plugin = plugin
        self._offer, self._waiting = trio.open_memory_channel[tuple[str, str]](WAITING)
        self._thread = trio.CapacityLimiter(1)

    def __call__(self, rule: str, text: str) -> None:
        try:
            self._offer.send_nowait((rule, text))
        except trio.WouldBlock:
            _log.warning("alert not handed on, its plugin is too slow", plugin=self._name, rule=rule)

    async def run(self) -> None:
        """Hand on for ever. When cancelled, a call under way is left to its end."""
        async for rule, text in self._waiting:
            call = partial(self._plugin, rule, text)
            try:
                await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._thread)
            except Exception as error:  # noqa: BLE001  # the operator's code may raise anything; the log has it
                _log.error("alert plugin failed", plugin=self._name, rule=rule, exc_info=error)
