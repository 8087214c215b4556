"""The tracer that is on: spans by the OpenTelemetry SDK, exported over OTLP and HTTP."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from taskcenter.tracing import AttemptTracer


class SdkTracer(AttemptTracer):
    """Spans of `provider`."""

    def __init__(self, rng: random.Random, provider: TracerProvider) -> None:
        super().__init__(rng)
        self._provider = provider
        self._tracer = provider.get_tracer("taskcenter")

    def span(self, name: str, attributes: Mapping[str, Any]) -> AbstractContextManager[Any]:
        return self._tracer.start_as_current_span(name, attributes=dict(attributes), kind=trace.SpanKind.CLIENT)

    def traceparent(self) -> str:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return super().traceparent()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def close(self) -> None:
        self._provider.shutdown()


def exporting(version: str) -> TracerProvider:
    """A provider whose spans go where the SDK's own environment variables say."""
    provider = TracerProvider(resource=Resource.create({"service.name": "taskcenter", "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
