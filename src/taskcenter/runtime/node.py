"""One process of the service, from start to end.

Nurseries nest in shutdown order: store ⊃ engine ⊃ service's background work ⊃ API. SIGTERM or SIGINT begin the end:
readiness turns 503, the API takes no new connections and finishes what it has, the engine starts nothing more and
lets what is on its way end and be recorded, the shards are handed over, the store closes; exit 0. A second signal
ends the process at once.

The engine is a sibling of the API in our own nursery: if any part of it crashes, everything ends with status 1, and
the supervisor outside (systemd, Kubernetes, `--processes`) starts a whole new process. There is no API without an
engine behind it.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from taskcenter import __version__, log, tracing
from taskcenter.actors.client import BusinessClient
from taskcenter.actors.egress.connection_room import ConnectionRoom
from taskcenter.actors.egress.http1 import Http1Connection
from taskcenter.actors.egress.resolver import NameService
from taskcenter.actors.egress.tls import TlsSettings, tls_context
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.errors import ConfigError
from taskcenter.http.app import build_app
from taskcenter.http.limits import ServerMeter, ServerSettings
from taskcenter.http.listeners import check_listeners, open_listeners
from taskcenter.http.server import serve_api
from taskcenter.http.shedding import Shedder
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.runtime.alert_plugins import AlertPlugin, load_plugins
from taskcenter.runtime.alerts import Alerts
from taskcenter.runtime.datagrams import UdpSocket
from taskcenter.runtime.descriptors import provide
from taskcenter.runtime.egress_settings import egress_policy
from taskcenter.runtime.engine import Engine, EngineParts
from taskcenter.runtime.expiries import Expiries
from taskcenter.runtime.gauges import TaskGauges
from taskcenter.runtime.housekeeping import Housekeeping
from taskcenter.runtime.identity import own_identity
from taskcenter.runtime.keyring import keep_keys, load_keys
from taskcenter.runtime.load import STORE_TARGET_MS
from taskcenter.runtime.peer_link import PeerLink
from taskcenter.runtime.store_alarm import StoreAlarm
from taskcenter.runtime.worker import Worker, is_worker
from taskcenter.service.services import Services
from taskcenter.store.records import Business
from taskcenter.store.revision import check, require_current
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.url import SqliteUrl, parse_database_url
from taskcenter.store.vault import Unsealable, Vault
from taskcenter.store.watch import StoreWatch

CLOSE_TIMEOUT_S: Final = 5.0
SWITCH_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Started:
    """What a caller may want to know of a running node."""

    addresses: tuple[str, ...]
    services: Services
    new_admin_token: str | None  # on the very first start, to be shown once


def prepare_database(settings: Settings, *, migrate: bool) -> None:
    """Bring the schema up where that is ours to do. Raises `SchemaMismatch`, `ConfigError`, `StoreUnavailable`."""
    egress_policy(settings)  # a wrong setting is told before there is a database
    load_plugins(settings.alert_plugins)
    url = settings.database_url.get_secret_value()
    embedded = isinstance(parse_database_url(url), SqliteUrl)
    state = check(url)
    if state in ("empty", "older") and (embedded or migrate):
        from taskcenter.store.migrate import up  # noqa: PLC0415  # SQLAlchemy and Alembic: slow to load, seldom needed

        up(url)
    elif state != "current":
        require_current(url)


async def run_node(settings: Settings, *, ready: Callable[[Started], Awaitable[None]] | None = None) -> bool:
    """Serve until a signal. `ready` runs beside the service once it listens. False: the grace ran out at the end."""
    url = parse_database_url(settings.database_url.get_secret_value())
    if isinstance(url, SqliteUrl):
        _share_the_interpreter()
    keys = load_keys(settings, url)
    metrics = Metrics()
    waits = StandingQueue(STORE_TARGET_MS)
    watch = StoreWatch()
    store = open_store(url, Vault(keys), pool_size=settings.db_pool_size, metrics=metrics, waits=waits, watch=watch)
    try:
        await store.open()
        await _check_keys(store)
        keep_keys(settings, url, keys)
        worker = Worker(metrics) if is_worker() else None
        clock = Clock()
        if not isinstance(url, SqliteUrl):
            clock.begin_with(await store.leases.now())
        node = Node(settings, store, keys, metrics, waits, clock=clock, watch=watch, worker=worker)
        return await node.run(ready)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
            await store.aclose()


async def check_bind(settings: Settings) -> None:
    """Refuse an address or a certificate that cannot be used before a shard is taken. Raises `ConfigError`."""
    await check_listeners(_server_settings(settings, reuse_port=False))


async def reserve_bind(settings: Settings) -> list[socket.socket]:
    """Sockets that hold the addresses for workers to listen on, as long as they are open. Raises `ConfigError`."""
    return await open_listeners(_server_settings(settings, reuse_port=True), listen=False)


def _server_settings(settings: Settings, *, reuse_port: bool) -> ServerSettings:
    return ServerSettings(
        bind=settings.bind,
        tls_cert=settings.tls_cert,
        tls_key=settings.tls_key,
        reuse_port=reuse_port,
        grace_s=min(settings.shutdown_grace, 10.0),
        max_body_bytes=settings.max_body_bytes,
    )


async def _check_keys(store: SqlStore) -> None:
    """Refuse keys that do not open what the database holds, before anything is written with them."""
    try:
        await store.businesses.check_keys()
    except Unsealable as fault:
        raise ConfigError(
            f"TASKCENTER_ENCRYPTION_KEYS: does not open what this database holds ({fault}); restore the former keys,"
            " from a backup of the .keys file or after the new one, e.g. k2:<new>,k1:<former>"
        ) from None


def _check_tls(settings: TlsSettings) -> None:
    """See that the operator's own authorities can be used. Raises `ConfigError`."""
    try:
        if settings.ca_file is not None:
            tls_context(settings)
    except OSError as error:
        raise ConfigError(
            f"TASKCENTER_CALLBACK_CA: {error.strerror or 'is not a PEM bundle'}; e.g. /etc/ssl/ca.pem"
        ) from None


