from __future__ import annotations

from genrank.cascade import Cascade
from genrank.reranker import Reranker
from genrank.server.config import ModelConfig
from genrank.server.playground.readings import SERVED, find_readings
from genrank.testing import OracleEngine, ScriptedEngine, WordTokenizer


def test_every_decoding_and_prompt_that_suits_is_found() -> None:
    served = Reranker(engine=OracleEngine({}), decoding="pointwise")
    found = find_readings(served, ModelConfig())
    assert next(iter(found)) == SERVED
    assert found[SERVED].ranker is None
    assert {"inline/inline", "first-token/listwise", "listwise/listwise", "pointwise/pointwise-title"} <= found.keys()
    assert "pointwise/pointwise" not in found, "that is the served one"
    assert not [name for name in found if "graded" in name], "these are for second stages"
    for name, reading in found.items():
        if name != SERVED:
            assert reading.ranker is not None
            assert reading.ranker.engine is served.engine, "no other model is loaded"
            assert name == f"{reading.ranker.decoding}/{reading.ranker.template.name}"


def test_what_the_engine_cannot_serve_is_left_out() -> None:
    engine = OracleEngine({})
    engine.decodings = ("listwise",)  # type: ignore[attr-defined]
    found = find_readings(Reranker(engine=engine), ModelConfig())
    assert {reading.decoding for reading in found.values()} == {"listwise"}


def test_a_prompt_that_does_not_fit_the_model_is_left_out() -> None:
    served = Reranker(engine=ScriptedEngine([], context=64, tokenizer=WordTokenizer()), decoding="pointwise")
    found = find_readings(served, ModelConfig())
    assert {reading.decoding for reading in found.values()} >= {"pointwise", "inline"}
    served = Reranker(engine=ScriptedEngine([], context=30), decoding="pointwise")
    assert "listwise/listwise" not in find_readings(served, ModelConfig()), "no room for an answer of a window"


def test_the_first_stage_of_a_cascade_can_stand_beside_it() -> None:
    first = Reranker(engine=OracleEngine({}), decoding="pointwise")
    cascade = Cascade(first, Reranker(engine=first.engine, decoding="inline"))
    found = find_readings(cascade, ModelConfig())
    assert (found[SERVED].decoding, found[SERVED].then, found[SERVED].shows) == ("pointwise", "inline", first)
    assert "pointwise/pointwise" in found
