"""The store as the rest of the service sees it: domain verbs, one group a Protocol. SQL stands behind it.

Every verb is one transaction. `now` is always the caller's (engine time, ms since 1970 UTC); only `LeaseStore` lets
the store's clock judge. Errors: `StoreUnavailable` when nothing was committed, `CommitUnknown` when it may have been.
All verbs that change something are safe to repeat after either: guarded by status, version, term or a unique key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from taskcenter.store.engine_records import (
    ClaimRequest,
    FinishOf,
    Instance,
    OpenAttempt,
    Outcome,
    Recorded,
    SendPoint,
    Settlement,
    ShardLease,
)
from taskcenter.store.records import (
    AuditEntry,
    Business,
    Changed,
    ChangeResult,
    Counters,
    CreateResult,
    Credential,
    Execution,
    NewAuditEntry,
    NewTask,
    SigningSecret,
    Task,
    TaskChange,
    TaskCheck,
    TaskFilter,
)
from taskcenter.store.resealing import Resealed
from taskcenter.store.summaries import ExecutionSummary
from taskcenter.task import Status, TaskRef


class BusinessStore(Protocol):
    async def create(
        self, business: Business, credential: Credential, signing: SigningSecret, audit: NewAuditEntry
    ) -> None:
        """Insert a business with its first key, signing secret and ledger. Raises
        `Conflict('business_code_conflict')`.
        """

    async def get(self, code: str) -> Business | None: ...
    async def get_by_id(self, business_id: int) -> Business | None: ...
    async def page(self, after_code: str | None, limit: int) -> list[Business]: ...

    async def update(self, business: Business, audit: NewAuditEntry) -> bool:
        """Write all mutable columns, guarded by `version` = business.version - 1. False: lost the race."""

    async def changed_since(self, updated_at: int) -> list[Business]:
        """Businesses updated at or after: how limits come into force on every instance within 2 s."""

    async def touch(self, last_access: Mapping[int, int]) -> None:
        """Set last_access_at, never backwards."""

    async def credential(self, key_id: str) -> Credential | None: ...
    async def credentials(self, business_id: int) -> list[Credential]: ...
    async def keys_in_force(self, business_ids: Sequence[int], now: int) -> list[Credential]: ...

    async def rotate(
        self,
        new: Credential,
        *,
        previous_valid_until: int,
        revoke_previous: bool,
        now: int,
        signing: SigningSecret | None,
        audit: NewAuditEntry,
    ) -> None:
        """Add a key; end the older ones at `previous_valid_until` (or revoke them now); likewise the signing secret."""

    async def revoke(self, business_id: int, key_id: str, now: int, audit: NewAuditEntry) -> bool:
        """End one key of the business at once. False: there is no such key that is not revoked."""

    async def touch_credentials(self, last_used: Mapping[str, int]) -> None: ...

    async def rehash(self, key_id: str, kept: bytes, new: bytes) -> None:
        """Replace a key's hash, if it is still `kept`: the same secret, hashed with a newer encryption key."""

    async def check_keys(self) -> None:
        """Open the oldest and the newest signing secret, as a sample of what is sealed. Raises `Unsealable`."""

    async def signing_secrets(self, business_id: int, now: int) -> list[SigningSecret]:
        """The secrets in force, newest first."""

    async def counters(self, business_id: int) -> Counters: ...


class TaskStore(Protocol):
    async def create(
        self, tasks: Sequence[NewTask], max_active: Mapping[int, int], audit: Sequence[NewAuditEntry | None], now: int
    ) -> list[CreateResult]:
        """Insert what is new, in order; same-id items are replayed or conflict (within the batch too); exact quota."""

    async def get(self, business_id: int, task_id: str) -> Task | None: ...
    async def get_by_unique_id(self, business_id: int, business_unique_id: str) -> Task | None: ...

    async def page(self, business_id: int, where: TaskFilter, before_id: str | None, limit: int) -> list[Task]:
        """Newest first, ids below `before_id`; kind callback only; each filter is served by an index."""

    async def executions(
        self, business_id: int, task_id: str, before_number: int | None, limit: int
    ) -> list[Execution]:
        """Newest first."""

    async def update(
        self,
        business_id: int,
        task_id: str,
        change: TaskChange,
        *,
        expected_version: int | None,
        now: int,
        audit: NewAuditEntry,
        check: TaskCheck | None = None,
    ) -> ChangeResult:
        """Any active state keeps its status; a terminal one is WrongState. `check` may refuse what it would become."""

    async def run_now(self, business_id: int, task_id: str, now: int, audit: NewAuditEntry) -> ChangeResult:
        """A waiting task becomes due now."""

    async def cancel(
        self, business_id: int, task_id: str, now: int, audit: NewAuditEntry, *, finish: FinishOf | None = None
    ) -> ChangeResult:
        """Active → cancelled; already cancelled → Changed(previous=cancelled); otherwise ended → WrongState."""

    async def cancel_matching(
        self,
        business_id: int,
        where: TaskFilter,
        limit: int,
        now: int,
        audit: NewAuditEntry,
        *,
        finish: FinishOf | None = None,
    ) -> list[Changed]:
        """Cancel up to `limit` active tasks that match, the newest first; returns what it did."""

    async def redeliver(  # noqa: PLR0917  # five things name the call, as in its sisters; the sixth is the quota
        self, business_id: int, task_id: str, due_at: int, now: int, audit: NewAuditEntry, max_active: int
    ) -> ChangeResult:
        """Terminal → pending, next run, retry list from the start; counts as active (TooMany when full)."""

    async def count(self, business_id: int, where: TaskFilter, limit: int) -> int:
        """How many match, counted up to `limit`."""

    async def status_counts(self, business_id: int) -> dict[Status, int]: ...


