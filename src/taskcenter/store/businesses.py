"""Businesses, their keys and signing secrets (`interface.BusinessStore`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from taskcenter.errors import Conflict
from taskcenter.store.audit import GENESIS, append_audit
from taskcenter.store.connection import Connection, Database, DuplicateKey, Param, Row
from taskcenter.store.records import Business, Counters, Credential, NewAuditEntry, SigningSecret
from taskcenter.store.rows import (
    business_row,
    credential_row,
    open_business,
    open_secret,
    sealed_credentials,
    secret_row,
    to_json,
)
from taskcenter.store.statements import businesses as sql
from taskcenter.store.statements.text import chunks, fetch_in
from taskcenter.store.vault import Vault

TOUCHED_AT_ONCE: Final = 1000


class SqlBusinessStore:
    """See `interface.BusinessStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def create(
        self, business: Business, credential: Credential, signing: SigningSecret, audit: NewAuditEntry
    ) -> None:
        """One that is there under the very same id is this call's, committed earlier: nothing is left to do."""
        secret = secret_row(signing, self._vault)

        async def work(connection: Connection) -> None:
            former = await connection.fetch_one(sql.GET, (business.code.encode(),))
            if former is not None:
                if former[0] == business.id:
                    return
                raise _taken(business.code)
            try:
                await connection.execute(sql.INSERT, business_row(business, self._vault))
            except DuplicateKey:  # by another transaction since the look
                raise _taken(business.code) from None
            await connection.execute(sql.INSERT_LEDGER, (business.id, GENESIS))
            await connection.execute(sql.INSERT_CREDENTIAL, credential_row(credential))
            await connection.execute(sql.INSERT_SECRET, secret)
            await append_audit(connection, [audit])

        await self._database.write(work)

    async def get(self, code: str) -> Business | None:
        return self._opened(await self._one(sql.GET, (code.encode(),)))

    async def get_by_id(self, business_id: int) -> Business | None:
        return self._opened(await self._one(sql.GET_BY_ID, (business_id,)))

    async def page(self, after_code: str | None, limit: int) -> list[Business]:
        return [
            open_business(row, self._vault) for row in await self._all(sql.PAGE, ((after_code or "").encode(), limit))
        ]

    async def changed_since(self, updated_at: int) -> list[Business]:
        return [open_business(row, self._vault) for row in await self._all(sql.CHANGED, (updated_at,))]

    async def update(self, business: Business, audit: NewAuditEntry) -> bool:
        b = business
        values = (
            b.name, b.status.value, b.rate_limit, b.max_concurrent_tasks, b.max_active_tasks, b.default_timeout_ms,
            to_json(dict(b.breaker)), to_json(dict(b.host_limits)), b.version, b.updated_at,
            *sealed_credentials(b, self._vault), b.id, b.version - 1,
        )  # fmt: skip

        async def work(connection: Connection) -> bool:
            if not await connection.execute(sql.UPDATE, values):
                return False
            await append_audit(connection, [audit])
            return True

        return await self._database.write(work)

    async def touch(self, last_access: Mapping[int, int]) -> None:
        await self._touch(sql.TOUCH.on(self._database.dialect), sorted(last_access.items()))

    async def touch_credentials(self, last_used: Mapping[str, int]) -> None:
        await self._touch(sql.TOUCH_CREDENTIALS.on(self._database.dialect), sorted(last_used.items()))

    async def _touch(self, statement: str, times: Sequence[tuple[int | str, int]]) -> None:
        for some in chunks(times, TOUCHED_AT_ONCE):
            doc = to_json([{"id": key, "at": at} for key, at in some])

            async def work(connection: Connection, doc: str = doc) -> None:
                await connection.execute(statement, (doc,))

            await self._database.write(work)

    async def credential(self, key_id: str) -> Credential | None:
        row = await self._one(sql.CREDENTIAL, (key_id,))
        return None if row is None else Credential(*row)

    async def credentials(self, business_id: int) -> list[Credential]:
        return [Credential(*row) for row in await self._all(sql.CREDENTIALS, (business_id,))]

    async def keys_in_force(self, business_ids: Sequence[int], now: int) -> list[Credential]:
        async def work(connection: Connection) -> list[Row]:
            return await fetch_in(connection, sql.KEYS_IN_FORCE, business_ids, after=(now,))

        return [Credential(*row) for row in await self._database.read(work)]

    async def rehash(self, key_id: str, kept: bytes, new: bytes) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(sql.REHASH, (new, key_id, kept))

        await self._database.write(work)

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
        """Also marks the business as changed, so that every instance looks at its keys and secrets again."""
        business_id = new.business_id
        secret = None if signing is None else secret_row(signing, self._vault)
        until = now if revoke_previous else previous_valid_until

        async def work(connection: Connection) -> None:
            try:
                await connection.execute(sql.INSERT_CREDENTIAL, credential_row(new))
            except DuplicateKey:
                return  # this call's, committed earlier: key ids are never used twice
            if revoke_previous:
                await connection.execute(sql.REVOKE_CREDENTIALS, (now, business_id, new.key_id))
            else:
                await connection.execute(sql.END_CREDENTIALS, (until, business_id, new.key_id, until))
            if signing is not None and secret is not None:
                await connection.execute(sql.END_SECRETS, (until, business_id, signing.id, until))
                await connection.execute(sql.INSERT_SECRET, secret)
            await connection.execute(sql.MARK_CHANGED, (now, business_id, now))
            await append_audit(connection, [audit])

        await self._database.write(work)

    async def revoke(self, business_id: int, key_id: str, now: int, audit: NewAuditEntry) -> bool:
        async def work(connection: Connection) -> bool:
            if not await connection.execute(sql.REVOKE_CREDENTIAL, (now, business_id, key_id)):
                return False
            await connection.execute(sql.MARK_CHANGED, (now, business_id, now))
            await append_audit(connection, [audit])
            return True

        return await self._database.write(work)

    async def signing_secrets(self, business_id: int, now: int) -> list[SigningSecret]:
        return [open_secret(row, self._vault) for row in await self._all(sql.SECRETS, (business_id, now))]

    async def check_keys(self) -> None:
        """See `interface.BusinessStore`."""
        for row in await self._all(sql.OLDEST_AND_NEWEST_SECRET, ()):
            open_secret(row, self._vault)

    async def counters(self, business_id: int) -> Counters:
        row = await self._one(sql.LEDGER, (business_id,))
        return Counters(business_id, *(row or (0,) * len(sql.COUNTERS)))

    def _opened(self, row: Row | None) -> Business | None:
        return None if row is None else open_business(row, self._vault)

    async def _one(self, statement: str, params: Sequence[Param]) -> Row | None:
        async def work(connection: Connection) -> Row | None:
            return await connection.fetch_one(statement, params)

        return await self._database.read(work)

    async def _all(self, statement: str, params: Sequence[Param]) -> list[Row]:
        async def work(connection: Connection) -> list[Row]:
            return await connection.fetch(statement, params)

        return await self._database.read(work)


def _taken(code: str) -> Conflict:
    return Conflict("business_code_conflict", f"the business_code {code} is taken", business_code=code)
