"""Encryption keys, for the operator: seal everything anew, and how far that is."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field
from quart import Blueprint, Response

from taskcenter.http.openapi import Reply, describe
from taskcenter.http.requests import json_response, no_body, principal
from taskcenter.service.key_rotation import KeyRotation

TAG: Final = "Health"
_AT: Final = "2027-01-31T09:30:00.000Z"


class KeyRotationView(BaseModel):
    """How a rotation of the encryption key stands."""

    state: str = Field(description="never, running, done or failed (the log says why).", examples=["running"])
    key_id: str = Field(description="The key that everything is sealed with.", examples=["k1800000000"])
    walk: int = Field(description="Which walk over the data this is; the last one finds nothing.", examples=[1])
    seen: int = Field(description="Rows looked at in this walk.", examples=[120_000])
    resealed: int = Field(description="Rows sealed anew, in all walks.", examples=[118_250])
    unreadable: int = Field(description="Rows that no known key opens; they were left as they are.", examples=[0])
    started_at: str = Field(description="When it began.", examples=[_AT])
    updated_at: str = Field(description="When this was noted.", examples=[_AT])


def keys_blueprint(rotation: KeyRotation) -> Blueprint:
    """Mounted below the API's prefix."""
    blueprint = Blueprint("keys", __name__)

    @blueprint.post("/keys/rotate")
    @describe(
        "Seal everything with the newest encryption key",
        tag=TAG,
        description="Runs in the background, in small pages; joins a rotation under way and continues one that broke "
        "off. Put the new key first in the setting of every instance before.",
        admin=True,
        replies={202: Reply("Under way.", KeyRotationView)},
    )
    async def rotate() -> Response:
        await no_body()
        return json_response(await rotation.start(principal()), 202)

    @blueprint.get("/keys/rotate")
    @describe(
        "How far the rotation of the encryption key is",
        tag=TAG,
        description="When it is done and nothing was unreadable, the older keys seal nothing any more.",
        admin=True,
        replies={200: Reply("The latest rotation.", KeyRotationView)},
    )
    async def progress() -> Response:
        return json_response(await rotation.read(principal()))

    return blueprint
