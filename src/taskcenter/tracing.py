"""Tracing with the OpenTelemetry SDK: a span for each attempt, and the `traceparent` that goes to the receiver.

On when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; the SDK's own variables say the rest. Off, a `traceparent` is still
sent, so that a receiver that traces can tie the attempts of a run together. Format: W3C Trace Context.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


class AttemptTracer:
    """Spans when tracing is on; random ids, unsampled, when it is off."""

    def __init__(self, rng: random.Random, provider: TracerProvider | None = None) -> None:
        self._rng = rng
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("taskcenter")

    def span(self, name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        if self._tracer is None:
            return nullcontext()
        return self._tracer.start_as_current_span(name, attributes=dict(attributes), kind=trace.SpanKind.CLIENT)

    def traceparent(self) -> str:
        """Of the current span, or a fresh unsampled one."""
        context = trace.get_current_span().get_span_context() if self._tracer is not None else None
        if context is not None and context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        return f"00-{self._rng.getrandbits(128) | 1:032x}-{self._rng.getrandbits(64) | 1:016x}-00"

    def close(self) -> None:
        if self._provider is not None:
            self._provider.shutdown()


def configure(rng: random.Random, version: str) -> AttemptTracer:
    """By the environment."""
    if not os.environ.get(ENDPOINT):
        return AttemptTracer(rng)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # slow to load, seldom on
        OTLPSpanExporter,
    )

    resource = Resource.create({"service.name": "taskcenter", "service.version": version})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return AttemptTracer(rng, provider)
