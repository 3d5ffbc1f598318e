"""Prometheus metrics, and OpenTelemetry traces where the configuration names a collector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from genrank.errors import MissingExtraError
from genrank.server.answers import Answer, Tier
from genrank.server.config import TelemetryConfig

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What ``/metrics`` shows; an object of its own for each app, so that tests do not share counts."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        make: dict[str, Any] = {"registry": self.registry}
        self.requests: Counter = Counter("genrank_requests", "Requests that got a ranking", ["outcome"], **make)
        self.tiers: Counter = Counter("genrank_tiers", "Requests that got a ranking", ["tier"], **make)
        for tier in get_args(Tier):
            self.tiers.labels(tier)  # there from the start, so that a rise from 0 is one
        self.duration: Histogram = Histogram(
            "genrank_request_duration_seconds", "From arrival to answer", buckets=_SECONDS, **make
        )
        self.stages: Histogram = Histogram(
            "genrank_search_stage_seconds", "Of a search", ["stage"], buckets=_SECONDS, **make
        )
        self.tokens: Counter = Counter("genrank_tokens", "Tokens that the model read or wrote", ["kind"], **make)
        self.responses: Counter = Counter("genrank_http_responses", "Responses on every path", ["status"], **make)
        self.cache: Counter = Counter("genrank_cache_lookups", "Lookups in the cache", ["result"], **make)
        self.batches: Histogram = Histogram("genrank_batch_requests", "Requests in a batch", buckets=_SIZES, **make)
        self.waiting: Gauge = Gauge("genrank_queue_requests", "Requests that wait for a batch", **make)
        self.admitted: Gauge = Gauge(
            "genrank_admitted_requests", "Requests that may be ranked at once; fewer while the engine is late", **make
        )
        self.breaker: Gauge = Gauge("genrank_breaker_open", "1 while the engine is left alone", **make)

    def answered(self, answer: Answer, *, cached: bool, seconds: float) -> None:
        """Count an answered request; tokens only where the model worked for it."""
        self.requests.labels(answer.outcome).inc()
        self.tiers.labels(answer.tier).inc()
        self.duration.observe(seconds)
        if not cached:
            for kind in ("prompt", "cached", "completion"):
                self.tokens.labels(kind).inc(getattr(answer.tokens, kind))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Span(Protocol):
    """What the gateway needs of a span."""

    def set_attribute(self, key: str, value: Any) -> object:
        """Set an attribute."""


class _NoSpan:
    def set_attribute(self, key: str, value: Any) -> None:
        """Do nothing: nothing is traced."""


class Tracing:
    """Makes spans that name the model, sizes and outcomes, never a text of a request.

    Args:
        config: Without ``otlp`` nothing is traced.
        exporter: A span exporter in place of the collector's, for tests.

    Raises:
        MissingExtraError: When traces are wanted and OpenTelemetry is not installed.
    """

    def __init__(self, config: TelemetryConfig, *, exporter: Any = None) -> None:
        self._provider: Any = None
        if config.otlp is None and exporter is None:
            return
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter(endpoint=config.otlp)
        except ImportError:
            raise MissingExtraError("opentelemetry-sdk", "server") from None
        self._provider = TracerProvider(resource=Resource.create({"service.name": config.service}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("genrank.server")

    def rerank(self, model: str, documents: int, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        """A span for one rerank request, below the caller's own if its headers name one."""
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": "rerank",
            "gen_ai.request.model": model,
            "openinference.span.kind": "RERANKER",
            "reranker.model_name": model,
            "genrank.documents": documents,
        }
        return self._span(f"rerank {model}", attributes, headers)

    def search(self, model: str, headers: Mapping[str, str]) -> contextlib.AbstractContextManager[Span]:
        """A span for one search, likewise."""
        attributes = {"gen_ai.request.model": model, "openinference.span.kind": "CHAIN"}
        return self._span("search", attributes, headers)

    @contextlib.contextmanager
    def _span(self, name: str, attributes: Mapping[str, str | int], headers: Mapping[str, str]) -> Iterator[Span]:
        if self._provider is None:
            yield _NoSpan()
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(headers))
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,  # its message may hold a text
            set_status_on_exception=False,
        ) as span:
            yield span

    def close(self) -> None:
        """Send what is not sent yet."""
        if self._provider is not None:
            self._provider.shutdown()
