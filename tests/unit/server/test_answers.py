from __future__ import annotations

import dataclasses

from genrank.errors import EngineError
from genrank.reranker import Reranker
from genrank.server.answers import Answer, dump, load
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Candidate, Listing, Provenance, Query, Request

REQUEST = Request(Query("red dress"), tuple(Candidate(Listing(f"l{i}", f"red dress {i}")) for i in range(3)))


def answer(reasons: int = 0) -> Answer:
    reranker = Reranker(engine=OracleEngine({"l1": 2.0, "l2": 1.0}), decoding="pointwise")
    return Answer.of(REQUEST, reranker.rerank_batch([REQUEST], reasons=reasons)[0], reasons=reasons)


def test_an_answer_holds_places_and_no_listing() -> None:
    found = answer(reasons=1)
    assert [item.place for item in found.items] == [1, 2, 0]
    assert found.items[0].reason
    assert found.items[0].evidence
    assert found.tokens.prompt > 0
    assert (found.outcome, found.cause, found.decoding, found.windows) == ("model", "", "pointwise", 3)


def test_the_tier_says_what_was_done() -> None:
    assert answer(reasons=1).tier == "reasons"
    assert answer().tier == "model"
    dead = Reranker(engine=ScriptedEngine([EngineError("gone")]), decoding="pointwise")
    assert Answer.of(REQUEST, dead.rerank_batch([REQUEST], reasons=1)[0], reasons=1).tier == "first-stage"
    mute = OracleEngine({})
    mute.write = lambda *_, **__: (_ for _ in ()).throw(EngineError("gone"))  # type: ignore[method-assign]
    reranker = Reranker(engine=mute, decoding="pointwise")
    unwritten = Answer.of(REQUEST, reranker.rerank_batch([REQUEST], reasons=1)[0], reasons=1)
    assert (unwritten.tier, unwritten.outcome, unwritten.cause) == ("model", "repaired", "engine-error")
    assert unwritten.reasons_missing == 1


def test_a_stand_in_scores_every_place() -> None:
    plain = Answer.stand_in(4, "deadline")
    assert [(item.place, item.score) for item in plain.items] == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert (plain.tier, plain.outcome, plain.cause) == ("first-stage", "fallback", "deadline")
    scored = Answer.stand_in(4, "deadline", [1.0, 3.0, 1.0, 2.0])
    assert (scored.tier, [item.place for item in scored.items]) == ("baseline", [1, 3, 0, 2])


def test_what_is_stored_comes_back() -> None:
    found = answer(reasons=2)
    assert load(dump(found), 3) == found
    assert b"red dress 0" not in dump(found), "no title"


def test_what_another_version_stored_is_nothing() -> None:
    assert load(b'{"order": [1, 2]}', 3) is None
    assert load(b"\xff", 3) is None
    assert load(dump(answer()), 2) is None, "a place that there is not"
    twice = dataclasses.replace(answer(), items=answer().items[:1] * 2)
    assert load(dump(twice), 3) is None


def test_an_answer_becomes_a_ranking_of_its_candidates_again() -> None:
    candidates = [Candidate(Listing(f"l{i}", f"title {i}"), rank=i + 3) for i in range(3)]
    asked = Request(Query("dress", query_id="q"), tuple(candidates))
    reranker = Reranker(engine=OracleEngine({"l2": 2.0, "l1": 1.0}), decoding="pointwise")
    ranking = reranker.rerank(asked.query, asked.candidates)
    again = Answer.of(asked, ranking, reasons=0).ranking(asked, Provenance(model="oracle", engine="scripted"))
    assert again.items == ranking.items
    assert [item.source_rank for item in again] == [5, 4, 3]
    assert (again.provenance.model, again.provenance.outcome, again.query_id) == ("oracle", "model", "q")
    assert again.provenance.windows == ranking.provenance.windows
    lost = Answer.stand_in(3, "deadline").ranking(asked, Provenance())
    assert [item.listing_id for item in lost] == ["l0", "l1", "l2"]
    assert (lost.provenance.why, lost.provenance.stand_in) == ("the deadline passed", "first-stage")
