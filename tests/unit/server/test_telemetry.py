from __future__ import annotations

import contextlib
from typing import Any

import pytest

from genrank.server.answers import Answer
from genrank.server.config import TelemetryConfig
from genrank.server.telemetry import Metrics, Tracing
from genrank.types import Tokens


def test_metrics_have_their_names() -> None:
    metrics = Metrics()
    answer = Answer((), tier="model", outcome="model", tokens=Tokens(prompt=9, cached=4, completion=2))
    metrics.answered(answer, cached=False, seconds=0.03)
    metrics.answered(answer, cached=True, seconds=0.001)
    text = metrics.text().decode()
    for line in (
        'genrank_requests_total{outcome="model"} 2.0',
        'genrank_tiers_total{tier="model"} 2.0',
        'genrank_request_duration_seconds_bucket{le="0.05"} 2.0',
        "genrank_request_duration_seconds_count 2.0",
        'genrank_tokens_total{kind="prompt"} 9.0',
        'genrank_tokens_total{kind="cached"} 4.0',
        'genrank_tokens_total{kind="completion"} 2.0',
    ):
        assert line in text.splitlines()


def test_without_a_collector_nothing_is_traced() -> None:
    tracing = Tracing(TelemetryConfig())
    with tracing.rerank("m", 2, {}) as span:
        span.set_attribute("genrank.tier", "model")
    tracing.close()


def test_a_span_names_the_model_and_no_text() -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracing = Tracing(TelemetryConfig(service="shop"), exporter=exporter)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with contextlib.suppress(ValueError), tracing.rerank("m", 2, {"traceparent": parent}) as span:
        span.set_attribute("reranker.top_k", 2)
        raise ValueError("a title")
    tracing.close()
    (found,) = exporter.get_finished_spans()
    attributes: dict[str, Any] = dict(found.attributes or {})
    assert found.name == "rerank m"
    assert attributes == {
        "gen_ai.operation.name": "rerank",
        "gen_ai.request.model": "m",
        "openinference.span.kind": "RERANKER",
        "reranker.model_name": "m",
        "reranker.top_k": 2,
        "genrank.documents": 2,
    }
    assert not found.events, "an exception's message may hold a text"
    assert found.parent is not None
    assert f"{found.parent.span_id:x}" == "b7ad6b7169203331", "the caller's own span"
    assert found.resource.attributes["service.name"] == "shop"
