"""From a query to shown results, each stage in its turn, each replaceable."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("symspellpy")
pytest.importorskip("duckdb")

from genrank import Reranker
from genrank.cascade import Cascade
from genrank.engines.base import TextRequest
from genrank.errors import EngineError, InputError
from genrank.search.feedback.estimates import ClickEstimates, Looks
from genrank.search.feedback.log import FeedbackLog
from genrank.search.filters import Filters
from genrank.search.index import Index
from genrank.search.pipeline import Pipeline, SearchResult, match
from genrank.search.rules import Rules
from genrank.search.shoppers import Shoppers
from genrank.search.understanding import Guess, Intent
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Candidate, Interaction, Listing, Price, Query, Ranking, Request

DRESSES, COATS = ("Women", "Dresses"), ("Women", "Coats")


def listing(
    listing_id: str, title: str, category: tuple[str, ...], brand: str, price: float, season: str = ""
) -> Listing:
    attributes = {"season": season} if season else {}
    stock = listing_id != "c1"
    amount = Price(price, "EUR")
    return Listing(
        listing_id, title, category=category, brand=brand, price=amount, attributes=attributes, in_stock=stock
    )


LISTINGS = [
    listing("d1", "Party dress", DRESSES, "Ada", 90, "winter"),
    listing("d2", "Beach dress", DRESSES, "Ada", 30, "summer"),
    listing("d3", "Floral dress", DRESSES, "Bea", 40, "summer, spring"),
    listing("c1", "Coat dress", COATS, "Bea", 60),
    listing("m1", "Mug with a dress on it", ("Kitchen",), "Cup", 9),
]
GRADES = {"d1": 1.0, "d2": 2.0, "d3": 5.0, "c1": 4.0, "m1": 0.0}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.create(tmp_path / "index") as index:
        index.add(LISTINGS)
        yield index


def reranker() -> Reranker:
    return Reranker(engine=OracleEngine(GRADES), decoding="listwise", passes=1)


def ids(result: SearchResult) -> list[str]:
    return [item.listing_id for item in result.ranking]


def intent_of(query: Query, **fields: Any) -> Intent:
    return Intent(query=query.text, language="en", corrected=query.text, **fields)


def names(result: SearchResult) -> list[str]:
    return [stage.name for stage in result.stages]


def test_the_words_of_a_price_are_not_searched_for(index: Index) -> None:
    index.add([listing("t1", "Tea under 65 degrees", ("Kitchen",), "Cup", 5)])
    assert "t1" in ids(Pipeline(index).search("dress under 65 EUR"))
    pipeline = Pipeline(index, understand=lambda query: intent_of(query, most_price=65.0))
    assert set(ids(pipeline.search("dress under 65 EUR"))) == {"d2", "d3", "c1", "m1"}


def test_an_index_alone_is_a_search(index: Index) -> None:
    result = Pipeline(index).search("beach dress")
    assert ids(result)[0] == "d2"
    assert sorted(ids(result)) == ["c1", "d1", "d2", "d3", "m1"]
    assert names(result) == ["match", "rank"]
    assert result.found == 5
    assert [item.rank for item in result.ranking] == [1, 2, 3, 4, 5]


def test_the_reranker_decides(index: Index) -> None:
    result = Pipeline(index, reranker()).search("dress", top_k=3)
    assert ids(result) == ["d3", "c1", "d2"]
    assert result.ranking.provenance.outcome == "model"
    assert result.stages[1].order == ("d3", "c1", "d2", "d1", "m1")


def test_every_stage_has_its_turn(index: Index, tmp_path: Path) -> None:
    with Shoppers(tmp_path / "shoppers") as shoppers:
        shoppers.add("u1", [Interaction("purchase", Listing("h", "Floral shoes", category=DRESSES))])
        seen: list[Request] = []

        def rank(request: Request) -> Ranking:
            seen.append(request)
            return reranker().rerank(request.query, request.candidates, request.history)

        log = FeedbackLog(tmp_path / "log")
        pipeline = Pipeline(
            index,
            rank,
            understand=lambda query: intent_of(query, categories=(Guess(DRESSES, 0.9),)),
            personalise=shoppers,
            variety=0.9,
            rules=Rules(in_stock=True, pinned={"m1": 1}),
            log=log,
        )
        result = pipeline.search("dress", user_id="u1", request_id="r1")
    assert names(result) == ["understand", "match", "personalise", "rank", "vary", "rules", "log"]
    assert [event.listing.listing_id for event in seen[0].history] == ["h"]
    assert seen[0].intent == result.intent is not None
    assert ids(result)[0] == "m1"
    assert ids(result)[-1] == "c1"
    assert result.ranking.provenance.diversified is not None
    assert result.ranking.provenance.rules == ("pinned", "in_stock")
    shown = log.query("SELECT listing_id FROM impressions WHERE request_id = 'r1' ORDER BY rank")
    assert shown.column("listing_id").to_pylist() == ids(result)
    assert json.loads(json.dumps(result.to_dict()))["items"][0]["listing"]["title"] == "Mug with a dress on it"


def test_asearch_is_search(index: Index) -> None:
    pipeline = Pipeline(index, reranker(), variety=0.3, understand=intent_of)
    asked, awaited = pipeline.search("dress", top_k=3), asyncio.run(pipeline.asearch("dress", top_k=3))
    assert ids(asked) == ids(awaited)
    assert names(asked) == names(awaited)
    plain = asyncio.run(
        Pipeline(index, lambda request: reranker().rerank(request.query, request.candidates)).asearch("dress")
    )
    assert ids(plain)[0] == "d3"


def test_each_stage_can_be_a_callable(index: Index) -> None:
    def find(query: Query, intent: Intent | None, filters: Filters, count: int) -> Sequence[Candidate]:
        assert (query.text, intent, count) == ("dress", None, 2)
        return [Candidate(one) for one in LISTINGS]

    result = Pipeline(find, vary=lambda ranking: ranking, candidates=2, personalise=lambda *_: []).search(
        "dress", user_id="u"
    )
    assert ids(result) == ["d1", "d2"]
    assert names(result) == ["match", "personalise", "rank", "vary"]


def test_the_corrected_query_is_searched(index: Index) -> None:
    result = Pipeline(index, understand=lambda query: Intent(query.text, "en", "beach dress")).search("baech")
    assert ids(result)[0] == "d2"
    assert result.query.text == "beach dress"


def test_an_intent_filters_and_raises(index: Index) -> None:
    query = Query("dress")

    def found(**fields: Any) -> list[str]:
        candidates, note = match(index, query, intent_of(query, **fields), Filters(), 10)
        assert note == ""
        return [one.listing.listing_id for one in candidates]

    assert set(found(least_price=35.0, most_price=65.0)) == {"d3", "c1"}
    assert set(found(brand=Guess("Ada", 1.0))) == {"d1", "d2"}
    assert "m1" not in found(excluded=("mug",))
    assert found(categories=(Guess(COATS, 0.9),))[0] == "c1"
    assert set(found(attributes={"season": Guess("summer", 0.9)})[:2]) == {"d2", "d3"}
    assert found(attributes={"season": Guess("summer", 0.2)}) == found()
    ranks = [
        one.rank for one in match(index, query, intent_of(query, categories=(Guess(COATS, 1.0),)), Filters(), 3)[0]
    ]
    assert ranks == [1, 2, 3]


def test_a_query_that_nothing_meets_is_loosened_and_says_so(index: Index) -> None:
    cheap = lambda query: intent_of(query, most_price=1.0)  # noqa: E731
    result = Pipeline(index, understand=cheap).search("dress")
    assert result.found == 5
    assert "left out" in next(stage.note for stage in result.stages if stage.name == "match")
    strict = Pipeline(index, understand=cheap).search("dress", filters=Filters(brand="Ada", price_max=50))
    assert ids(strict) == ["d2"], "the caller's own conditions always hold"


def test_reasons_are_written_for_what_is_shown(index: Index) -> None:
    result = Pipeline(index, reranker(), rules=Rules(pinned={"m1": 1})).search("dress", reasons=2)
    assert names(result)[-1] == "explain"
    assert [bool(item.reason) for item in result.ranking] == [True, True, False, False, False]
    assert ids(result)[0] == "m1"


def test_a_dead_model_leaves_the_candidates_order_and_says_so(index: Index) -> None:
    dead = Reranker(engine=ScriptedEngine(lambda _: EngineError("gone")), decoding="pointwise")
    result = Pipeline(index, dead).search("beach dress")
    assert ids(result)[0] == "d2"
    assert next(stage for stage in result.stages if stage.name == "rank").note


def test_a_search_does_without_what_it_can_do_without(index: Index, tmp_path: Path) -> None:
    shoppers = Shoppers(tmp_path / "shoppers")
    shoppers.close()
    (tmp_path / "log").mkdir()
    log = FeedbackLog(tmp_path / "log")
    for part in sorted((tmp_path / "log").rglob("*"), reverse=True):
        part.unlink() if part.is_file() else part.rmdir()
    (tmp_path / "log").rmdir()
    (tmp_path / "log").write_text("a file where the folder was")
    result = Pipeline(index, personalise=shoppers, log=log).search("beach dress", user_id="u1")
    assert ids(result)[0] == "d2"
    notes = {stage.name: stage.note for stage in result.stages}
    assert notes["personalise"].startswith("failed: ")
    assert notes["log"].startswith("failed: ")


def test_nothing_found_is_an_answer(index: Index) -> None:
    result = Pipeline(index, reranker(), variety=0.5, rules=Rules(in_stock=True)).search("zeppelin", reasons=3)
    assert ids(result) == []
    assert result.to_dict()["request_id"]


def test_a_rank_stage_that_returns_nothing_is_an_error(index: Index) -> None:
    with pytest.raises(EngineError, match="returned nothing"):
        Pipeline(index, lambda _: None).search("dress")  # type: ignore[arg-type, return-value]


def test_without_a_log_neither_pyarrow_nor_duckdb_is_needed() -> None:
    code = "import sys, genrank.search.pipeline; print({'pyarrow', 'duckdb', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "field"),
    [({"match": 1}, "match"), ({"rank": 1}, "rank"), ({"variety": 2}, "variety"), ({"candidates": 0}, "candidates"),
     ({"understand": "x"}, "understand"), ({"personalise": 0}, "personalise")],
)  # fmt: skip
def test_bad_stages_are_named(index: Index, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Pipeline(**({"match": index} | options))


@pytest.mark.parametrize(
    ("options", "field"),
    [({"top_k": 0}, "top_k"), ({"reasons": -1}, "reasons"), ({"deadline": 0}, "deadline"), ({"variety": -1}, "variety"),
     ({"filters": {"brand": "x"}}, "filters"), ({"user_id": ""}, "user_id"), ({"history": "x"}, "history")],
)  # fmt: skip
def test_bad_searches_are_named(index: Index, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=field):
        Pipeline(index).search("dress", **options)
    with pytest.raises(InputError, match="query"):
        Pipeline(index).search(" ")


class Awaited:
    """Ranks by grade, where it is awaited; remembers how many reasons it was asked for."""

    def __init__(self) -> None:
        self.reasons: list[int] = []

    async def arerank(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction],
        *,
        intent: Intent | None,
        reasons: int,
        deadline: float | None,
    ) -> Ranking:
        assert intent is None
        self.reasons.append(reasons)
        assert deadline is None or deadline > 0
        return await reranker().arerank(query, candidates, history, reasons=reasons)


def test_what_can_only_be_awaited_ranks_and_explains(index: Index) -> None:
    rank = Awaited()
    result = asyncio.run(Pipeline(index, rank, variety=0.3).asearch("dress", reasons=2, deadline=9))
    assert sorted(ids(result)) == sorted(GRADES)
    assert rank.reasons == [0, 2]
    assert "explain" in names(result)
    with pytest.raises(InputError, match="rank: can only be awaited; call asearch"):
        Pipeline(index, rank).search("dress")


def test_reasons_are_written_under_a_blend_too(index: Index) -> None:
    """A blend needs a score of each candidate, also when the first ones are read again for their reasons."""
    blended = Reranker(engine=OracleEngine(GRADES), decoding="pointwise", blend=0.5)
    result = Pipeline(index, blended, rules=Rules(in_stock=True)).search("dress", reasons=2)
    assert names(result)[-1] == "explain"
    assert sorted(ids(result)) == sorted(GRADES)


@pytest.mark.parametrize("cascade", [False, True])
def test_the_model_reads_what_the_query_means(index: Index, cascade: bool) -> None:
    engine = OracleEngine(GRADES)
    ranker: Any = Reranker(engine=engine, prompt="pointwise-intent")
    if cascade:
        ranker = Cascade(ranker, Reranker(engine=engine, prompt="pointwise-intent"), top=2)
    pipeline = Pipeline(index, ranker, understand=lambda query: intent_of(query, categories=(Guess(DRESSES, 0.9),)))
    for result in (pipeline.search("dress"), asyncio.run(pipeline.asearch("dress"))):
        assert result.ranking.provenance.outcome == "model"
        assert sum(result.ranking.provenance.cuts.values()) == 0
    prompts = [engine.tokenizer.decode(request.ids) for request in engine.requests]
    assert len(prompts) == 2 * (5 + 2 * cascade)
    assert all("The search means: category Women > Dresses\n" in prompt for prompt in prompts)


def test_what_was_clicked_comes_higher(index: Index) -> None:
    estimates = ClickEstimates({"dress": {"d3": Looks(100, 1), "m1": Looks(100, 60)}})
    pipeline = Pipeline(index, reranker(), estimates=estimates, weight=0.1)
    result = pipeline.search("dress")
    assert names(result) == ["match", "rank", "blend"]
    assert result.stages[1].order[0] == "d3"
    assert ids(result)[0] == "m1"
    assert ids(result)[-1] == "d3"
    assert result.ranking.provenance.estimates == 0.1
    assert [one for one in ids(result) if one in ("c1", "d2", "d1")] == ["c1", "d2", "d1"]
    other = pipeline.search("beach dress")
    assert ids(other) == ids(Pipeline(index, reranker()).search("beach dress"))
    assert other.ranking.provenance.estimates is None


def test_reasons_are_for_the_listings_that_clicks_raised(index: Index) -> None:
    engine = ScriptedEngine(lambda request: "It is a mug." if isinstance(request, TextRequest) else [[0.0] * 8])
    estimates = ClickEstimates({"dress": {"d3": Looks(100, 1), "m1": Looks(100, 60)}})
    pipeline = Pipeline(index, Reranker(engine=engine), estimates=estimates, weight=0.1)
    result = pipeline.search("dress", reasons=1)
    assert names(result) == ["match", "rank", "blend", "explain"]
    assert [item.listing_id for item in result.ranking if item.reason] == ["m1"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"estimates": {"dress": 1}, "weight": 0.5}, "estimates"),
        ({"estimates": ClickEstimates({})}, "weight"),
        ({"estimates": ClickEstimates({}), "weight": 2}, "weight"),
        ({"weight": 0.5}, "weight"),
    ],
)
def test_estimates_have_a_weight(index: Index, options: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        Pipeline(index, **options)
    assert caught.value.field == field