class EngineStore(Protocol):
    async def due_refs(
        self, shards: frozenset[int] | None, due_from_ms: int, due_to_ms: int, after: tuple[int, str] | None, limit: int
    ) -> list[TaskRef]:
        """Waiting rows with due_from <= due < due_to in (due, id) order, strictly after `after`; None: all shards."""

    async def due_refs_of(
        self, business_id: int, due_to_ms: int, after: tuple[int, str] | None, limit: int
    ) -> list[TaskRef]: ...

    async def claim(self, requests: Sequence[ClaimRequest], now: int) -> list[Task]:
        """Waiting → running for those whose version holds and whose shard is still at that term; the rows, opened."""

    async def record(self, outcomes: Sequence[Outcome], now: int) -> list[Recorded]:
        """Running → where the move says, its execution, the business's counters and the finish task, all or nothing."""

    async def settle(self, settlements: Sequence[Settlement], now: int) -> list[Recorded]:
        """Waiting → where the move says, without an attempt; guarded by version and the shard's term."""

    async def recover(
        self, terms: Mapping[int, int], now: int, limit: int, *, finish: FinishOf | None = None
    ) -> list[Task]:
        """Rows running under a term older than the shard's `terms[shard]`: interrupted in history, due now; three in a
        row → failed/crash_suspect. Returns them as they are now, without headers and payload, at most `limit`; fewer
        means that none are left."""

    async def recover_cancelled(self, terms: Mapping[int, int], now: int, limit: int) -> list[OpenAttempt]:
        """Attempts on their way under an older term, whose task was cancelled meanwhile: interrupted in history. To be
        asked for when `recover` has found all. Returns at most `limit`; fewer means that none are left."""

    async def recent_sends(self, business_id: int, since: int, limit: int) -> list[SendPoint]:
        """The newest `limit`, oldest first, claims on their way included (by their scheduled time)."""

    async def flow_starts(self, business_id: int, since: int, limit: int) -> list[tuple[str, int]]:
        """(flow key, ms) of the newest `limit` attempts of tasks with a flow key, oldest first."""


class LeaseStore(Protocol):
    async def now(self) -> int:
        """The store's clock, ms since 1970."""

    async def register(self, instance_id: str, *, address: str | None, host_identity: str, ttl_ms: int) -> int:
        """A new live row. Returns the store's clock in ms."""

    async def heartbeat(self, instance_id: str, *, ttl_ms: int) -> int | None:
        """Renew; the store's clock in ms, or None: this instance was declared dead."""

    async def reap(self, stalled: Sequence[tuple[str, int]], *, not_after: int | None = None) -> list[str]:
        """Declare dead the expired, and those of `stalled` whose (id, seq) has not moved. Returns the ids.

        `not_after`: the latest time the store's clock is believed, in ms; it may have been set forward.
        """

    async def instances(self) -> list[Instance]: ...
    async def shards(self) -> list[ShardLease]: ...

    async def acquire(self, instance_id: str, shards: Sequence[int]) -> dict[int, int]:
        """Take the free or orphaned of `shards`; shard → its new term for those that are mine now."""

    async def release(self, instance_id: str, shards: Mapping[int, int]) -> None:
        """Give up at these terms."""

    async def leave(self, instance_id: str) -> None:
        """Tell that this instance wants no shards any more: those it has are to be shared out among the others."""

    async def retire(self, instance_id: str) -> None:
        """A clean end: release everything and mark the instance dead."""


class AuditStore(Protocol):
    async def append(self, entries: Sequence[NewAuditEntry]) -> None:
        """Chain and insert."""

    async def page(self, business_id: int, before_seq: int | None, limit: int) -> list[AuditEntry]:
        """Newest first."""


class MaintenanceStore(Protocol):
    async def purge(self, older_than: int, limit: int) -> int:
        """Delete up to `limit` finished tasks (with executions, tags) finished before; then audit rows and old
        credentials. Returns how many rows went."""

    async def totals(self) -> dict[Status, int]: ...
    async def meta(self, key: str) -> bytes | None: ...
    async def set_meta_once(self, key: str, value: bytes) -> bytes:
        """Set if absent; returns what is there now."""

    async def ping(self) -> None: ...


class StatsStore(Protocol):
    async def execution_summary(self, business_id: int, since: int, now: int) -> ExecutionSummary:
        """Attempts sent at or after `since`: counted by hour and status, and their percentiles."""


class ResealStore(Protocol):
    @property
    def key_id(self) -> str:
        """The newest encryption key."""

    async def page(self, cursor: str | None, limit: int) -> Resealed:
        """Seal up to `limit` rows of the page after `cursor` with the newest key; ciphertexts change, nothing else."""

    async def note(self, progress: bytes) -> None:
        """Keep how a rotation stands."""

    async def noted(self) -> bytes | None: ...


class Store(Protocol):
    @property
    def businesses(self) -> BusinessStore: ...
    @property
    def tasks(self) -> TaskStore: ...
    @property
    def engine(self) -> EngineStore: ...
    @property
    def leases(self) -> LeaseStore: ...
    @property
    def audit(self) -> AuditStore: ...
    @property
    def maintenance(self) -> MaintenanceStore: ...
    @property
    def stats(self) -> StatsStore: ...
    @property
    def resealing(self) -> ResealStore: ...

    async def open(self) -> None: ...
    async def aclose(self) -> None: ...
