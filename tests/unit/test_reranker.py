from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import ceil, exp, inf, log, nan
from pathlib import Path
from statistics import fmean, pstdev
from types import SimpleNamespace
from typing import Any, cast

import pytest

from genrank.blending import Blend, save_blend
from genrank.calibration import Calibration, save_calibration
from genrank.decoding import DECODINGS
from genrank.engines.base import PermuteRequest, ScoreRequest, ScoreResult, Stop, TextRequest, TextResult, never
from genrank.engines.tokenizer import Encoded
from genrank.errors import BudgetError, ConfigError, EngineError, InputError
from genrank.permutation import kendall_tau
from genrank.pictures import Pictures
from genrank.prompting.template import load_template
from genrank.reranker import MAX_PROMPT_TOKENS, Reranker
from genrank.testing import AnyRequest, OracleEngine, ScriptedAnswer, ScriptedEngine, WordTokenizer
from genrank.types import Candidate, Decoding, Interaction, Listing, Pictured, Query, Ranking, Request, Tokens
from genrank.windows import tournament_sizes
from tests.picture_rig import data_url, file

WINDOWED = [decoding for decoding in DECODINGS if decoding != "pointwise"]
"""The decodings that show several candidates in a prompt."""


def _inline(**options: Any) -> Reranker:
    """A reranker that shows its candidates in windows."""
    return Reranker(**({"decoding": "inline"} | options))


def _titles(n: int) -> list[str]:
    return [f"title {i}" for i in range(n)]


def _ids(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking.items]


def _words(count: int) -> str:
    """Different words: those that repeat themselves are taken for keyword stuffing."""
    return " ".join(f"w{i}" for i in range(count))


def _request(query_id: str, *listing_ids: str) -> Request:
    candidates = tuple(Candidate(Listing(listing_id, f"title of {listing_id}")) for listing_id in listing_ids)
    return Request(Query(f"text of {query_id}", query_id), candidates)


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def _odds(*odds: float) -> list[list[float]]:
    """An inline answer with these log-odds of yes; the house template reads two answers each for yes and for no."""
    return [[x, x, 0.0, 0.0] for x in odds]


def _by_id(odds: Callable[[str], float]) -> Callable[[AnyRequest], ScriptedAnswer]:
    """A script that judges each candidate by its id."""

    def answer(request: AnyRequest) -> ScriptedAnswer:
        if isinstance(request, TextRequest):
            return "It fits."
        return _odds(*(odds(listing_id) for listing_id in request.listing_ids))

    return answer


def _failing_after(batches: int, error: Exception, engine: ScriptedEngine | None = None) -> ScriptedEngine:
    """An engine that works for so many batches, then fails."""
    engine = engine or OracleEngine({})
    answer = engine._answer_to

    def fail(request: AnyRequest) -> ScriptedAnswer:
        return error if engine.calls > batches else answer(request)

    engine._answer_to = fail
    return engine


def _check_promises(ranking: Ranking, n: int) -> None:
    """What holds for every ranking of `n` candidates that were given as titles."""
    assert sorted(_ids(ranking), key=int) == [str(i) for i in range(n)]
    assert [item.rank for item in ranking.items] == list(range(1, n + 1))
    scores = [item.score for item in ranking.items]
    assert all(0 <= score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


# ---------------------------------------------------------------------------------------------------------------------
# Ranking
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "sliding", "tournament"])
@pytest.mark.parametrize("decoding", WINDOWED)
@pytest.mark.parametrize("passes", [1, 3])
def test_every_decoding_and_strategy_ranks_by_what_the_model_says(decoding: Any, strategy: Any, passes: int) -> None:
    n = 12
    grades = {str(i): float(i * 7 % n) for i in range(n)}
    reranker = Reranker(engine=OracleEngine(grades), decoding=decoding, strategy=strategy, passes=passes)
    ranking = reranker.rerank("query", _titles(n))
    assert _ids(ranking) == sorted(grades, key=lambda listing_id: -grades[listing_id])
    assert ranking.provenance.outcome == "model"
    _check_promises(ranking, n)


