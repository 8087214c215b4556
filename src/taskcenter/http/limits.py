"""What the server allows, and what it counts: settings, the connection cap, the meter.

Nothing here does I/O. `ServerSettings` are the knobs, `connection_cap` turns them and the process's descriptor limit
into one number, `ServerMeter` is the one place where connections, refusals, cuts and faults are counted.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

FaultHook = Callable[[str, str], None]
"""`on_fault(kind, exc_type_name)`: kind is `handler`, `connection`, `accept` or `hook`. Must not block."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How the API is served. Times in s, sizes in bytes."""

    bind: tuple[str, ...] = ("127.0.0.1:8080",)  # host:port or [v6]:port; port 0: the kernel's choice
    tls_cert: Path | None = None  # PEM chain; with it and `tls_key` every address speaks TLS
    tls_key: Path | None = None
    reuse_port: bool = False  # SO_REUSEPORT: several processes on one address
    backlog: int = 1024
    max_connections: int = 2_000
    descriptor_share: float = 0.6  # of RLIMIT_NOFILE that connections may take; the rest is the engine's
    head_timeout_s: float = 10.0  # from the connect, or a head's first byte, to its end; the TLS handshake too
    body_timeout_s: float = 30.0  # from the end of the head to the end of the body
    keep_alive_s: float = 75.0  # silence between two requests
    send_timeout_s: float = 10.0  # for each 64 KiB of an answer
    linger_s: float = 1.0  # input still swallowed after a refusal, so that the client can read it
    evict_after_s: float = 1.0  # at the cap, a connection silent for longer makes room for a new one
    grace_s: float = 20.0  # for requests on their way when the shutdown begins
    max_head_bytes: int = 64 * 1024
    max_target_bytes: int = 8 * 1024
    max_headers: int = 100
    max_body_bytes: int = 8 * 1024 * 1024 + 64 * 1024

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if not 0 < self.descriptor_share <= 0.6:
            raise ValueError("descriptor_share is above 0 and at most 0.6: the engine needs descriptors as well")
        if self.max_connections < 1 or not self.bind:
            raise ValueError("there must be an address, and room for one connection")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """A moment's count; all but `connections_open` and `connections_cap` only grow."""

    connections_open: int
    connections_cap: int
    connections_total: int
    requests_total: int  # heads that were accepted and handed to the app
    faults: Mapping[str, int]  # by kind: exceptions that were contained
    refused: Mapping[str, int]  # by code: requests answered here, that the app never saw whole
    cut_slow: int  # head, body or handshake not in time
    cut_nonreading: int  # an answer not taken in time
    cut_idle: int  # silent between requests, or evicted at the cap


class ServerMeter:
    """The server's counters. Owned by the server's tasks, read by anyone through `statistics`."""

    def __init__(self, on_fault: FaultHook | None = None) -> None:
        self._on_fault = on_fault
        self._faults: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self.connections_open = 0
        self.connections_cap = 0
        self.connections_total = 0
        self.requests_total = 0
        self.requests_open = 0  # handed to the app and not yet answered
        self.cut_slow = 0
        self.cut_nonreading = 0
        self.cut_idle = 0

    def fault(self, kind: str, error: BaseException) -> None:
        """Count a contained exception and tell the hook. A hook that fails is itself counted, as `hook`."""
        self._faults[kind] += 1
        if self._on_fault is not None:
            try:
                self._on_fault(kind, leaf_name(error))
            except Exception:  # noqa: BLE001 - a hook is not ours; its fault must not become the connection's
                self._faults["hook"] += 1

    def refusal(self, code: str) -> None:
        self._refused[code] += 1

    def health(self) -> str:
        """`ok`, or why new clients wait."""
        if 0 < self.connections_cap <= self.connections_open:
            return f"degraded: all {self.connections_cap} connections are taken, new clients wait"
        return "ok"

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            connections_open=self.connections_open,
            connections_cap=self.connections_cap,
            connections_total=self.connections_total,
            requests_total=self.requests_total,
            faults=MappingProxyType(dict(self._faults)),
            refused=MappingProxyType(dict(self._refused)),
            cut_slow=self.cut_slow,
            cut_nonreading=self.cut_nonreading,
            cut_idle=self.cut_idle,
        )

    def __repr__(self) -> str:
        return f"<ServerMeter open={self.connections_open}/{self.connections_cap} faults={sum(self._faults.values())}>"


def leaf_name(error: BaseException) -> str:
    """The type name of an exception; of a group, that of its first leaf, for a group's own name tells nothing."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


def connection_cap(settings: ServerSettings, descriptors: int | None = None) -> int:
    """How many connections may be open at once: the setting, or `descriptor_share` of the soft RLIMIT_NOFILE.

    `descriptors` stands for the limit in tests. At least 1, so that a process with a silly limit can still say so.
    """
    if descriptors is None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors == resource.RLIM_INFINITY:
            return settings.max_connections
    return max(1, min(settings.max_connections, int(descriptors * settings.descriptor_share)))
