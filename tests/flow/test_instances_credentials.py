"""Two instances over one server: what one is told of credentials holds on the other, for the API and for receivers."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.flow.kit import ADMIN_TOKEN, Api, Receiver, Service, several
from tests.flow.test_instances import server_url

pytestmark = pytest.mark.real_time
IN_FORCE_S = 2.0  # the promise; what is older than that is never believed, however slow the machine


async def statuses(service: Service, *credentials: str) -> list[int]:
    found = []
    for credential in credentials:
        api = Api(service, credential)
        found.append((await api.call("GET", "/tasks")).status_code)
        await api.aclose()
    return found


async def shown(api: Api, receiver: Receiver, name: str) -> str | None:
    """What a callback that is due now brings to the receiver as Authorization."""
    pinned = receiver.url.replace("127.0.0.1", "localhost")
    await api.ok("POST", "/tasks", {"business_id": name, "callback_url": f"{pinned}/{name}"})
    with trio.fail_after(20):
        while True:
            for call in receiver.calls:
                if call.path == f"/{name}":
                    return call.headers.get("authorization")
            await trio.sleep(0.02)


async def until_shown(api: Api, receiver: Receiver, what: str | None, name: str) -> None:
    with trio.fail_after(20):
        for number in range(100):
            if await shown(api, receiver, f"{name}-{number}") == what:
                return


async def test_rotation_revocation_and_receivers_credentials(mariadb_server: object, tmp_path: Any) -> None:
    async with several(server_url(mariadb_server), tmp_path, 2) as (services, receiver):
        here, there = services
        admin = Api(here, ADMIN_TOKEN)
        made = await admin.ok("POST", "/businesses", {"business_code": "shop", "business_name": "Shop"})
        first = made["api_key"]
        second = (await admin.ok("PUT", "/businesses/shop/credentials", {}))["api_key"]
        own = Api(here, second)
        token = (await own.ok("POST", "/businesses/shop/tokens", {}))["token"]
        assert await statuses(there, first, second, token) == [200, 200, 200]
        await admin.ok("DELETE", f"/businesses/shop/credentials/{second[8:24]}")
        assert await statuses(here, second, token) == [401, 401]
        await trio.sleep(IN_FORCE_S)
        assert await statuses(there, second, token, first) == [401, 401, 200]
        third = (await admin.ok("PUT", "/businesses/shop/credentials", {"revoke_previous": True}))["api_key"]
        await trio.sleep(IN_FORCE_S)
        assert await statuses(there, first, third) == [401, 200]
        apis = [Api(here, third), Api(there, third)]
        for number, token in enumerate(("canary-one", "canary-two", None)):
            hosts = ["http://localhost"]
            auth = None if token is None else {"type": "bearer", "token": token, "hosts": hosts}
            changer = Api(services[number % 2], ADMIN_TOKEN)
            await changer.ok("PUT", "/businesses/shop", {"callback_auth": auth})
            for which, api in enumerate(apis):
                await until_shown(api, receiver, token and f"Bearer {token}", f"t{number}-{which}")
            await changer.aclose()
        for api in (admin, own, *apis):
            await api.aclose()