@pytest.mark.parametrize("decoding", WINDOWED)
def test_a_list_longer_than_the_window_slides(decoding: Any) -> None:
    n, window, stride = 30, 8, 4
    engine = OracleEngine({str(i): float(i) for i in range(n)})
    ranking = Reranker(engine=engine, decoding=decoding, window=window, stride=stride, passes=1).rerank(
        "query", _titles(n)
    )
    carried = window - stride
    assert _ids(ranking)[:carried] == [str(i) for i in range(n - 1, n - 1 - carried, -1)]
    assert ranking.provenance.windows == engine.calls == -(-(n - window) // stride) + 1
    _check_promises(ranking, n)


@pytest.mark.parametrize("decoding", WINDOWED)
@pytest.mark.parametrize("n", [100, 333])
def test_a_tournament_finds_the_top_in_the_calls_of_its_formula(decoding: Any, n: int) -> None:
    window, top_k = 20, 10
    engine = OracleEngine({str(i): i / n for i in range(n)})
    reranker = Reranker(engine=engine, decoding=decoding, strategy="tournament", window=window, passes=1)
    ranking = reranker.rerank("query", _titles(n), top_k=top_k)
    assert _ids(ranking) == [str(i) for i in range(n - 1, n - 1 - top_k, -1)]
    sizes = tournament_sizes(n, window, top_k)
    assert engine.calls == len(sizes), "all windows of a round are one batch"
    assert ranking.provenance.windows == len(engine.requests) == sum(ceil(size / window) for size in sizes)
    assert sum(len(shown) for shown in _shown(engine)) == sum(sizes)
    sliding = OracleEngine({})
    Reranker(engine=sliding, decoding=decoding, passes=1).rerank("query", _titles(n))
    assert sum(len(shown) for shown in _shown(sliding)) > 1.5 * sum(sizes)
    provenance = ranking.provenance
    assert (provenance.strategy, provenance.window, provenance.stride, provenance.top) == ("tournament", 20, None, 10)


def test_a_tournament_refuses_a_top_beyond_its_window() -> None:
    reranker = _inline(engine=OracleEngine({}), strategy="tournament", window=5)
    assert len(reranker.rerank("query", _titles(30)).items) == 30
    with pytest.raises(InputError, match="use strategy sliding") as caught:
        reranker.rerank("query", _titles(30), top_k=6)
    assert caught.value.field == "top_k"


def test_two_opposite_passes_are_the_default_where_places_count() -> None:
    for decoding, passes in (("inline", 2), ("first-token", 2), ("listwise", 1)):
        reranker: Any = Reranker
        assert reranker(engine=OracleEngine({}), decoding=decoding).rerank("q", ["a", "b"]).provenance.passes == passes


def test_equal_scores_keep_the_first_stages_order() -> None:
    ranking = Reranker(engine=OracleEngine({})).rerank("query", _titles(25))
    assert _ids(ranking) == [str(i) for i in range(25)]


def test_one_candidate_is_ranked_too() -> None:
    for decoding in DECODINGS:
        reranker: Any = Reranker
        _check_promises(reranker(engine=OracleEngine({}), decoding=decoding).rerank("query", ["only"]), 1)


def test_the_score_is_the_decodings() -> None:
    ranking = _inline(engine=ScriptedEngine([_odds(-1.0, 2.0)]), passes=1).rerank("query", _titles(2))
    assert [item.score for item in ranking.items] == pytest.approx([_sigmoid(2.0), _sigmoid(-1.0)])


def test_a_score_from_an_earlier_window_is_lowered_to_the_one_above_it() -> None:
    # 4 and 5 were judged beside others, and better than whatever stands above them now
    script = [_odds(3.0, 2.9, 2.8, 2.7), _odds(1.0, 0.9, 0.8, 0.7)]
    ranking = _inline(engine=ScriptedEngine(script), window=4, stride=2, passes=1).rerank("query", _titles(6))
    assert _ids(ranking) == [str(i) for i in range(6)]
    expected = [_sigmoid(x) for x in (1.0, 0.9, 0.8, 0.7, 0.7, 0.7)]
    assert [item.score for item in ranking.items] == pytest.approx(expected)


def test_top_k_cuts_the_answer_and_not_the_work() -> None:
    reranker = Reranker(engine=OracleEngine({"4": 3.0, "2": 2.0}))
    whole, short = reranker.rerank("query", _titles(6)), reranker.rerank("query", _titles(6), top_k=2)
    assert _ids(short) == ["4", "2"]
    assert short.items == whole.items[:2]
    assert reranker.rerank("query", _titles(6), top_k=99).items == whole.items


def test_source_rank_is_the_candidates_own_or_its_place() -> None:
    candidates: list[Candidate | Listing] = [
        Candidate(Listing("a", "A"), rank=7),
        Listing("b", "B"),
        Candidate(Listing("c", "C"), rank=9),
    ]
    ranking = Reranker(engine=OracleEngine({"c": 3.0, "b": 2.0})).rerank("query", candidates)
    assert [(item.listing_id, item.source_rank) for item in ranking.items] == [("c", 9), ("b", 2), ("a", 7)]


def test_what_the_model_sees_is_the_query_the_history_and_the_candidates() -> None:
    engine = OracleEngine({})
    Reranker(engine=engine).rerank(
        Query("red dress", "q1"),
        [{"listing_id": "p1", "title": "Crimson gown", "brand": "Zara"}],
        [{"event": "purchase", "listing": {"listing_id": "h1", "title": "Straw hat"}}],
    )
    prompt = engine.tokenizer.decode(engine.requests[0].ids)
    for text in ("red dress", "Crimson gown", "Zara", "Straw hat"):
        assert text in prompt


# ---------------------------------------------------------------------------------------------------------------------
# Passes
# ---------------------------------------------------------------------------------------------------------------------


def _shown(engine: ScriptedEngine) -> list[tuple[str, ...]]:
    """Listing ids of each prompt, in the prompt's order."""
    return [tuple(r.listing_ids) for r in engine.requests if isinstance(r, ScoreRequest | PermuteRequest)]


def test_passes_show_the_list_as_it_is_then_reversed_then_shuffled() -> None:
    engine = OracleEngine({})
    _inline(engine=engine, passes=4, seed=1).rerank("query", _titles(8))
    as_it_is, turned, *shuffled = _shown(engine)
    assert engine.calls == 1, "all passes are one batch"
    assert as_it_is == tuple(map(str, range(8)))
    assert turned == as_it_is[::-1]
    assert len({as_it_is, turned, *shuffled}) == 4
    assert all(sorted(order) == sorted(as_it_is) for order in shuffled)


def test_the_seed_decides_the_shuffles() -> None:
    def shuffled(seed: int) -> tuple[str, ...]:
        engine = OracleEngine({})
        random.seed(seed + 5)  # the global generator has no say in it
        _inline(engine=engine, passes=3, seed=seed).rerank("query", _titles(20))
        return _shown(engine)[2]

    assert shuffled(1) == shuffled(1)
    assert shuffled(1) != shuffled(2)


def test_scores_are_averaged_over_passes() -> None:
    # a model that only ever looks at the place: a reversed pass takes its bias out of the first and the last
    by_place = (2.0, 0.5, -1.0)
    engine = ScriptedEngine([_odds(*by_place), _odds(*by_place)])
    ranking = _inline(engine=engine, passes=2).rerank("query", _titles(3))
    s = [_sigmoid(x) for x in by_place]
    expected = {"0": (s[0] + s[2]) / 2, "1": (s[1] + s[1]) / 2, "2": (s[2] + s[0]) / 2}
    assert {item.listing_id: item.score for item in ranking.items} == pytest.approx(expected)
    assert ranking.provenance.agreement == kendall_tau((0, 1, 2), (2, 1, 0)) == -1


def test_agreement_is_the_mean_over_windows_and_pairs_of_passes() -> None:
    assert _inline(engine=OracleEngine({}), passes=1).rerank("query", _titles(3)).provenance.agreement is None
    grades = {str(i): float(i) for i in range(30)}
    agreeing = _inline(engine=OracleEngine(grades), passes=3, window=10, stride=5).rerank("query", _titles(30))
    assert agreeing.provenance.agreement == 1
    assert agreeing.provenance.windows == 3 * (-(-(30 - 10) // 5) + 1)
    # two windows of two passes: the first window's passes agree, the second one's are each other's opposite
    falling = _odds(1.0, 0.5, 0.0, -0.5)
    engine = ScriptedEngine([falling, falling[::-1], falling, falling])
    mixed = _inline(engine=engine, passes=2, window=4, stride=2).rerank("query", _titles(6))
    assert mixed.provenance.agreement == (1 + -1) / 2


# ---------------------------------------------------------------------------------------------------------------------
# Provenance
# ---------------------------------------------------------------------------------------------------------------------


def test_provenance_is_complete() -> None:
    engine = OracleEngine({})
    engine.adapter = "red-shoes"
    reranker = _inline(engine=engine, window=8, stride=4, passes=2)
    provenance = reranker.rerank("query", _titles(12), reasons=2).provenance
    template = load_template("inline")
    prompts = [request for request in engine.requests if isinstance(request, ScoreRequest)]
    reasons = [request for request in engine.requests if isinstance(request, TextRequest)]
    assert (provenance.model, provenance.adapter, provenance.engine) == ("oracle", "red-shoes", "oracle")
    assert (provenance.prompt, provenance.prompt_hash) == (f"inline@{template.version}", template.digest)
    assert (provenance.decoding, provenance.strategy) == ("inline", "sliding")
    assert (provenance.window, provenance.stride, provenance.top) == (8, 4, None)
    assert (provenance.outcome, provenance.cause, provenance.why, provenance.repairs) == ("model", "", "", ())
    assert (provenance.windows, provenance.passes) == (2 * 2, 2)
    assert len(prompts) == 2 * 2
    assert len(reasons) == 2
    assert provenance.tokens == Tokens(
        prompt=sum(len(request.ids) for request in engine.requests), completion=2 * len("It fits.")
    )
    assert provenance.cuts == {"query": 0, "history": 0, "candidates": 0}
    assert provenance.seconds > 0


@pytest.mark.parametrize(
    ("decoding", "strategy", "prompt", "sizes"),
    [
        ("inline", "single", "inline", (None, None, None)),
        ("inline", "tournament", "inline", (20, None, 10)),
        ("first-token", "sliding", "listwise", (20, 10, None)),
        ("listwise", "sliding", "listwise", (20, 10, None)),
    ],
)
def test_each_decoding_has_its_own_template(
    decoding: Any, strategy: Any, prompt: str, sizes: tuple[int | None, ...]
) -> None:
    reranker = Reranker(engine=OracleEngine({}), decoding=decoding, strategy=strategy)
    provenance = reranker.rerank("query", ["a"]).provenance
    assert provenance.prompt.split("@")[0] == prompt
    assert (provenance.decoding, provenance.strategy) == (decoding, strategy)
    assert (provenance.window, provenance.stride, provenance.top) == sizes


def test_a_template_may_be_passed_by_name_or_as_it_is() -> None:
    template = load_template("inline").model_copy(update={"name": "mine", "version": 7})
    assert Reranker(engine=OracleEngine({}), prompt=template).rerank("q", ["a"]).provenance.prompt == "mine@7"
    by_name = Reranker(engine=OracleEngine({}), prompt="listwise-lean", decoding="listwise").rerank("q", ["a"])
    assert by_name.provenance.prompt.startswith("listwise-lean@")


def test_cuts_add_up_over_windows_and_passes() -> None:
    limits = load_template("inline").limits
    n, words, query_words = 6, limits.listing + 5, limits.query + 3
    reranker = _inline(engine=OracleEngine({}), window=4, stride=2, passes=2)
    ranking = reranker.rerank(_words(query_words), [_words(words)] * n)
    prompts = 2 * 2
    assert ranking.provenance.cuts == {"query": prompts * 3, "history": 0, "candidates": prompts * 4 * 5}


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


def test_a_batch_is_answered_in_order_and_as_one_by_one() -> None:
    requests = [_request(f"q{i}", *(f"q{i}-{j}" for j in range(3 + 4 * i))) for i in range(4)]
    grades = {f"q{i}-{j}": float((i + 5 * j) % 7) for i in range(4) for j in range(15)}
    engine = OracleEngine(grades)
    reranker = _inline(engine=engine, window=6, stride=3, passes=1)
    together = reranker.rerank_batch(requests)
    rounds = engine.calls
    alone = [reranker.rerank_batch([request])[0] for request in requests]
    assert [ranking.query_id for ranking in together] == ["q0", "q1", "q2", "q3"]
    assert [ranking.items for ranking in together] == [ranking.items for ranking in alone]
    assert rounds == max(ranking.provenance.windows for ranking in alone), "windows that are ready share a batch"


def test_a_batch_may_be_any_iterable_and_empty() -> None:
    reranker = Reranker(engine=OracleEngine({}))
    assert reranker.rerank_batch([]) == []
    assert [ranking.query_id for ranking in reranker.rerank_batch(_request(q, "a") for q in ("q1", "q2"))] == [
        "q1",
        "q2",
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Reasons
# ---------------------------------------------------------------------------------------------------------------------


def test_reasons_are_written_for_the_first_items_only_with_their_evidence() -> None:
    candidates = [Listing(f"p{i}", f"Dress {i}", brand="Zara", attributes={"colour": "red"}) for i in range(4)]
    history = [Interaction("purchase", Listing("h0", "Belt", brand="Zara"))]

    def answer(request: AnyRequest) -> ScriptedAnswer:
        if isinstance(request, TextRequest):
            return "It is red and by Zara. And more.\nBuy it!"
        return _odds(*(float(listing_id[1]) for listing_id in request.listing_ids))

    ranking = _inline(engine=ScriptedEngine(answer)).rerank("query", candidates, history, reasons=2)
    assert _ids(ranking) == ["p3", "p2", "p1", "p0"]
    assert [item.reason for item in ranking.items] == ["It is red and by Zara."] * 2 + [None] * 2
    assert [set(item.evidence) for item in ranking.items[:2]] == [{"brand", "attributes.colour"}] * 2
    assert [item.evidence for item in ranking.items[2:]] == [()] * 2
    assert ranking.provenance.outcome == "model"
    assert ranking.provenance.claims.made == ranking.provenance.claims.grounded > 0


def test_a_reason_has_a_conversation_of_its_own() -> None:
    engine = OracleEngine({str(i): i / 9 for i in range(9)})
    _inline(engine=engine, window=4, stride=2, passes=1).rerank("query", _titles(9), reasons=2)
    *_, first, second = engine.requests
    for reason, title in ((first, "title 8"), (second, "title 7")):
        assert isinstance(reason, TextRequest)
        text = engine.tokenizer.decode(reason.ids)
        assert title in text
        assert len(re.findall(r"title \d", text)) == 1
        assert reason.ends
        assert reason.lead > 20
        assert reason.ids[: reason.lead] == first.ids[: reason.lead]


def test_a_reason_may_speak_of_the_most_useful_part_of_a_long_history() -> None:
    history = [Interaction("view", Listing(f"h{i}", f"lamp {i}", brand=f"Brand{i}")) for i in range(3000)]
    history[700] = Interaction("purchase", Listing("h700", "red dress", brand="Zara"))

    def answer(request: AnyRequest) -> ScriptedAnswer:
        return "You bought a dress by Zara." if isinstance(request, TextRequest) else _odds(1.0)

    reranker = Reranker(engine=ScriptedEngine(answer), passes=1)
    started = time.monotonic()
    ranking = reranker.rerank("red dress", [Listing("a", "Red dress")], history, reasons=1)
    assert time.monotonic() - started < 3
    assert ranking[0].reason == "You bought a dress by Zara."
    assert "history[700].brand" in ranking[0].evidence


def test_the_decoding_is_pointwise_or_else_the_first_that_the_prompt_suits() -> None:
    def decoding(prompt: str | None = None) -> str:
        return Reranker(engine=OracleEngine({}), prompt=prompt).rerank("q", ["a"]).provenance.decoding

    assert [decoding(), decoding("pointwise-lean"), decoding("inline-title")] == ["pointwise", "pointwise", "inline"]
    assert decoding("listwise-lean") == "first-token"


@pytest.mark.parametrize("n", [1, 2, 250])
def test_pointwise_asks_about_each_candidate_once_in_one_call(n: int) -> None:
    engine = OracleEngine({str(i): (i * 7 % n) / n for i in range(n)})
    ranking = Reranker(engine=engine, decoding="pointwise").rerank("query", _titles(n))
    assert _shown(engine) == [(str(i),) for i in range(n)]
    assert engine.calls == 1
    assert _ids(ranking) == sorted(map(str, range(n)), key=lambda listing_id: -(int(listing_id) * 7 % n))
    provenance = ranking.provenance
    assert (provenance.strategy, provenance.window, provenance.windows, provenance.passes) == ("each", None, n, 1)
    assert provenance.agreement is None
    _check_promises(ranking, n)


def test_pointwise_tells_the_engine_what_is_the_same_for_every_query() -> None:
    engine = OracleEngine({})
    reranker = Reranker(engine=engine, decoding="pointwise")
    candidates = [Listing("a", "Red mug", brand="Acme"), Listing("b", "Blue mug with a long handle")]
    reranker.rerank("mug", candidates)
    reranker.rerank("a gift for someone who drinks tea", candidates[::-1])
    first, second, third, fourth = (r for r in engine.requests if isinstance(r, ScoreRequest))
    for one, other in ((first, fourth), (second, third)):
        assert one.ids[: one.head] == other.ids[: other.head]
        assert one.ids != other.ids
        shown = engine.tokenizer.decode(one.ids[one.lead : one.head])
        assert shown in ("Red mug | brand: Acme", "Blue mug with a long handle")
        opening = engine.tokenizer.decode(one.ids[one.head : one.head + one.opening])
        assert opening == "\nA shopper searched for: "
    assert first.lead == second.lead
    assert engine.tokenizer.decode(first.ids[: first.lead]).endswith("<user>Listing: ")


def test_a_prompt_that_begins_with_the_query_has_no_head() -> None:
    engine = OracleEngine({})
    Reranker(engine=engine, decoding="pointwise", prompt="pointwise-query-first").rerank("mug", ["Red mug", "Hat"])
    one, other = (r for r in engine.requests if isinstance(r, ScoreRequest))
    assert (one.head, other.head) == (0, 0)
    assert engine.tokenizer.decode(one.ids[: one.lead]).endswith("<user>")
    text = engine.tokenizer.decode(one.ids)
    assert text.index("searched for: mug") < text.index("Listing: Red mug") < text.index("Is this listing")


def test_candidates_that_the_engine_had_kept_are_counted() -> None:
    class Keeping(OracleEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            found = super().score(requests, stop=stop)
            return [result and replace(result, found=i > 0) for i, result in enumerate(found)]

    ranking = Reranker(engine=Keeping({}), decoding="pointwise").rerank("query", _titles(5))
    assert (ranking.provenance.kept, ranking.provenance.windows) == (4, 5)


def test_pointwise_keeps_what_was_read_before_the_deadline() -> None:
    class Half(OracleEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            return [*super().score(requests[:3]), *[None] * (len(requests) - 3)]

    ranking = Reranker(engine=Half({"2": 1.0}), decoding="pointwise").rerank("query", _titles(6), deadline=60)
    assert _ids(ranking) == ["2", "0", "1", "3", "4", "5"]
    assert (ranking.provenance.outcome, ranking.provenance.windows) == ("fallback", 3)
    _check_promises(ranking, 6)


def test_claims_that_stand_nowhere_are_removed_and_counted() -> None:
    engine = ScriptedEngine([_odds(1.0), "A blue coat made by Gucci."])
    ranking = Reranker(engine=engine, passes=1).rerank("red coat", [Listing("a", "Red coat")], reasons=1)
    reason = ranking.items[0].reason
    assert reason
    assert "blue" not in reason
    assert "Gucci" not in reason
    claims = ranking.provenance.claims
    assert (claims.removed, claims.rewritten) == (claims.made - claims.grounded, 1)
    assert claims.removed >= 1


def test_more_reasons_than_items_and_more_than_top_k() -> None:
    reranker = Reranker(engine=OracleEngine({}))
    assert all(item.reason for item in reranker.rerank("title", _titles(2), reasons=9).items)
    first, second = reranker.rerank("title", _titles(3), reasons=1, top_k=2).items
    assert first.reason
    assert second.reason is None


def test_a_reason_that_the_model_did_not_write_is_made_from_the_listing() -> None:
    engine = ScriptedEngine([_odds(2.0, 1.0), " \n", "It is title 1."])
    ranking = _inline(engine=engine, passes=1).rerank("title", _titles(2), reasons=2)
    first, second = (item.reason for item in ranking.items)
    assert first == "For “title”: its title says “title”."
    assert second == "It is title 1."
    assert ranking.provenance.claims.rewritten == 1


def test_a_listing_that_meets_no_wish_has_no_reason() -> None:
    engine = ScriptedEngine([_odds(2.0, 1.0), "The best hat.", "It is title 1."])
    ranking = _inline(engine=engine, passes=1).rerank("red lamp", _titles(2), reasons=2)
    assert [(item.reason, bool(item.evidence)) for item in ranking] == [(None, False), ("It is title 1.", True)]
    claims = ranking.provenance.claims
    assert (claims.rewritten, claims.dropped) == (0, 1)
    assert ranking.provenance.outcome == "model"


def test_an_engine_that_fails_at_the_reasons_leaves_the_ranking() -> None:
    engine = _failing_after(1, EngineError("out of memory"), OracleEngine({"1": 3.0}))
    ranking = Reranker(engine=engine).rerank("query", _titles(2), reasons=1)
    assert _ids(ranking) == ["1", "0"]
    assert ranking.provenance.outcome == "repaired"
    assert ranking.provenance.repairs == ("no reason for 1: the engine failed: out of memory",)


class Guessing(OracleEngine):
    """Serves pointwise alone, and guesses at one listing."""

    decodings = ("pointwise",)

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        found = super().score(requests, stop=stop)
        return [
            replace(result, repairs=("a guess",)) if result and request.listing_ids == ("1",) else result
            for request, result in zip(requests, found, strict=True)
        ]


def test_what_the_engine_guessed_is_a_repair() -> None:
    provenance = Reranker(engine=Guessing({"2": 1.0})).rerank("query", _titles(3)).provenance
    assert (provenance.outcome, provenance.cause, provenance.repairs) == ("repaired", "bad-output", ("a guess",))


def test_a_decoding_that_the_engine_does_not_serve_is_refused() -> None:
    wrong: list[dict[str, Any]] = [{"decoding": "listwise"}, {"prompt": "inline"}]
    for options in wrong:
        with pytest.raises(InputError, match="the engine oracle serves only pointwise, got") as caught:
            Reranker(engine=Guessing({}), **options)
        assert caught.value.field == "decoding"


class Speechless(OracleEngine):
    """Gives back fewer texts than it was asked for."""

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        return []


def test_an_engine_that_forgets_the_reasons_leaves_the_ranking() -> None:
    ranking = Reranker(engine=Speechless({"1": 3.0})).rerank("query", _titles(2), reasons=1)
    assert _ids(ranking) == ["1", "0"]
    assert ranking.items[0].reason is None
    assert ranking.provenance.outcome == "repaired"
    assert len(ranking.provenance.repairs) == 1


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", DECODINGS)
def test_an_engine_that_fails_at_once_leaves_the_first_stages_order(decoding: Any) -> None:
    n = 5
    engine = ScriptedEngine([EngineError("the GPU fell off")])
    ranking = Reranker(engine=engine, decoding=decoding).rerank("query", _titles(n))
    assert _ids(ranking) == [str(i) for i in range(n)]
    assert [item.score for item in ranking.items] == [(n - i) / n for i in range(n)]
    provenance = ranking.provenance
    assert (provenance.outcome, provenance.windows, provenance.tokens) == ("fallback", 0, Tokens())
    assert (provenance.cause, provenance.why) == ("engine-error", f"the engine failed: the GPU fell off{FIRST_STAGE}")
    _check_promises(ranking, n)


def test_an_engine_that_fails_at_the_second_window_keeps_the_first() -> None:
    n = 6
    engine = _failing_after(1, EngineError("gone"), OracleEngine({str(i): float(i) for i in range(n)}))
    ranking = _inline(engine=engine, window=4, stride=2, passes=1).rerank("query", _titles(n))
    assert _ids(ranking) == ["0", "1", "5", "4", "3", "2"]
    assert [item.score for item in ranking.items] == [(n - i) / n for i in range(n)]
    assert (ranking.provenance.outcome, ranking.provenance.windows) == ("fallback", 1)
    assert ranking.provenance.why == f"the engine failed: gone{FIRST_STAGE}"


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_one_querys_bad_answer_is_no_others(bad: float) -> None:
    engine = ScriptedEngine(_by_id(lambda listing_id: bad if listing_id == "b1" else float(listing_id[1])))
    requests = [_request("qa", "a0", "a1", "a2"), _request("qb", "b0", "b1", "b2"), _request("qc", "c0", "c1")]
    first, second, third = _inline(engine=engine).rerank_batch(requests)
    assert (_ids(first), first.provenance.outcome) == (["a2", "a1", "a0"], "model")
    assert (_ids(third), third.provenance.outcome) == (["c1", "c0"], "model")
    assert (_ids(second), second.provenance.outcome) == (["b0", "b1", "b2"], "fallback")
    assert second.provenance.cause == "bad-output"
    assert second.provenance.why == f"the model misbehaved: the model gave the score {bad}{FIRST_STAGE}"


@pytest.mark.parametrize("answer", [(0, 0, 1), (0, 1), (1, 2, 3), ()])
def test_an_answer_that_is_no_permutation_falls_back(answer: tuple[int, ...]) -> None:
    ranking = Reranker(engine=ScriptedEngine([answer]), decoding="listwise").rerank("query", _titles(3))
    assert _ids(ranking) == ["0", "1", "2"]
    assert ranking.provenance.outcome == "fallback"
    assert ranking.provenance.why.startswith("the model misbehaved: ")


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        for module in ("reranker", "scheduling", "engines.base"):
            monkeypatch.setattr(f"genrank.{module}.time", SimpleNamespace(monotonic=lambda: self.now))

    def engine(self, seconds: float, grades: dict[str, float]) -> OracleEngine:
        """An engine that takes so long for each batch."""
        engine = OracleEngine(grades)
        answer = engine._answer_to
        calls = [0]

        def slowly(request: AnyRequest) -> ScriptedAnswer:
            if engine.calls > calls[0]:
                calls[0] = engine.calls
                self.now += seconds
            return answer(request)

        engine._answer_to = slowly
        return engine


FIRST_STAGE = "; what no window ranked stands in the first stage's order"
FALLBACK = "; what no window ranked stands in the fallback's order"
LONE = "; the candidate that no window ranked keeps its place"
RISING = {str(i): float(i) for i in range(8)}


@pytest.mark.parametrize(
    ("deadline", "windows", "order"),
    [
        (0.5, 1, [0, 1, 2, 3, 7, 6, 5, 4]),  # the first window is under way when the deadline passes, and counts
        (1.5, 2, [0, 1, 7, 6, 3, 2, 5, 4]),
        (2.5, 3, [7, 6, 1, 0, 3, 2, 5, 4]),
    ],
)
def test_past_the_deadline_no_window_is_started(
    deadline: float, windows: int, order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = _inline(engine=Clock(monkeypatch).engine(1.0, RISING), window=4, stride=2, passes=1)
    ranking = reranker.rerank("query", _titles(8), deadline=deadline)
    assert _ids(ranking) == [str(place) for place in order]
    provenance = ranking.provenance
    assert (provenance.windows, provenance.seconds) == (windows, windows * 1.0)
    if windows < 3:
        assert (provenance.outcome, provenance.cause, provenance.why) == (
            "fallback",
            "deadline",
            f"the deadline of {deadline} s passed{FIRST_STAGE}",
        )
    else:
        assert (provenance.outcome, provenance.why) == ("model", "")


def test_the_deadline_is_the_batchs_and_what_is_done_stays_done(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(1.0, {"a1": 3.0, "b5": 3.0})
    requests = [_request("qa", "a0", "a1"), _request("qb", *(f"b{i}" for i in range(6)))]
    short, long = _inline(engine=engine, window=4, stride=2, passes=1).rerank_batch(requests, deadline=0.5)
    assert (_ids(short), short.provenance.outcome) == (["a1", "a0"], "model")
    assert (_ids(long), long.provenance.outcome) == ([f"b{i}" for i in range(6)], "fallback")
    assert long.provenance.windows == 0


def test_the_seconds_are_the_querys_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(1.0, {})
    requests = [_request(f"q{n}", *(f"{n}-{i}" for i in range(n))) for n in (2, 8, 6)]
    reranker = _inline(engine=engine, window=4, stride=2, passes=1)
    assert [ranking.provenance.seconds for ranking in reranker.rerank_batch(requests)] == [1.0, 3.0, 2.0]
    assert [ranking.provenance.seconds for ranking in reranker.rerank_batch(requests, reasons=1)] == [4.0] * 3
    assert reranker.rerank_batch(requests, deadline=1.5)[1].provenance.seconds == 2.0


def test_a_pass_that_was_finished_counts_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(1.0, {"3": 3.0})
    ranking = _inline(engine=engine, passes=4).rerank("query", _titles(4), deadline=0.5)
    assert _ids(ranking) == ["3", "0", "1", "2"]
    assert (ranking.provenance.outcome, ranking.provenance.windows) == ("model", 1)


def test_the_groups_of_a_tournament_that_were_finished_count(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(1.0, RISING)
    reranker = _inline(engine=engine, strategy="tournament", window=3, passes=1)
    ranking = reranker.rerank("query", _titles(6), top_k=1, deadline=0.5)
    assert ranking.items[0].listing_id == "4", "the first group, 0 2 4, is ranked among its own spots"
    assert ranking.provenance.why == f"the deadline of 0.5 s passed{FIRST_STAGE}"
    assert reranker.rerank("query", _titles(6), top_k=1).items[0].listing_id == "5"


class Hanging(OracleEngine):
    """Answers and publishes the first request of a batch, then hangs until it is let go."""

    def __init__(self, grades: dict[str, float]) -> None:
        super().__init__(grades)
        self.let_go = threading.Event()
        answer = self._answer_to

        def hang(request: AnyRequest) -> ScriptedAnswer:
            if len(self.requests) > 1:
                self.let_go.wait(30)
            return answer(request)

        self._answer_to = hang


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_engine_that_hangs_is_left_behind_and_what_it_published_counts(asynchronous: bool) -> None:
    engine = Hanging({"1": 3.0})
    reranker = _inline(engine=engine, passes=2)
    started = time.monotonic()
    try:
        if asynchronous:
            ranking = asyncio.run(reranker.arerank("query", _titles(2), deadline=0.1))
        else:
            ranking = reranker.rerank("query", _titles(2), deadline=0.1)
        seconds = time.monotonic() - started
    finally:
        engine.let_go.set()
    assert _ids(ranking) == ["1", "0"], "the first pass was finished"
    assert (ranking.provenance.outcome, ranking.provenance.windows) == ("model", 1)
    assert 0.1 <= seconds < 2, "the engine hangs far longer"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_engine_that_hangs_before_its_first_answer(asynchronous: bool) -> None:
    let_go = threading.Event()

    def hang(request: AnyRequest) -> ScriptedAnswer:
        let_go.wait(30)
        return _odds(0.0, 1.0)

    reranker = Reranker(engine=ScriptedEngine(hang))
    try:
        if asynchronous:
            ranking = asyncio.run(reranker.arerank("query", _titles(2), deadline=0.05))
        else:
            ranking = reranker.rerank("query", _titles(2), deadline=0.05)
    finally:
        let_go.set()
    assert _ids(ranking) == ["0", "1"]
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "deadline")
    assert ranking.provenance.why == f"the deadline of 0.05 s passed{FIRST_STAGE}"


class Rewording(OracleEngine):
    """Hands on a part of what it is asked, in another order, as an engine with a cache in front of it would."""

    def __init__(self, inner: Hanging) -> None:
        super().__init__({})
        self.inner = inner

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        return self.inner.score(requests[::-1], stop=stop)[::-1]


def test_an_answer_that_was_published_counts_for_its_own_request() -> None:
    inner = Hanging({"q1-1": 3.0})
    requests = [_request(f"q{i}", f"q{i}-0", f"q{i}-1") for i in range(2)]
    try:
        first, second = _inline(engine=Rewording(inner), passes=1).rerank_batch(requests, deadline=0.05)
    finally:
        inner.let_go.set()
    assert (first.provenance.outcome, second.provenance.outcome) == ("fallback", "model")
    assert _ids(second) == ["q1-1", "q1-0"]


class SlowTokenizer(WordTokenizer):
    """Takes its time for each listing that it is shown."""

    seconds = 0.0

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        time.sleep(self.seconds * sum("title" in text for text in texts))
        return super().encode(texts)


def test_rendering_is_inside_the_deadline() -> None:
    tokenizer = SlowTokenizer()
    engine = ScriptedEngine(_by_id(float), tokenizer=tokenizer)
    reranker = _inline(engine=engine, window=4, stride=2, passes=1)
    tokenizer.seconds = 0.02
    requests = [_request(f"q{i}", *(f"{i}{j}" for j in range(8))) for i in range(9)]
    started = time.monotonic()
    rankings = reranker.rerank_batch(requests, deadline=0.2)
    assert time.monotonic() - started < 0.6
    assert engine.calls == 0, "nine windows take 0.7 s to render"
    assert {ranking.provenance.cause for ranking in rankings} == {"deadline"}
    for request, ranking in zip(requests, rankings, strict=True):
        assert _ids(ranking) == [candidate.listing.listing_id for candidate in request.candidates]


def test_an_engine_that_leaves_answers_out_without_being_told_to() -> None:
    class Forgetful(OracleEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            return [None] * len(requests)

        def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
            return [None] * len(requests)

    provenance = Reranker(engine=Forgetful({})).rerank("query", _titles(2), reasons=1).provenance
    assert (provenance.outcome, provenance.cause) == ("fallback", "engine-error")
    assert provenance.why == f"the engine failed: it left a request unanswered{FIRST_STAGE}"
    assert provenance.repairs == ("no reason for 0: the engine failed: it left a request unanswered",)


def test_what_a_call_with_a_deadline_raises_is_raised_in_the_callers_thread() -> None:
    engine = ScriptedEngine([ZeroDivisionError("a bug")])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        Reranker(engine=engine).rerank("query", _titles(2), deadline=60)


def test_past_the_deadline_no_reason_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(1.0, RISING)
    ranking = _inline(engine=engine).rerank("query", _titles(3), reasons=2, deadline=1.0)
    assert _ids(ranking) == ["2", "1", "0"]
    assert [item.reason for item in ranking.items] == [None] * 3
    assert (ranking.provenance.outcome, ranking.provenance.repairs) == (
        "repaired",
        tuple(f"no reason for {i}: the deadline of 1 s passed" for i in (2, 1)),
    )
    assert engine.calls == 1


def test_a_generous_deadline_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = _inline(engine=Clock(monkeypatch).engine(1.0, RISING), window=4, stride=2, passes=1)
    for deadline in (None, inf, 3.5):
        assert reranker.rerank("query", _titles(8), deadline=deadline).provenance.outcome == "model"


def test_a_budget_that_cannot_hold_a_window_is_the_callers_error() -> None:
    with pytest.raises(BudgetError) as caught:
        Reranker(engine=OracleEngine({}), max_prompt_tokens=20).rerank("query", _titles(5))
    least = caught.value.least
    assert Reranker(engine=OracleEngine({}), max_prompt_tokens=least).rerank("query", _titles(5)).items


def test_a_budget_too_small_for_reasons_leaves_the_ranking() -> None:
    template = load_template("inline")
    wordy = template.reason["en"].model_copy(update={"system": "long " * 5000})
    template = template.model_copy(update={"reason": {"en": wordy}})
    engine = OracleEngine({"1": 3.0})
    engine.context = 1000
    reranker = _inline(engine=engine, prompt=template)
    ranking = reranker.rerank("query", _titles(2), reasons=1)
    assert _ids(ranking) == ["1", "0"]
    assert ranking.provenance.outcome == "repaired"
    assert ranking.provenance.cause == "budget"
    assert ranking.provenance.repairs[0].startswith("no reason for 1: no room: ")


# ---------------------------------------------------------------------------------------------------------------------
# The fallback
# ---------------------------------------------------------------------------------------------------------------------


class CheapRanker:
    """A fallback that scores by id and records what it was asked."""

    def __init__(self, score: Callable[[str], Any]) -> None:
        self.asked: list[list[Request]] = []
        self._score = score

    def __call__(self, requests: Sequence[Request]) -> list[list[Any]]:
        self.asked.append(list(requests))
        return [[self._score(candidate.listing.listing_id) for candidate in r.candidates] for r in requests]


def _dead() -> ScriptedEngine:
    return ScriptedEngine([EngineError("gone")])


@pytest.mark.parametrize(
    ("decoding", "strategy"), [("pointwise", None), *((d, s) for d in WINDOWED for s in ("single", "sliding"))]
)
def test_with_a_dead_engine_the_fallback_orders_everything(decoding: Any, strategy: Any) -> None:
    n = 5
    odd_first = CheapRanker(lambda listing_id: int(listing_id) % 2)
    reranker = Reranker(engine=_dead(), decoding=decoding, strategy=strategy, fallback=odd_first)
    ranking = reranker.rerank("query", _titles(n))
    assert _ids(ranking) == ["1", "3", "0", "2", "4"], "equal scores stand in the first stage's order"
    assert [item.score for item in ranking.items] == [(n - i) / n for i in range(n)]
    assert [item.source_rank for item in ranking.items] == [2, 4, 1, 3, 5]
    assert (ranking.provenance.outcome, ranking.provenance.stand_in) == ("fallback", "baseline")
    assert ranking.provenance.why == f"the engine failed: gone{FALLBACK}"
    _check_promises(ranking, n)


def test_what_a_window_ranked_stays_and_the_fallback_orders_the_rest() -> None:
    n = 8
    engine = _failing_after(1, EngineError("gone"), OracleEngine(RISING))
    # it would have 4 to 7 first, but these are ranked
    fallback = CheapRanker(lambda listing_id: {"0": -2.0, "1": 0.0, "2": -1.0, "3": 0.5}.get(listing_id, 9.0))
    ranking = _inline(engine=engine, window=4, stride=2, passes=1, fallback=fallback).rerank("query", _titles(n))
    assert _ids(ranking) == ["3", "1", "2", "0", "7", "6", "5", "4"]
    assert (ranking.provenance.outcome, ranking.provenance.windows) == ("fallback", 1)
    assert ranking.provenance.stand_in == "baseline"
    assert ranking.provenance.why == f"the engine failed: gone{FALLBACK}"
    _check_promises(ranking, n)


def test_past_the_deadline_the_fallback_orders_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    fallback = CheapRanker(float)
    reranker = _inline(engine=Clock(monkeypatch).engine(1.0, RISING), window=4, stride=2, fallback=fallback)
    ranking = reranker.rerank("query", _titles(8), deadline=0.5)
    assert _ids(ranking) == ["3", "2", "1", "0", "7", "6", "5", "4"]
    assert ranking.provenance.why == f"the deadline of 0.5 s passed{FALLBACK}"


def test_the_fallback_gets_the_plain_requests_that_need_it_as_one_batch() -> None:
    engine = ScriptedEngine(_by_id(lambda listing_id: nan if listing_id[0] in "bd" else float(listing_id[1])))
    requests = [_request(f"q{name}", *(f"{name}{i}" for i in range(3))) for name in "abcd"]
    fallback = CheapRanker(lambda listing_id: -abs(int(listing_id[1]) - 1))
    rankings = _inline(engine=engine, fallback=fallback).rerank_batch(requests)
    assert fallback.asked == [[requests[1], requests[3]]]
    assert [ranking.provenance.outcome for ranking in rankings] == ["model", "fallback"] * 2
    assert [_ids(ranking) for ranking in rankings] == [
        ["a2", "a1", "a0"],
        ["b1", "b0", "b2"],
        ["c2", "c1", "c0"],
        ["d1", "d0", "d2"],
    ]


def test_the_fallback_is_asked_only_when_there_is_something_to_order() -> None:
    fallback = CheapRanker(float)
    assert _inline(engine=OracleEngine({}), fallback=fallback).rerank("q", _titles(3)).provenance.why == ""
    assert _inline(engine=OracleEngine({}), fallback=fallback).rerank_batch([]) == []
    one = _inline(engine=_dead(), fallback=fallback).rerank("q", ["only"])
    assert one.provenance.why == f"the engine failed: gone{LONE}"
    # window 3, stride 2 of 4 candidates: 0 alone is left when the second window fails
    engine = _failing_after(1, EngineError("gone"), OracleEngine({"3": 3.0}))
    left = _inline(engine=engine, window=3, stride=2, fallback=fallback).rerank("q", _titles(4))
    assert _ids(left) == ["0", "3", "1", "2"]
    assert fallback.asked == []
    assert left.provenance.stand_in == "first-stage", "with one left there is nothing to order"


def test_a_fallback_that_hangs_does_not_hang_the_call() -> None:
    let_go = threading.Event()
    reranker = Reranker(engine=_dead(), fallback=lambda requests: [[float(let_go.wait(30))] * 2 for _ in requests])
    started = time.monotonic()
    try:
        ranking = reranker.rerank("query", _titles(2), deadline=0.2)
    finally:
        let_go.set()
    assert 0.2 < time.monotonic() - started < 2
    assert ranking.provenance.why.startswith("the engine failed: gone; the fallback failed: it took more than 0.")
    assert (_ids(ranking), ranking.provenance.stand_in) == (["0", "1"], "first-stage")


def test_reasons_are_written_for_what_the_fallback_put_first() -> None:
    engine = ScriptedEngine([EngineError("gone"), "It is title 2."])
    ranking = Reranker(engine=engine, fallback=CheapRanker(float)).rerank("q", _titles(3), reasons=1)
    assert _ids(ranking) == ["2", "1", "0"]
    assert [item.reason for item in ranking.items] == ["It is title 2.", None, None]


@pytest.mark.parametrize(
    ("fallback", "fault"),
    [
        (lambda requests: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda requests: [], "it gave 0 answers to 1 requests"),
        (lambda requests: [[1.0, 2.0, 3.0]] * 2, "it gave 2 answers to 1 requests"),
        (lambda requests: [[1.0, 2.0]], "it gave 2 scores for 3 candidates"),
        (lambda requests: [[1.0, nan, 3.0]], "it gave the score nan"),
        (lambda requests: [[1.0, -inf, 3.0]], "it gave the score -inf"),
        (lambda requests: [[1.0, None, 3.0]], "it gave the score None"),
        (lambda requests: [[1.0, True, 3.0]], "it gave the score True"),
        (lambda requests: [["1", "2", "3"]], "it gave the score '1'"),
        (lambda requests: [[1.0, 10**400, 3.0]], "OverflowError: int too large to convert to float"),
        (lambda requests: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda requests: [None], "TypeError: 'NoneType' object is not iterable"),
        (lambda requests: ["abc"], "it gave the score 'a'"),
    ],
    ids=range(13),
)
def test_a_fallback_that_fails_leaves_the_first_stages_order(fallback: Any, fault: str) -> None:
    ranking = Reranker(engine=_dead(), fallback=fallback).rerank("query", _titles(3))
    assert _ids(ranking) == ["0", "1", "2"]
    assert ranking.provenance.outcome == "fallback"
    assert ranking.provenance.why == f"the engine failed: gone; the fallback failed: {fault}{FIRST_STAGE}"
    assert ranking.provenance.stand_in == ranking.to_dict()["provenance"]["stand_in"] == "first-stage"
    _check_promises(ranking, 3)


def test_one_bad_answer_of_the_fallback_is_no_other_querys() -> None:
    fallback = CheapRanker(lambda listing_id: "odd" if listing_id == "b1" else float(listing_id[1]))
    requests = [_request("qa", "a0", "a1"), _request("qb", "b0", "b1")]
    first, second = Reranker(engine=_dead(), fallback=fallback).rerank_batch(requests)
    assert (_ids(first), first.provenance.why) == (["a1", "a0"], f"the engine failed: gone{FALLBACK}")
    assert _ids(second) == ["b0", "b1"]
    assert (
        second.provenance.why == f"the engine failed: gone; the fallback failed: it gave the score 'odd'{FIRST_STAGE}"
    )


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_numbers_of_other_types_are_scores_too(kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    for row in (numpy.array([1, 3, 2], dtype=kind), (Fraction(1, 2), 3, 2.5)):
        fallback: Any = partial(lambda answer, requests: [answer], row)
        ranking = Reranker(engine=_dead(), fallback=fallback).rerank("q", _titles(3))
        assert _ids(ranking) == ["1", "2", "0"]
        assert ranking.provenance.why.endswith(FALLBACK)


# ---------------------------------------------------------------------------------------------------------------------
# asyncio
# ---------------------------------------------------------------------------------------------------------------------


def test_arerank_lets_the_event_loop_go_on() -> None:
    loop_went_on = threading.Event()

    def answer(request: AnyRequest) -> ScriptedAnswer:
        if not loop_went_on.wait(5):
            return EngineError("the event loop stood still")
        return _by_id(float)(request)

    async def both() -> Ranking:
        reranking = asyncio.create_task(
            _inline(engine=ScriptedEngine(answer)).arerank("query", _titles(2), (), top_k=1, reasons=0, deadline=60)
        )
        await asyncio.sleep(0.01)
        loop_went_on.set()
        return await reranking

    ranking = asyncio.run(both())
    assert (_ids(ranking), ranking.provenance.outcome) == (["1"], "model")


def test_a_cancelled_arerank_stops_the_engine() -> None:
    begun, cancelled, over = threading.Event(), threading.Event(), threading.Event()

    class Slow(OracleEngine):
        def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
            results = super().score(requests, stop=stop)
            if stop():
                over.set()
            return results

    def answer(request: AnyRequest) -> ScriptedAnswer:
        begun.set()
        cancelled.wait(5)
        return _by_id(float)(request)

    engine = Slow({})
    engine._answer_to = answer

    async def cancel() -> None:
        reranking = asyncio.create_task(Reranker(engine=engine).arerank("query", _titles(9), reasons=2))
        await asyncio.to_thread(begun.wait, 5)
        reranking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reranking
        cancelled.set()

    asyncio.run(cancel())
    assert over.wait(5)
    assert len(engine.requests) == 1, "the second pass and the reasons were never computed"


class Awaitable(OracleEngine):
    """An engine for asyncio, which refuses to be called in any other way."""

    def __init__(self, grades: dict[str, float]) -> None:
        super().__init__(grades)
        self.pause: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep
        self.cancelled = 0
        self.threads: set[str] = set()

    async def _answer(self, answers: Callable[[], Any]) -> Any:
        self.threads.add(threading.current_thread().name)
        try:
            await self.pause(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return answers()

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        return list(await self._answer(lambda: super(Awaitable, self).score(requests, stop=stop)))

    async def awrite(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        return list(await self._answer(lambda: super(Awaitable, self).write(requests, stop=stop)))

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        raise EngineError("it blocks")

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        raise EngineError("it blocks")


def test_an_engine_that_can_be_awaited_is_awaited_without_threads() -> None:
    engine = Awaitable({"1": 3.0})
    reranker = _inline(engine=engine, window=4, stride=2)

    async def many() -> list[Ranking]:
        calls = [reranker.arerank("title", _titles(6), reasons=1, deadline=60 if i % 2 else None) for i in range(50)]
        rankings = await asyncio.gather(*calls)
        assert threading.active_count() == before, "no thread was started for any of them"
        return rankings

    before = threading.active_count()
    for ranking in asyncio.run(many()):
        assert (_ids(ranking)[0], ranking.provenance.outcome) == ("1", "model")
        assert ranking[0].reason
    assert engine.threads == {"MainThread"}


def test_arerank_batch_is_rerank_batch() -> None:
    grades = {f"{i}-{j}": float(i * j % 5) for i in range(3) for j in range(9)}
    requests = [_request(f"q{i}", *(f"{i}-{j}" for j in range(3 * i + 3))) for i in range(3)]
    expected = _inline(engine=OracleEngine(grades), window=4).rerank_batch(requests, top_k=4, reasons=2)
    for engine in (OracleEngine(grades), Awaitable(grades)):
        found = asyncio.run(_inline(engine=engine, window=4).arerank_batch(requests, top_k=4, reasons=2))
        assert [ranking.items for ranking in found] == [ranking.items for ranking in expected]


def test_an_awaited_engine_that_hangs_is_left_behind_and_cancelled() -> None:
    engine = Awaitable({})

    async def hang(_: float) -> None:
        await asyncio.sleep(30)

    engine.pause = hang
    reranker = Reranker(engine=engine)
    started = time.monotonic()
    ranking = asyncio.run(reranker.arerank("query", _titles(2), reasons=2, deadline=0.05))
    assert time.monotonic() - started < 2, "the engine hangs for 30 s"
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "deadline")
    assert engine.cancelled == 1


def test_a_cancelled_task_cancels_the_awaited_engine() -> None:
    engine = Awaitable({})
    begun = asyncio.Event()

    async def hang(_: float) -> None:
        begun.set()
        await asyncio.sleep(30)

    engine.pause = hang

    async def cancel() -> None:
        reranking = asyncio.create_task(Reranker(engine=engine).arerank("query", _titles(2)))
        await begun.wait()
        reranking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reranking
        await asyncio.sleep(0)

    asyncio.run(cancel())
    assert engine.cancelled == 1


def test_the_fallback_does_not_block_the_event_loop() -> None:
    loop_went_on = threading.Event()

    def fallback(requests: Sequence[Request]) -> list[list[float]]:
        assert loop_went_on.wait(5)
        return [[0.0, 1.0]]

    async def both() -> Ranking:
        reranking = asyncio.create_task(Reranker(engine=_dead(), fallback=fallback).arerank("query", _titles(2)))
        await asyncio.sleep(0.01)
        loop_went_on.set()
        return await reranking

    assert _ids(asyncio.run(both())) == ["1", "0"]


def test_arerank_raises_what_rerank_raises() -> None:
    with pytest.raises(InputError) as caught:
        asyncio.run(Reranker(engine=OracleEngine({})).arerank("query", []))
    assert caught.value.field == "candidates"


# ---------------------------------------------------------------------------------------------------------------------
# Closing
# ---------------------------------------------------------------------------------------------------------------------


def test_a_closed_reranker_ranks_nothing_and_leaves_the_callers_engine_open() -> None:
    engine = OracleEngine({})
    with Reranker(engine=engine) as reranker:
        assert reranker.rerank("query", ["a"])
    reranker.close()
    assert not engine.closed
    with pytest.raises(EngineError, match="the reranker is closed"):
        reranker.rerank("query", ["a"])

    async def use() -> None:
        async with Reranker(engine=engine) as another:
            assert await another.arerank("query", ["a"])
        with pytest.raises(EngineError, match="the reranker is closed"):
            await another.arerank_batch([_request("q", "a")])

    asyncio.run(use())


def test_a_reranker_closes_the_engine_that_it_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[OracleEngine] = []

    def load(*_: object) -> OracleEngine:
        loaded.append(OracleEngine({}))
        return loaded[-1]

    monkeypatch.setattr("genrank.reranker._load_engine", load)
    with Reranker("some-model"):
        assert not loaded[0].closed
    assert loaded[0].closed
    with pytest.raises(InputError, match="max_prompt_tokens"):
        Reranker("some-model", max_prompt_tokens=0)
    assert loaded[1].closed, "also where it could not be set up"


# ---------------------------------------------------------------------------------------------------------------------
# Wrong arguments
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"decoding": "pairwise"}, "decoding"),
        ({"strategy": "knockout"}, "strategy"),
        ({"decoding": "inline", "strategy": "each"}, "strategy"),
        ({"decoding": "pointwise", "strategy": "single"}, "strategy"),
        ({"decoding": "pointwise", "window": 20}, "window"),
        ({"decoding": "pointwise", "stride": 10}, "stride"),
        ({"decoding": "pointwise", "passes": 2}, "passes"),
        ({"decoding": "inline", "window": 1}, "window"),
        ({"decoding": "inline", "window": "20"}, "window"),
        ({"decoding": "inline", "window": 20, "stride": 20}, "stride"),
        ({"decoding": "inline", "stride": 0}, "stride"),
        ({"passes": 0}, "passes"),
        ({"passes": "2"}, "passes"),
        ({"max_reason_tokens": 0}, "max_reason_tokens"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"max_prompt_tokens": -1}, "max_prompt_tokens"),
        ({"max_prompt_tokens": 1_000_001}, "max_prompt_tokens"),
        ({"engine": "tensorflow"}, "engine"),
        ({"engine": None}, "engine"),
        ({"fallback": "str"}, "fallback"),
        ({"seed": 1.5}, "seed"),
        ({"adapter": "shoes"}, "adapter"),
        ({"model": "smollm2-135m"}, "model"),
        ({"decoding": "first-token", "window": 101}, "window"),
        ({"decoding": "listwise", "window": 101}, "window"),
    ],
    ids=str,
)
def test_a_wrong_argument_of_the_class_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Reranker(**{"engine": OracleEngine({})} | change)
    assert caught.value.field == field
    assert str(list(change.values())[-1]) in str(caught.value)


@pytest.mark.parametrize(("window", "stride"), [(10, 5), (2, 1), (3, 1), (20, 10), (None, 10)])
def test_the_stride_follows_the_window(window: int | None, stride: int) -> None:
    provenance = _inline(engine=OracleEngine({}), window=window).rerank("query", _titles(30)).provenance
    assert (provenance.window, provenance.stride) == (window or 20, stride)


def test_an_engine_and_what_it_already_has_is_refused_with_the_fix() -> None:
    with pytest.raises(InputError, match=r"has its own adapter \(None\); leave adapter='shoes' out"):
        Reranker(engine=OracleEngine({}), adapter="shoes")
    with pytest.raises(InputError, match=r"trust_remote_code: the engine that was passed has loaded its model already"):
        Reranker(engine=OracleEngine({}), trust_remote_code=True)


def test_numbers_of_numpy_are_options_too() -> None:
    np = pytest.importorskip("numpy")
    reranker = _inline(engine=OracleEngine({"4": 3.0}), window=np.int64(4), passes=np.int32(1), seed=np.int64(3))
    ranking = reranker.rerank("query", _titles(6), top_k=np.int64(2), reasons=np.int8(1), deadline=np.float32(60))
    assert [item.listing_id for item in ranking] == ["4", "0"]
    json.dumps(ranking.to_dict())
    with pytest.raises(InputError, match=r"top_k: must be a whole number, got np\.float64"):
        reranker.rerank("query", _titles(6), top_k=cast(Any, np.float64(2)))


def test_wide_windows_are_allowed_where_candidates_need_no_names() -> None:
    ranking = _inline(engine=OracleEngine({"99": 3.0}), window=200, stride=100).rerank("query", _titles(100))
    assert ranking.items[0].listing_id == "99"


def test_single_refuses_what_it_cannot_name() -> None:
    reranker = Reranker(engine=OracleEngine({}), decoding="listwise", strategy="single")
    with pytest.raises(InputError, match="101 candidates in one window, but only 100 identifiers") as caught:
        reranker.rerank("query", _titles(101))
    assert caught.value.field == "window"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no-such-prompt", "no prompt template"),
        ("listwise", "asks no question; it suits first-token and listwise, not inline"),
        ("pointwise", "asks no question; it suits pointwise, not inline"),
    ],
)
def test_a_template_that_does_not_fit(prompt: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _inline(engine=OracleEngine({}), prompt=prompt)


@pytest.mark.parametrize("decoding", ["first-token", "listwise"])
def test_an_order_needs_names(decoding: Any) -> None:
    with pytest.raises(ConfigError, match="inline-bare names no candidates; it suits inline, not "):
        Reranker(engine=OracleEngine({}), prompt="inline-bare", decoding=decoding)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"candidates": []}, "candidates"),
        ({"candidates": "title"}, "candidates"),
        ({"candidates": ["a", " "]}, "candidates[1].title"),
        ({"candidates": [Listing("p", "a"), Listing("p", "b")]}, "candidates[1].listing_id"),
        ({"history": "view"}, "history"),
        ({"history": [{"event": "buy"}]}, "history[0].event"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": "3"}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"reasons": -1}, "reasons"),
        ({"reasons": "1"}, "reasons"),
        ({"reasons": 1.5}, "reasons"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": -1.0}, "deadline"),
        ({"deadline": nan}, "deadline"),
        ({"deadline": "5"}, "deadline"),
        ({"deadline": True}, "deadline"),
        ({"deadline": 10**400}, "deadline"),
        ({"top_k": True}, "top_k"),
    ],
    ids=str,
)
def test_a_wrong_argument_of_a_call_is_named_and_nothing_is_run(change: dict[str, Any], field: str) -> None:
    engine = OracleEngine({})
    arguments: dict[str, Any] = {"query": "query", "candidates": ["a", "b"]}
    with pytest.raises(InputError) as caught:
        Reranker(engine=engine).rerank(**arguments | change)
    assert caught.value.field == field
    assert engine.calls == 0


def test_reasons_need_a_template_that_asks_for_them() -> None:
    mute = load_template("inline").model_copy(update={"reason": {}})
    with pytest.raises(InputError, match="has no reason prompt") as caught:
        Reranker(engine=OracleEngine({}), prompt=mute).rerank("query", ["a"], reasons=1)
    assert caught.value.field == "reasons"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"query": "q", "candidates": ["a"]}, "requests[1]"),
        (None, "requests[1]"),
        ("query", "requests[1]"),
    ],
    ids=["dict", "None", "text"],
)
def test_a_batch_takes_right_requests_only(request_: Any, field: str) -> None:
    engine = OracleEngine({})
    with pytest.raises(InputError) as caught:
        Reranker(engine=engine).rerank_batch([_request("q0", "a"), request_])
    assert caught.value.field == field
    assert engine.calls == 0


