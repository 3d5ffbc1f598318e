"""``genrank serve`` with the real model, as a process of its own: what it answers is what `Reranker` ranks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrank import Reranker, sample_shop
from tests.servers import started

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'genrank[server]'")
pytest.importorskip("limits", reason="limits is not installed: pip install 'genrank[server]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")

KEY = "key-of-the-test"


@pytest.fixture(scope="module")
def gateway(
    smollm2: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, subprocess.Popen[bytes], Path]]:
    """A client of a running gateway, its process and its log."""

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "genrank", "serve", "--model", smollm2, "--port", str(port)]

    log = tmp_path_factory.mktemp("gateway") / "log"
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        started(command, "/ready", log, environment={"GENRANK_API_KEYS": KEY}) as (url, process),
        httpx.Client(base_url=url, headers=headers, timeout=120) as client,
    ):
        yield client, process, log


def test_it_ranks_as_the_reranker_does_and_ends_in_order(
    gateway: tuple[Any, subprocess.Popen[bytes], Path], engine: Any
) -> None:
    client, process, log = gateway
    shop = sample_shop()
    request = next(shop.request(query, 8) for query in shop.queries if query.history and query.split == "test")
    asked = {
        "query": request.query.text,
        "documents": [candidate.listing.to_dict() for candidate in request.candidates],
        "history": [{"event": one.event, "listing": one.listing.to_dict()} for one in request.history],
        "reasons": 1,
    }
    answer = client.post("/v2/rerank", json=asked)
    assert answer.status_code == 200, answer.text
    expected = Reranker(engine=engine).rerank_batch([request], reasons=1)[0]
    places = {candidate.listing.listing_id: place for place, candidate in enumerate(request.candidates)}
    found = answer.json()
    assert [result["index"] for result in found["results"]] == [places[item.listing_id] for item in expected]
    for result, item in zip(found["results"], expected, strict=True):
        assert result["relevance_score"] == pytest.approx(item.score, abs=0.02)
    assert found["results"][0].get("reason", "") == expected[0].reason
    assert found["genrank"]["outcome"] == "model"
    assert client.post("/v2/rerank", json=asked).json()["genrank"]["cached"]
    assert client.post("/v2/rerank", json=asked, headers={"Authorization": "Bearer other"}).status_code == 401
    assert 'genrank_requests_total{outcome="model"} 2.0' in client.get("/metrics").text

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    written = log.read_text(encoding="utf-8")
    assert request.query.text not in written
    assert KEY not in written
