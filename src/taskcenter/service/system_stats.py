"""The system's totals, for its operator: tasks by state, instances, who runs which shards, the engine's own figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taskcenter.service.engine_port import Engine
from taskcenter.service.principal import Principal
from taskcenter.store.interface import LeaseStore, MaintenanceStore
from taskcenter.times import format_time


@dataclass(frozen=True, slots=True)
class SystemStats:
    maintenance: MaintenanceStore
    leases: LeaseStore
    engine: Engine

    async def read(self, principal: Principal) -> dict[str, Any]:
        """JSON-ready. Raises `Forbidden` for all but the admin."""
        principal.require_admin()
        totals = await self.maintenance.totals()
        instances = await self.leases.instances()
        owners: dict[str, int] = {}
        for lease in await self.leases.shards():
            owners[lease.owner or ""] = owners.get(lease.owner or "", 0) + 1
        return {
            "tasks": {status.value: count for status, count in totals.items()},
            "instances": [
                {
                    "id": instance.id,
                    "started_at": format_time(instance.started_at),
                    "alive": not instance.dead and instance.expires_in_ms > 0,
                    "shards": owners.get(instance.id, 0),
                }
                for instance in instances
            ],
            "unowned_shards": owners.get("", 0),
            "answered_by": self.engine.instance_id,
            "engine": self.engine.statistics(),
        }
