"""From a request's headers to the principal: what `build_app` asks for every route that is not public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quart import request

from taskcenter.http.requests import request_record
from taskcenter.service.authenticator import Authenticator, Presented
from taskcenter.service.principal import Principal


def authenticate_with(authenticator: Authenticator) -> Callable[[], Awaitable[Principal]]:
    """For `build_app(authenticate=…)`."""

    async def authenticate() -> Principal:
        """Who sent the present request. Raises as `Authenticator.authenticate`."""
        headers = request.headers
        return await authenticator.authenticate(
            Presented(
                authorization=tuple(headers.getlist("Authorization")),
                api_key=tuple(headers.getlist("X-API-Key")),
                business=tuple(headers.getlist("X-TaskCenter-Business")),
                ip=(request.scope.get("client") or [None])[0],
                request_id=request_record().request_id,
            )
        )

    return authenticate
