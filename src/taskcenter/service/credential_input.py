"""What may be said about a business's credentials: the bodies of rotation and of a token's issue. No I/O."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from taskcenter.service.credentials import KEY_LIFE_MS
from taskcenter.service.fields import InputModel, Reads, Schema, duration, duration_schema, listing, one_of, truth
from taskcenter.service.principal import TOKEN_SCOPES, Scope
from taskcenter.times import DAY_MS

MAX_GRACE_MS: Final = 30 * DAY_MS
DEFAULT_GRACE_MS: Final = DAY_MS
LEAST_LIFE_MS: Final = 60_000
MOST_LIFE_MS: Final = 5 * 365 * DAY_MS

_SCOPES: Final = tuple(sorted(scope.value for scope in TOKEN_SCOPES))
_SCOPE_LIST: Final[Schema] = {
    "type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "enum": list(_SCOPES)},
}  # fmt: skip


def _scopes(value: Any) -> frozenset[Scope]:
    names = listing(one_of(*_SCOPES), len(_SCOPES), unique=True)(value)
    if not names:
        raise ValueError("must name at least one")
    return frozenset(Scope(name) for name in names)


_LIFE: Final = Reads(duration(LEAST_LIFE_MS, MOST_LIFE_MS), duration_schema(LEAST_LIFE_MS, MOST_LIFE_MS))


class RotateInput(InputModel):
    """How to replace a key. `{}` will do."""

    grace_seconds: Annotated[int, Reads(duration(0, MAX_GRACE_MS), duration_schema(0, MAX_GRACE_MS))] = Field(
        DEFAULT_GRACE_MS,
        description="How long the keys (and the signing secret) there are stay good; at most 30 days. Default: 86400.",
        examples=[86400, "1d"],
    )
    expires_in: Annotated[int, _LIFE] = Field(
        KEY_LIFE_MS, description="The new key's life; at most 5 years. Default: a year.", examples=["90d"]
    )
    revoke_previous: Annotated[bool, Reads(truth, {"type": "boolean", "default": False})] = Field(
        False, description="Revoke all earlier keys at once, without any grace: a key has leaked.", examples=[False]
    )
    rotate_signing_secret: Annotated[bool, Reads(truth, {"type": "boolean", "default": False})] = Field(
        False, description="Replace the signing secret as well; both sign until the grace is over.", examples=[False]
    )


def token_input(longest_ms: int) -> type[TokenInput]:
    """`TokenInput` with the operator's longest life."""

    class Limited(TokenInput):
        ttl: Annotated[int | None, Reads(duration(1_000, longest_ms), duration_schema(1_000, longest_ms))] = Field(
            None, description="The token's life in seconds; at most, and by default, the operator's.", examples=[900]
        )

    return Limited


class TokenInput(InputModel):
    """What token to issue. `{}` will do."""

    ttl: Annotated[int | None, Reads(duration(1_000, DAY_MS), duration_schema(1_000, DAY_MS))] = Field(
        None, description="The token's life in seconds; at most, and by default, the operator's.", examples=[900]
    )
    scopes: Annotated[frozenset[Scope] | None, Reads(_scopes, _SCOPE_LIST)] = Field(
        None, description="What it may do; by default all three.", examples=[["tasks:read"]]
    )
