"""The baseline with the real BERT, on the sample shop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eval.baseline.config import BaselineConfig
from eval.baseline.training import train
from eval.config import RunConfig
from eval.run import run
from genrank import Reranker
from genrank.data.dataset import sample_shop
from genrank.errors import EngineError, ModelError
from genrank.experiment.config import load_config
from genrank.models.store import resolve
from genrank.rankers.gbdt import GbdtRanker, load_fallback
from genrank.search.dense import Encoder
from genrank.testing import ScriptedEngine
from genrank.types import Candidate, Query, Request

for package in ("lightgbm", "ranx", "sentence_transformers"):
    pytest.importorskip(package)

pytestmark = pytest.mark.model
ROOT = Path(__file__).resolve().parent.parent.parent

FRESH = """
import json, sys
from genrank import sample_shop
from genrank.rankers.gbdt import GbdtRanker, load_fallback
from genrank.search.dense import Encoder
shop = sample_shop()
requests = [shop.request(query) for query in shop.split("test")[:4]]
folder, *caches = sys.argv[1:]
print(json.dumps([GbdtRanker.load(folder, Encoder("bert-minilm", cache)).score(requests) for cache in caches]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GbdtRanker]:
    """A baseline, and the folder with it and with its encoder's cache."""
    try:
        resolve("bert-minilm")
    except ModelError as error:
        pytest.skip(f"no bert-minilm: {error}")
    folder = tmp_path_factory.mktemp("baseline")
    config = load_config(ROOT / "eval/configs/baseline/sample-shop.yaml", BaselineConfig)
    baseline = train(sample_shop(), config, Encoder("bert-minilm", folder / "encodings"))
    baseline.save(folder / "ranker")
    return folder, baseline


def test_a_fresh_process_scores_the_same(trained: tuple[Path, GbdtRanker]) -> None:
    folder, baseline = trained
    shop = sample_shop()
    expected = baseline.score([shop.request(query) for query in shop.split("test")[:4]])
    caches = [str(folder / cache) for cache in ("encodings", "other")]  # with the vectors that are there, and without
    command = [sys.executable, "-c", FRESH, str(folder / "ranker"), *caches]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, cwd=ROOT)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [expected, expected]


def test_as_a_system_beside_cosine(trained: tuple[Path, GbdtRanker], tmp_path: Path) -> None:
    systems = [{"type": "bert-cosine"}, {"type": "baseline", "folder": str(trained[0] / "ranker")}]
    config = RunConfig.model_validate({"dataset": "sample-shop", "systems": systems})
    results = run(config, sample_shop(), tmp_path / "out", cache=tmp_path / "cache")
    floor = results["random_floor"]["nDCG@10"]
    for system in results["systems"].values():
        assert system["metrics"]["nDCG@10"] > floor["mean"] + 3 * floor["deviation"]
    again = run(config, sample_shop(), tmp_path / "out", cache=tmp_path / "cache")
    assert [system["cached"] for system in again["systems"].values()] == [True, True]


def test_as_the_fallback_of_a_reranker(trained: tuple[Path, GbdtRanker]) -> None:
    shop = sample_shop()
    request = shop.request(shop.split("test")[0])
    engine = ScriptedEngine([EngineError("gone")])
    (ranking,) = Reranker(engine=engine, fallback=trained[1].score).rerank_batch([request])
    (scores,) = trained[1].score([request])
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    assert [item.listing_id for item in ranking.items] == [request.candidates[i].listing.listing_id for i in order]
    assert (ranking.provenance.outcome, ranking.provenance.stand_in) == ("fallback", "baseline")


@pytest.mark.parametrize(("count", "deadline"), [(20, 1.0), (100, 1.0), (100, 30.0)])
def test_as_the_baseline_of_a_gateway(trained: tuple[Path, GbdtRanker], count: int, deadline: float) -> None:
    for package in ("fastapi", "limits", "httpx"):
        pytest.importorskip(package)
    from starlette.testclient import TestClient

    from genrank.server.app import create_app
    from genrank.server.config import Config
    from genrank.server.gateway import Gateway

    listings = list(sample_shop().listings.values())[:count]
    assert len(listings) == count
    request = Request(Query("red summer dress"), tuple(map(Candidate, listings)))
    fallback = load_fallback(trained[0] / "ranker", Encoder("bert-minilm", trained[0] / "encodings"))
    trained[1].prepare([request])  # as an operator does with the catalogue
    (scores,) = trained[1].score([request])
    reranker = Reranker(engine=ScriptedEngine([EngineError("gone")]), decoding="pointwise", fallback=fallback)
    config = Config.model_validate({"server": {"deadline": deadline}, "breaker": {"failures": 1, "cool_down": 60}})
    asked = {"query": request.query.text, "documents": [listing.to_dict() for listing in listings]}
    with TestClient(create_app(Gateway(reranker, config))) as client:
        for _ in range(2):  # the engine fails, and then is left alone
            answer = client.post("/v2/rerank", json=asked)
            assert answer.headers["x-genrank-tier"] == "baseline", answer.text
            order = [row["index"] for row in answer.json()["results"]]
            assert order == sorted(range(count), key=lambda place: -scores[place])
        assert 'genrank_tiers_total{tier="baseline"} 2.0' in client.get("/metrics").text
