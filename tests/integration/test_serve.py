"""``genrank serve`` with the real model, as a process of its own: what it answers is what `Reranker` ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genrank import Reranker, sample_shop

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'genrank[server]'")
pytest.importorskip("limits", reason="limits is not installed: pip install 'genrank[server]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install 'genrank[remote]'")

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN = 180.0  # seconds
KEY = "key-of-the-test"


@pytest.fixture(scope="module")
def gateway(
    smollm2: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, subprocess.Popen[bytes], Path]]:
    """A client of a running gateway, its process and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("gateway") / "log"
    command = [sys.executable, "-m", "genrank", "serve", "--model", smollm2, "--port", str(port)]
    environment = os.environ | {"GENRANK_API_KEYS": KEY, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + STARTS_WITHIN
            while not _ready(port):
                ended = process.poll() is not None or time.monotonic() > deadline
                assert not ended, log.read_text(encoding="utf-8", errors="replace")[-4000:]
                time.sleep(0.5)
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
                yield client, process, log
        finally:
            process.kill()
            process.wait()


def _ready(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200)
    except httpx.HTTPError:
        return False


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
