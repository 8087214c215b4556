"""Tracing: a span for each attempt, and the `traceparent` that goes to the receiver.

On when `OTEL_EXPORTER_OTLP_ENDPOINT` is set (see `sdk`); the OpenTelemetry SDK's own variables say the rest. Off, a
`traceparent` is still sent, so that a receiver that traces can tie the attempts of a run together, and the SDK is not
even loaded. Format: W3C Trace Context.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_NO_SPAN: Final = nullcontext()


class AttemptTracer:
    """No spans; random ids, unsampled."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def span(self, name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        """Around one attempt's exchange."""
        return _NO_SPAN

    def traceparent(self) -> str:
        """Of the current span, or a fresh unsampled one."""
        return f"00-{self._rng.getrandbits(128) | 1:032x}-{self._rng.getrandbits(64) | 1:016x}-00"

    def close(self) -> None:
        """Send what was not sent yet."""


def configure(rng: random.Random, version: str) -> AttemptTracer:
    """By the environment."""
    if not os.environ.get(ENDPOINT):
        return AttemptTracer(rng)
    from taskcenter.tracing.sdk import SdkTracer, exporting  # noqa: PLC0415  # slow to load, seldom on

    return SdkTracer(rng, exporting(version))
