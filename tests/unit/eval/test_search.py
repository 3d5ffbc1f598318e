"""The measurement of a search, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("pypinyin")

from eval.search import Stages, blend, main, ndcg
from genrank import Candidate, Reranker, sample_shop
from genrank.search.index import Index
from genrank.search.pipeline import categories_of
from genrank.search.understanding import Understanding, Vocabulary
from genrank.testing import OracleEngine, ScriptedEngine


def test_each_stage_is_measured(tmp_path: Path) -> None:
    shop = sample_shop()
    (query,) = [one for one in shop.queries if one.query.query_id == "q-en-14"]
    with Index.create(tmp_path / "index") as index:
        index.add(shop.listings.values())
        oracle = Reranker(engine=OracleEngine(shop.qrels[query.query.query_id]), decoding="listwise", passes=1)
        silent = Understanding(ScriptedEngine([]), Vocabulary.of(index, search=categories_of(index)))
        stages = Stages(index, oracle, silent, candidates=20, variety=0.9)
        stages.search(query)
        results = stages.results(shop)
    figures = results["stages"]
    assert list(figures) == ["words", "with intent", "ranked", "personalised", "blended", "varied", "understood"]
    assert figures["ranked"]["nDCG@10"] > figures["words"]["nDCG@10"]
    assert figures["ranked"]["nDCG@10"] > figures["varied"]["nDCG@10"]
    assert figures["personalised"]["nDCG@10"] == figures["ranked"]["nDCG@10"]
    assert all(len(figures[stage]["ms"]) == 2 for stage in figures)


def test_a_blend_is_between_what_was_found_and_the_ranking() -> None:
    shop = sample_shop()
    judged = dict(sorted(shop.qrels["q-en-14"].items(), key=lambda one: one[1])[-6:])
    found = list(judged)  # the worst first
    hits = [Candidate(shop.listings[one], score=-float(place)) for place, one in enumerate(found)]
    ranking = Reranker(engine=OracleEngine(judged), decoding="pointwise").rerank("dress", hits)
    orders = {weight: [item.listing_id for item in blend(ranking, hits, weight)] for weight in (0.0, 1.0)}
    assert orders == {0.0: found, 1.0: [item.listing_id for item in ranking]}
    assert orders[0.0] != orders[1.0]
    failed = dataclasses.replace(ranking, provenance=dataclasses.replace(ranking.provenance, outcome="fallback"))
    assert blend(failed, hits, 0.0) == failed


def test_no_query_has_a_part_in_its_own_weight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shop = sample_shop()
    seen = []

    def fit(worth: Mapping[float, Sequence[float]]) -> float:
        seen.append(len(worth[0.5]))
        return 0.25

    monkeypatch.setattr("eval.search.fit_weight", fit)  # to see on how many queries each weight is fitted
    with Index.create(tmp_path / "index") as index:
        index.add(shop.listings.values())
        oracle = Reranker(engine=OracleEngine({}), decoding="pointwise")
        silent = Understanding(ScriptedEngine([]), Vocabulary.of(index, search=categories_of(index)))
        stages = Stages(index, oracle, silent, candidates=5, variety=0.0)
        for query in shop.queries[:3]:
            stages.search(query)
        assert stages.results(shop)["stages"]["blended"]["weight"] == [0.25, 0.25, 0.25]
    assert seen == [2, 2, 2]


def test_the_ideal_is_over_all_judged_listings() -> None:
    shop = sample_shop()
    judged = shop.qrels["q-en-14"]
    best = sorted(judged, key=lambda listing_id: -judged[listing_id])
    assert ndcg(shop, "q-en-14", best) == pytest.approx(1)
    assert ndcg(shop, "q-en-14", best[1:]) < 1
    assert ndcg(shop, "q-en-14", []) == 0
    assert ndcg(shop, "unknown", best) == 0


def test_a_split_without_queries_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--split", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
