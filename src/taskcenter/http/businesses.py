"""The calls on businesses: each handler reads its input, makes one call of the service, and writes the answer."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response

from taskcenter.http import business_models as m
from taskcenter.http.business_stats_models import BusinessStatsView
from taskcenter.http.openapi import Reply, describe
from taskcenter.http.requests import if_match, json_body, json_response, no_body, principal, query
from taskcenter.service.business_input import BusinessInput, BusinessUpdate
from taskcenter.service.businesses import Businesses
from taskcenter.service.credential_input import RotateInput, TokenInput
from taskcenter.service.stats import BusinessStats
from taskcenter.service.task_filter import PageQuery

TAG: Final = "Businesses"


def businesses_blueprint(businesses: Businesses, stats: BusinessStats) -> Blueprint:
    """All routes under `/businesses` but the audit; the caller mounts them below the API's prefix."""
    blueprint = Blueprint("businesses", __name__)
    _add_management(blueprint, businesses)
    _add_reads(blueprint, businesses, stats)
    _add_credentials(blueprint, businesses)
    return blueprint


def _add_management(blueprint: Blueprint, businesses: Businesses) -> None:
    @blueprint.post("/businesses")
    @describe(
        "Register a business",
        tag=TAG,
        description="API key and signing secret are in this answer and nowhere else. 409 `business_code_conflict`.",
        body=BusinessInput,
        admin=True,
        replies={201: Reply("Registered.", m.RegisteredView, headers=("ETag", "Location"))},
        errors=(409,),
    )
    async def register() -> Response:
        registered = await businesses.register(principal(), await json_body())
        code, version = registered.business.code, registered.business.version
        headers = {"Location": f"/api/v1/businesses/{code}", "ETag": f'"{version}"'}
        return json_response(m.registered_fields(registered), 201, headers)

    @blueprint.put("/businesses/<business_code>")
    @describe(
        "Change a business",
        tag=TAG,
        description="In force on every instance within 2 s. `paused`: tasks are taken, no callback starts. `disabled`: "
        "besides, its credentials are refused. 409 `version_conflict` when `If-Match` names another version.",
        body=BusinessUpdate,
        admin=True,
        headers=("If-Match",),
        replies={200: Reply("The business as it is now.", m.BusinessView, headers=("ETag",))},
        errors=(409,),
    )
    async def update(business_code: str) -> Response:
        business = await businesses.update(principal(), business_code, await json_body(), if_match())
        return json_response(m.business_fields(business), headers={"ETag": f'"{business.version}"'})


def _add_reads(blueprint: Blueprint, businesses: Businesses, stats: BusinessStats) -> None:
    @blueprint.get("/businesses")
    @describe(
        "List businesses",
        tag=TAG,
        description="By code. A business sees itself alone.",
        query=PageQuery,
        replies={200: Reply("A page of businesses.", m.BusinessPage)},
    )
    async def list_businesses() -> Response:
        given = query(PageQuery)
        rows, cursor = await businesses.page(principal(), given.cursor, given.limit)
        return json_response({"items": [m.business_fields(row) for row in rows], "next_cursor": cursor})

    @blueprint.get("/businesses/<business_code>")
    @describe(
        "Look at a business",
        tag=TAG,
        description="With its API keys, without any secret. Another's business is 404.",
        replies={200: Reply("The business.", m.BusinessDetailView, headers=("ETag",))},
    )
    async def get(business_code: str) -> Response:
        business, keys = await businesses.get(principal(), business_code)
        fields = {**m.business_fields(business), "api_keys": [m.api_key_fields(key) for key in keys]}
        return json_response(fields, headers={"ETag": f'"{business.version}"'})

    @blueprint.get("/businesses/<business_code>/stats")
    @describe(
        "How a business is doing",
        tag=TAG,
        description="Tasks by status, the callbacks of the last 24 hours, and what holds them back now.",
        replies={200: Reply("The statistics.", BusinessStatsView)},
    )
    async def read_stats(business_code: str) -> Response:
        return json_response(await stats.read(principal(), business_code))


def _add_credentials(blueprint: Blueprint, businesses: Businesses) -> None:
    @blueprint.put("/businesses/<business_code>/credentials")
    @describe(
        "Rotate the credentials",
        tag=TAG,
        description="Makes a new API key, shown in this answer only. The earlier keys stay good for `grace_seconds`; "
        "tokens issued to a key end with it. In force on every instance within 2 s.",
        body=RotateInput,
        body_optional=True,
        replies={200: Reply("The new credentials.", m.RotatedView)},
        errors=(409,),
    )
    async def rotate(business_code: str) -> Response:
        asked = await json_body(optional=True)
        return json_response(m.rotated_fields(await businesses.rotate(principal(), business_code, asked)))

    @blueprint.delete("/businesses/<business_code>/credentials/<key_id>")
    @describe(
        "Revoke an API key",
        tag=TAG,
        description="At once and for good, with the tokens issued to it; in force on every instance within 2 s. "
        "Repeatable. A business that revokes its last key can be let in again by the admin only.",
        replies={200: Reply("The key, revoked.", m.ApiKeyView)},
    )
    async def revoke(business_code: str, key_id: str) -> Response:
        await no_body()
        return json_response(m.api_key_fields(await businesses.revoke(principal(), business_code, key_id)))

    @blueprint.post("/businesses/<business_code>/tokens")
    @describe(
        "Issue a token",
        tag=TAG,
        description="A JWT that stands in for the API key that asks for it, for a while and with fewer rights. Issued "
        "to an API key only; it ends with that key.",
        body=TokenInput,
        body_optional=True,
        replies={201: Reply("The token.", m.TokenView)},
    )
    async def issue_token(business_code: str) -> Response:
        asked = await json_body(optional=True)
        return json_response(m.token_fields(await businesses.issue_token(principal(), business_code, asked)), 201)
