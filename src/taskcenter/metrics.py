"""Every metric of CONTRACT.md §5, in one registry. Names are contract; `docs/metrics.md` is made from this page.

A process has one `Metrics`. Hot paths take a labelled child once (`callbacks.labels(…)`) and keep it.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

LATENESS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
CALLBACK_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
QUERY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
BATCH_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 150, 200, 256)


class Metrics:
    """The registry and its families; attribute names are the metric's without the prefix `taskcenter_`.

    `greatest`: gauges of which the greatest is shown, and not the sum, where several processes answer as one.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.greatest: set[str] = set()
        by = ("business",)
        self.tasks_created = self._counter("tasks_created", "Tasks created.", by)
        self.tasks_finished = self._counter("tasks_finished", "Tasks that ended, by final status.", (*by, "status"))
        self.tasks = self._gauge("tasks", "Active tasks: pending, running, retrying.", (*by, "status"))
        self.callbacks = self._counter("callbacks", "Attempts sent, by how they ended.", (*by, "outcome"))
        self.callback_duration = self._histogram(
            "callback_duration_seconds", "From the first byte out to the end of the answer.", CALLBACK_BUCKETS, by
        )
        self.callback_lateness = self._histogram(
            "callback_lateness_seconds", "Start of an attempt minus its due time.", LATENESS_BUCKETS, by
        )
        self.callbacks_in_flight = self._gauge("callbacks_in_flight", "Attempts on their way.", by)
        self.rate_limited = self._counter("rate_limited", "Callbacks that waited for the rate limit.", by)
        self.rate_limit_tokens = self._gauge(
            "rate_limit_tokens", "Callbacks the limit would let start now.", by, greatest=True
        )
        self.breaker_state = self._gauge("breaker_state", "0 closed, 1 half-open, 2 open.", by, greatest=True)
        self.breaker_next_probe = self._gauge(
            "breaker_next_probe_timestamp_seconds",
            "When an open breaker is probed next; 0: none is open.",
            by,
            greatest=True,
        )
        self.breaker_transitions = self._counter("breaker_transitions", "Moves of the breaker.", (*by, "to"))
        self.auth = self._counter("auth", "Authentications.", (*by, "result", "reason"))
        self.actor_restarts = self._counter("actor_restarts", "Crashed actors restarted.", by)
        self.actor_mailbox_depth = self._gauge("actor_mailbox_depth", "References waiting in a mailbox.", by)
        self.wheel_timers = self._gauge("wheel_timers", "Timers on the wheel.")
        self.wheel_tick_lag = self._gauge("wheel_tick_lag_seconds", "How late the wheel last woke.", greatest=True)
        self.commit_batch_size = self._histogram(
            "commit_batch_size", "Items in one group commit.", BATCH_BUCKETS, ("kind",)
        )
        self.commit_duration = self._histogram(
            "commit_duration_seconds", "One group commit, start to durable.", QUERY_BUCKETS, ("kind",)
        )
        self.db_pool_size = self._gauge("db_pool_size", "Open connections to the store.")
        self.db_pool_in_use = self._gauge("db_pool_in_use", "Connections in use.")
        self.db_pool_waiting = self._gauge("db_pool_waiting", "Waiting for a connection.")
        self.db_query = self._histogram("db_query_seconds", "One unit of work on the store.", QUERY_BUCKETS)
        self.db_errors = self._counter("db_errors", "Failures of the store.", ("kind",))
        self.db_up = self._gauge(
            "db_up", "1 while the store's reads (its writes) go through, 0 from a second of nothing but failures on.",
            ("work",),
        )  # fmt: skip
        self.shards_owned = self._gauge("shards_owned", "Shards this instance owns.")
        self.lease_takeovers = self._counter("lease_takeovers", "Shards taken from a dead owner.")
        self.fenced_writes = self._counter("fenced_writes", "Claims or outcomes refused because the term was over.")
        self._of_the_process()
        ProcessCollector(registry=self.registry)

    def _of_the_process(self) -> None:
        by = ("business",)
        self.http_request = self._histogram(
            "http_request_seconds", "API requests.", QUERY_BUCKETS, ("route", "method", "status")
        )
        self.disk_free_bytes = self._gauge(
            "disk_free_bytes", "Free space where an embedded database lies.", greatest=True
        )
        self.api_key_expiry = self._gauge(
            "api_key_expiry_timestamp_seconds",
            "When the business's last API key in force ends, s since 1970.",
            by,
            greatest=True,
        )
        self.callback_certificate_expiry = self._gauge(
            "callback_certificate_expiry_timestamp_seconds",
            "When the client certificate that callbacks show ends, s since 1970.",
            by,
            greatest=True,
        )
        self.alerts = self._counter("alerts", "Alerts fired.", ("rule",))
        self.creates_shed = self._counter("creates_shed", "Creates refused because the service was overloaded.")
        self.claims_refused = self._counter("claims_refused", "Claims that lost a race: cancelled, changed or moved.")
        self.peer_datagrams = self._counter(
            "peer_datagrams",
            "Hints, questions and replies between instances: sent, dropped, taken, refused.",
            ("kind",),
        )
        self.http_connections = self._gauge("http_connections", "Open API connections.")
        self.http_faults = self._counter("http_faults", "API connections ended by a fault.", ("kind",))

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"taskcenter_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = (), *, greatest: bool = False) -> Gauge:
        if greatest:
            self.greatest.add(f"taskcenter_{name}")
        return Gauge(f"taskcenter_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"taskcenter_{name}", text, labels, buckets=buckets, registry=self.registry)


class ParentMetrics:
    """What the parent of several processes counts itself, shown beside theirs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.workers = Gauge(
            "taskcenter_workers", "Processes of `serve --processes`.", ("state",), registry=self.registry
        )
        self.worker_restarts = Counter(
            "taskcenter_worker_restarts", "Processes started again.", ("worker",), registry=self.registry
        )