# ---------------------------------------------------------------------------------------------------------------------
# The token budget
# ---------------------------------------------------------------------------------------------------------------------


def _engine(context: int) -> ScriptedEngine:
    return ScriptedEngine(
        lambda request: (
            tuple(range(len(request.listing_ids))) if isinstance(request, PermuteRequest) else EngineError("unasked")
        ),
        context=context,
    )


def test_the_budget_is_what_the_model_takes_up_to_a_limit() -> None:
    assert Reranker(engine=_engine(1_000_000)).max_prompt_tokens == MAX_PROMPT_TOKENS
    assert Reranker(engine=_engine(1000)).max_prompt_tokens == 1000
    assert Reranker(engine=_engine(1000), max_prompt_tokens=700).max_prompt_tokens == 700


def test_a_budget_beyond_the_models_context_is_refused_with_the_context() -> None:
    with pytest.raises(InputError, match=re.escape("within 1..1000 (the model takes 1000 tokens")) as caught:
        Reranker(engine=_engine(1000), max_prompt_tokens=1001)
    assert caught.value.field == "max_prompt_tokens"


@pytest.mark.parametrize("strategy", ["single", "sliding"])
def test_prompt_and_written_order_fit_into_the_context_together(strategy: Any) -> None:
    n, context = 40, 1000
    engine = _engine(context)
    reranker = Reranker(engine=engine, decoding="listwise", strategy=strategy)
    ranking = reranker.rerank("query", [_words(60)] * n)
    assert ranking.provenance.outcome == "model"
    for request in engine.requests:
        assert isinstance(request, PermuteRequest)
        answer = len(request.identifiers) + len(request.between) * (len(request.identifiers) - 1)
        assert len(request.ids) + answer <= context


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"decoding": []}, "decoding", "must be one of"),
        ({"strategy": {}}, "strategy", "must be one of"),
        ({"calibration": 5}, "calibration", "must be a name or a path, got int"),
        ({"calibration": ""}, "calibration", "leave it out for the default"),
        ({"blend": 1.5}, "blend", "must be a number within 0..1, or False, got 1.5"),
        ({"blend": True}, "blend", "must be a number within 0..1, or False, got True"),
        ({"blend": "half"}, "blend", "must be a number within 0..1, or False, got 'half'"),
        ({"engine": "transformers", "model": ""}, "model", "leave it out for the default"),
        ({"engine": "transformers", "adapter": ""}, "adapter", "leave it out for the default"),
        ({"engine": "transformers", "model": 5}, "model", "must be a name or a path, got int"),
        ({"engine": "transformers", "adapter": b"a"}, "adapter", "must be a name or a path, got bytes"),
        ({"engine": "transformers", "model": ScriptedEngine([])}, "model", "pass engine=ScriptedEngine\\(...\\)"),
        ({"engine": ScriptedEngine}, "engine", "must be transformers, vllm, a server's address"),
        ({"engine": "host:8000/v1"}, "engine", r"a server's address \(http://"),
        ({"trust_remote_code": True}, "trust_remote_code", "has loaded its model already"),
        ({"dtype": "int8"}, "dtype", "has loaded its model already"),
        (
            {"engine": "http://host/v1", "dtype": "int8"},
            "dtype",
            "http://host/v1 has its own, got 'int8'; leave it out",
        ),
    ],
)
def test_options_of_the_wrong_kind_and_those_without_effect_are_refused(
    options: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Reranker(**{"engine": ScriptedEngine([])} | options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "requests", [None, {}, {"q1": 1}, "ab", {1}, Request(Query("q"), (Candidate(Listing("a", "A")),))]
)
def test_a_batch_is_a_list_of_requests(requests: Any) -> None:
    with pytest.raises(InputError, match="must be a list of Request, got ") as caught:
        Reranker(engine=ScriptedEngine([])).rerank_batch(requests)
    assert caught.value.field == "requests"


# ---------------------------------------------------------------------------------------------------------------------
# Blending
# ---------------------------------------------------------------------------------------------------------------------

# the model and the first stage disagree about the order of p0 .. p3
MODEL = {"p0": 0.0, "p1": 2.0, "p2": 1.0, "p3": -1.0}
PROPOSED = {"p0": 9.0, "p1": 1.0, "p2": 8.0, "p3": 2.0}


def _scored(scores: Mapping[str, Any] = PROPOSED) -> list[Candidate]:
    return [Candidate(Listing(key, f"title of {key}"), score=score) for key, score in scores.items()]


def _with_weight(folder: Path, weight: float, decoding: Decoding) -> OracleEngine:
    """An engine whose adapter has a weight of its own."""
    save_blend(Blend(decoding, weight), folder)
    engine = OracleEngine(MODEL)
    engine.adapter = str(folder)
    return engine


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_weight_blends_the_first_stage_in(decoding: Any) -> None:
    orders = {}
    for weight in (0, 0.5, 1, False):
        ranking = Reranker(engine=OracleEngine(MODEL), decoding=decoding, blend=weight).rerank("q", _scored())
        orders[weight if weight is not False else "off"] = _ids(ranking)
        assert ranking.provenance.blend == (None if weight is False else weight)
        scores = [item.score for item in ranking]
        assert all(0 <= score <= 1 for score in scores)
        assert scores == sorted(scores, reverse=True)
    assert orders[0] == ["p0", "p2", "p3", "p1"]
    assert orders[0.5] == ["p2", "p0", "p1", "p3"]
    assert orders[1] == orders["off"] == ["p1", "p2", "p0", "p3"]


def test_blended_scores_keep_the_mean_and_the_spread_of_the_log_odds() -> None:
    ranking = _inline(engine=OracleEngine(MODEL), passes=1, blend=0.5).rerank("q", _scored())
    odds = {key: log(exp(x) + 1) - log(2) for key, x in MODEL.items()}
    mean, deviation = fmean(odds.values()), pstdev(odds.values())
    middle, spread = fmean(PROPOSED.values()), pstdev(PROPOSED.values())
    for item in ranking:
        both = (odds[item.listing_id] - mean) / deviation + (PROPOSED[item.listing_id] - middle) / spread
        assert item.score == pytest.approx(_sigmoid(mean + deviation * both / 2))


def test_the_adapters_weight_is_taken_where_all_candidates_have_scores(tmp_path: Path) -> None:
    engine = _with_weight(tmp_path, 0.0, "inline")
    reranker = _inline(engine=engine)
    assert reranker.rerank("q", _scored()).provenance.blend == 0.0
    assert _ids(reranker.rerank("q", _scored())) == ["p0", "p2", "p3", "p1"]
    partly = reranker.rerank("q", _scored({**PROPOSED, "p3": None}))
    assert (partly.provenance.blend, _ids(partly)[0]) == (None, "p1")
    assert _inline(engine=engine, decoding="first-token").rerank("q", _scored()).provenance.blend is None
    assert _inline(engine=engine, blend=False).rerank("q", _scored()).provenance.blend is None
    assert _inline(engine=engine, blend=0.5).rerank("q", _scored()).provenance.blend == 0.5
    assert _inline(engine=OracleEngine(MODEL)).rerank("q", _scored()).provenance.blend is None


def test_a_forced_weight_needs_every_score() -> None:
    engine = OracleEngine(MODEL)
    with pytest.raises(InputError, match=r"blend=0\.5 needs .* and p2 has none") as caught:
        Reranker(engine=engine, blend=0.5).rerank("q", _scored({**PROPOSED, "p2": None}))
    assert caught.value.field == "candidates[2].score"
    assert not engine.requests


def test_a_fallback_is_not_blended() -> None:
    engine = _failing_after(1, EngineError("gone"), OracleEngine(MODEL))
    ranking = _inline(engine=engine, window=2, stride=1, passes=1, blend=0.0).rerank("q", _scored())
    assert (ranking.provenance.outcome, ranking.provenance.blend) == ("fallback", None)
    assert _ids(ranking) == ["p0", "p1", "p2", "p3"]


def test_reasons_are_of_the_first_items_of_the_blend() -> None:
    ranking = Reranker(engine=OracleEngine(MODEL), blend=0.0).rerank("title", _scored(), reasons=1)
    assert [item.listing_id for item in ranking if item.reason] == ["p0"]


def test_blended_scores_are_not_called_calibrated() -> None:
    calibration = Calibration("inline", 2.0, fitted_on="some queries")
    reranker = _inline(engine=OracleEngine(MODEL), calibration=calibration, blend=0.5)
    assert reranker.rerank("q", _scored()).provenance.calibration is None
    off = _inline(engine=OracleEngine(MODEL), calibration=calibration)
    assert off.rerank("q", _scored()).provenance.calibration == "some queries"


def test_false_turns_the_adapters_calibration_off(tmp_path: Path) -> None:
    save_calibration(Calibration("inline", 2.0, fitted_on="some queries"), tmp_path)
    engine = OracleEngine(MODEL)
    engine.adapter = str(tmp_path)
    assert _inline(engine=engine).rerank("q", ["a"]).provenance.calibration == "some queries"
    assert _inline(engine=engine, calibration=False).rerank("q", ["a"]).provenance.calibration is None


def test_a_fingerprint_stands_for_all_that_decides_a_ranking() -> None:
    def fingerprint(model: str = "m", adapter: str | None = None, dtype: str = "float32", **options: Any) -> str:
        engine = OracleEngine({})
        engine.model, engine.adapter = model, adapter
        engine.dtype_name = dtype  # type: ignore[attr-defined]
        return _inline(engine=engine, check_adapter=False, **options).fingerprint

    changes: list[dict[str, Any]] = [
        {}, {"model": "n"}, {"dtype": "int8"}, {"prompt": "inline-title"}, {"decoding": "listwise"}, {"window": 5},
        {"stride": 3}, {"passes": 1}, {"seed": 1}, {"blend": 0.5}, {"neutralise": False}, {"max_prompt_tokens": 999},
        {"max_reason_tokens": 9}, {"calibration": Calibration("inline", 2.0)},
        {"calibration": Calibration("inline", 3.0)},
    ]  # fmt: skip
    found = [fingerprint(**change) for change in changes]
    assert len(set(found)) == len(changes)
    assert fingerprint() == found[0]
    assert fingerprint(fallback=lambda _: []) == found[0], "it orders what the model did not"
    assert re.fullmatch("[0-9a-f]{16}", found[0])


def test_the_template_can_be_asked() -> None:
    assert _inline(engine=OracleEngine({}), prompt="inline-title").template.name == "inline-title"


@pytest.mark.parametrize(("decoding", "count"), [("pointwise", 5), ("inline", 2), ("listwise", 1)])
def test_the_first_prompts_are_those_that_the_engine_gets_first(decoding: Decoding, count: int) -> None:
    engine = OracleEngine({})
    reranker = Reranker(engine=engine, decoding=decoding, **({} if decoding == "pointwise" else {"window": 3}))  # type: ignore[arg-type]
    request = _request("q", *"abcde")
    prompts = [render() for render in reranker.first_prompts(request)]
    assert not engine.requests, "nothing is asked"
    reranker.rerank_batch([request])
    assert [prompt.ids for prompt in prompts] == [sent.ids for sent in engine.requests[:count]]
    assert len(prompts) == count


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------


class _Seeing(ScriptedEngine):
    """Scores a listing by the width of its picture."""

    name = "seeing"

    def __init__(self, *, tokens: int = 30, **options: Any) -> None:
        super().__init__(self._look, **options)
        self.tokens = tokens

    def _look(self, request: AnyRequest) -> ScriptedAnswer:
        assert isinstance(request, ScoreRequest)
        width = request.picture.width if request.picture else 0
        return [[width / 100, *[0.0] * (len(request.targets) - 1)]]

    def picture_tokens(self, edge: int) -> int:
        return self.tokens


def _pictured(*widths: int) -> list[Listing]:
    """Listings with pictures of these widths; none for 0."""
    return [
        Listing(f"p{i}", f"title {i}", image_url=data_url(file(size=(width, 20))) if width else "")
        for i, width in enumerate(widths)
    ]


DATA = Pictures(data_urls=True)


def test_the_model_sees_each_listings_own_picture_before_the_sections() -> None:
    pytest.importorskip("PIL")
    engine = _Seeing()
    with Reranker(engine=engine, pictures=DATA) as reranker:
        ranking = reranker.rerank("q", _pictured(10, 0, 300, 40))
        assert _ids(ranking) == ["p2", "p3", "p0", "p1"]
        assert ranking.provenance.pictures == Pictured(used=3, without=1)
        system = len(engine.tokenizer.frame(reranker.template.system)[0])
        requests = [request for request in engine.requests if isinstance(request, ScoreRequest)]
        assert [request.picture_at for request in requests] == [system, 0, system, system]
        again = asyncio.run(reranker.arerank("q", _pictured(10, 0, 300, 40)))
        both = reranker.rerank_batch([_request_of(_pictured(10, 40)), _request_of(_pictured(0, 0))])
    assert (again.items, again.provenance.pictures) == (ranking.items, ranking.provenance.pictures)
    assert [one.provenance.pictures for one in both] == [Pictured(used=2), Pictured(without=2)]


def _request_of(listings: list[Listing]) -> Request:
    return Request(Query("q"), tuple(map(Candidate, listings)))


def test_without_pictures_requests_are_what_they_were() -> None:
    pytest.importorskip("PIL")
    asked = []
    for pictures in (None, Pictures(), DATA):
        engine = _Seeing()
        with Reranker(engine=engine, pictures=pictures) as reranker:
            ranking = reranker.rerank("q", _pictured(0, 0))
            counted = ranking.provenance.pictures
            asked.append((engine.requests, reranker.fingerprint))
            assert counted == (Pictured(without=2) if pictures is DATA else None)
    assert asked[0] == asked[1]
    assert asked[0][0] == asked[2][0]
    assert asked[0][1] != asked[2][1], "with pictures on, answers may differ"


def test_half_of_the_time_that_is_left_is_for_the_pictures() -> None:
    pytest.importorskip("PIL")
    engine = _Seeing()
    with Reranker(engine=engine, pictures=Pictures(hosts=("img.shop.example",), timeout=30)) as reranker:

        async def hang(host: str, port: int) -> list[str]:
            await asyncio.sleep(60)
            return []

        assert reranker._loader
        reranker._loader._resolve = hang
        listings = [Listing("a", "title", image_url="https://img.shop.example/a.jpg"), Listing("b", "title b")]
        for ranking in (
            reranker.rerank("q", listings, deadline=1.0),
            asyncio.run(reranker.arerank("q", listings, deadline=1.0)),
        ):
            assert ranking.provenance.outcome == "model"
            assert ranking.provenance.pictures == Pictured(0, 1, {"timeout": 1})
            assert 0.3 < ranking.provenance.seconds < 0.9


def test_a_pictures_tokens_leave_less_room_for_the_prompt() -> None:
    pytest.importorskip("PIL")
    with Reranker(engine=_Seeing(context=1000), pictures=DATA) as reranker:
        assert reranker.max_prompt_tokens == 970
    with pytest.raises(InputError, match=r"takes 30 tokens, and the model takes 30; lower Pictures\.max_edge"):
        Reranker(engine=_Seeing(context=30), pictures=DATA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": _Seeing(), "pictures": ["img.shop.example"]}, "must be genrank.Pictures"),
        ({"engine": _Seeing(), "pictures": DATA, "decoding": "inline"}, "decoding pointwise"),
        ({"engine": OracleEngine({}), "pictures": DATA}, "the engine oracle shows none; pass engine='transformers'"),
        ({"engine": "vllm", "pictures": DATA}, "start vLLM's server"),
    ],
)
def test_pictures_that_nobody_would_see_are_refused(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("PIL")
    with pytest.raises(InputError, match=message) as why:
        Reranker(**options)
    assert why.value.field == "pictures"


def test_listings_with_pictures_are_not_read_beforehand() -> None:
    pytest.importorskip("PIL")
    with Reranker(engine=_Seeing(), pictures=DATA) as reranker, pytest.raises(ConfigError, match="without pictures"):
        reranker.warm(_pictured(10))