def _share_the_interpreter() -> None:
    """With an embedded store the thread that writes wants the interpreter back after each statement, and waits for the
    loop to be through its turn: 5 ms at Python's default, some seven times a transaction.
    """
    sys.setswitchinterval(SWITCH_S)


def _spare_the_collector() -> None:
    """What is there now stays for good: the collector need not walk it again, and it runs less often.

    A full collection of a large heap stops the loop for tens of ms; reference counts free nearly everything here.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _run_worker(worker: Worker, *, task_status: trio.TaskStatus[None]) -> None:
    await worker.run(task_status=task_status)


class Node:
    """The parts of one process, and their life."""

    def __init__(
        self,
        settings: Settings,
        store: SqlStore,
        keys: tuple[tuple[str, bytes], ...],
        metrics: Metrics,
        waits: StandingQueue,
        *,
        clock: Clock,
        watch: StoreWatch,
        worker: Worker | None,
    ) -> None:
        """`worker`: this process as one of several."""
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._worker = worker
        self._log = log.get("node")
        self._clock = clock
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  # ids and jitter; secrets have their own source
        self._ids = IdSource(self._rng)
        self._alert_plugins = [AlertPlugin(*each) for each in load_plugins(settings.alert_plugins).items()]
        self._alerts = Alerts(metrics, self._alert_plugins)
        self._alarm = StoreAlarm(watch, metrics, self._alerts)
        self._tracer = tracing.configure(self._rng, __version__)
        self._egress = egress_policy(settings)
        self._names = NameService()
        self._server_settings = _server_settings(settings, reuse_port=worker is not None)
        callbacks = provide(settings, self._server_settings).callbacks
        self._room: ConnectionRoom[Http1Connection] = ConnectionRoom(callbacks)
        self._tls = TlsSettings(ca_file=settings.callback_ca)
        _check_tls(self._tls)
        identity = own_identity()
        alone = isinstance(parse_database_url(settings.database_url.get_secret_value()), SqliteUrl)
        link = None if alone else PeerLink(UdpSocket(settings.peer_address), keys, identity, self._clock, metrics)
        self._engine = Engine(
            EngineParts(
                store=store, clock=self._clock, rng=self._rng, ids=self._ids, metrics=metrics, tracer=self._tracer,
                load_business=store.businesses.get_by_id, new_client=self._new_client, alert=self._alerts,
                identity=identity, link=link, lease_ttl_s=settings.lease_ttl,
                max_in_flight=int(min(settings.max_in_flight, callbacks)), store_waits=waits,
                backlog_pace=settings.backlog_pace, business_memory=settings.business_memory,
            )
        )  # fmt: skip
        self._services = Services.build(
            store=store, settings=settings, keys=keys, clock=self._clock, ids=self._ids, metrics=metrics,
            engine=self._engine, egress=self._egress, random_bytes=secrets.token_bytes, store_trouble=watch.trouble,
        )  # fmt: skip
        self._expiries = Expiries(store.businesses, self._clock, metrics, self._alerts, self._engine.owns)
        self._gauges = TaskGauges(store, metrics, self._engine.owns)
        self._housekeeping = Housekeeping(store, settings, self._clock, metrics, self._alerts)
        self._shutdown = trio.Event()

    async def run(self, ready: Callable[[Started], Awaitable[None]] | None) -> bool:
        drained = True
        async with trio.open_nursery() as whole:
            whole.start_soon(self._await_signals)
            if self._worker is not None:
                self._services.health.watch("processes", self._worker.health)
                await whole.start(partial(_run_worker, self._worker))
            for plugin in self._alert_plugins:
                whole.start_soon(plugin.run)
            whole.start_soon(trio.to_thread.run_sync, tls_context, self._tls)  # some 50 ms, before the first callback
            await whole.start(self._engine.run)
            new_token = await self._services.start_admin_token()
            await whole.start(self._run_services)
            whole.start_soon(self._housekeeping.run)
            whole.start_soon(self._gauges.run)
            whole.start_soon(self._expiries.run)
            async with trio.open_nursery() as api:
                addresses = await api.start(self._serve)
                _spare_the_collector()
                self._log.info("serving", addresses=addresses, version=__version__, instance=self._engine.instance_id)
                if self._worker is not None:
                    whole.start_soon(self._worker.serving)
                if ready is not None:
                    whole.start_soon(ready, Started(addresses, self._services, new_token))
                await self._shutdown.wait()
                drained = await self._engine.drain(self._settings.shutdown_grace)
            await self._services.flush()
            if self._worker is not None:
                await self._worker.farewell()
            whole.cancel_scope.cancel()
        self._tracer.close()
        self._log.info("stopped", drained=drained)
        return drained

    async def _run_services(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._services.run(task_status=task_status)

    async def _serve(self, task_status: trio.TaskStatus[tuple[str, ...]]) -> None:
        settings = self._settings
        exposition = None if self._worker is None else self._worker.exposition
        app = build_app(self._services, settings, self._metrics, self._clock, exposition)
        meter = ServerMeter(lambda kind, _: self._metrics.http_faults.labels(kind).inc())
        self._metrics.http_connections.set_function(lambda: meter.connections_open)
        self._services.health.watch("api", meter.health)
        await serve_api(
            app,
            self._server_settings,
            shutdown=self._shutdown,
            meter=meter,
            shedder=Shedder(self._services.tasks.creation.overloaded, self._metrics.creates_shed.inc, self._rng.random),
            task_status=task_status,
        )

    def _new_client(self, business: Business) -> BusinessClient:
        names = self._names.for_business()
        transport = CallbackTransport(policy=self._egress, resolver=names, tls=self._tls, room=self._room)
        return BusinessClient(business, transport)

    async def _await_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self._shutdown.is_set():
                    self._log.warning("second signal, ending at once", signal=signal.Signals(number).name)
                    os._exit(1)
                self._log.info("stopping", signal=signal.Signals(number).name)
                self._services.health.drain()
                self._shutdown.set()
