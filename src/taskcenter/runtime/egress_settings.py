"""From the settings to the policy over receivers. A pattern that could match nothing is the operator's fault."""

from __future__ import annotations

from taskcenter.actors.egress.policy import EgressPolicy, canonical_pattern
from taskcenter.config import Settings
from taskcenter.errors import ConfigError


def egress_policy(settings: Settings) -> EgressPolicy:
    """Raises `ConfigError`."""
    for name in ("denied_callback_hosts", "allowed_callback_hosts"):
        for pattern in getattr(settings, name):
            try:
                canonical_pattern(pattern)
            except ValueError:
                raise ConfigError(
                    f"TASKCENTER_{name.upper()}: {pattern!r} is not a host pattern; e.g. *.internal.example"
                ) from None
    return EgressPolicy(
        allowed_networks=settings.allowed_callback_networks,
        denied_networks=settings.denied_callback_networks,
        denied_hosts=settings.denied_callback_hosts,
        allowed_ports=settings.allowed_callback_ports,
        allowed_hosts=settings.allowed_callback_hosts,
    )
