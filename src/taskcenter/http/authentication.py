"""From a request's headers to the principal, and its request rate: what holds for every route that is not public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quart import request

from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.http.requests import request_record
from taskcenter.service.api_rate import ApiRate
from taskcenter.service.authenticator import Authenticator, Presented
from taskcenter.service.principal import Principal


def authenticate_with(authenticator: Authenticator) -> Callable[[], Awaitable[Principal]]:
    """For `build_app(authenticate=…)`."""

    async def authenticate() -> Principal:
        """Who sent the present request. Raises as `Authenticator.authenticate`."""
        headers, record = request.headers, request_record()
        return await authenticator.authenticate(
            Presented(
                authorization=tuple(headers.getlist("Authorization")),
                api_key=tuple(headers.getlist("X-API-Key")),
                business=tuple(headers.getlist("X-TaskCenter-Business")),
                ip=record.ip,
                request_id=record.request_id,
            )
        )

    return authenticate


def rate_limit(settings: Settings, clock: Clock) -> Callable[[Principal], None]:
    """Counts a request of the principal's. The answer, whatever it is, tells how many are left."""
    rates = ApiRate(settings.api_rate, settings.api_burst)

    def count(principal: Principal) -> None:
        """Raises `TooMany`."""
        allowance = rates.take(principal, clock.now_ms())
        request_record().allowance = allowance
        if allowance is not None:
            allowance.require()

    return count
