"""The transformer in PyTerrier's own pipelines and under its own tests; none of it needs Java."""

from __future__ import annotations

import os
import unittest
from typing import Any

import pytest

pd: Any = pytest.importorskip("pandas", reason="pandas is not installed: pip install 'genrank[pyterrier]'")
pt: Any = pytest.importorskip("pyterrier", reason="pyterrier is not installed: pip install 'genrank[pyterrier]'")

from pyterrier.testing import transformer_test_class  # noqa: E402

from genrank import BudgetError, EngineError, InputError, Reranker  # noqa: E402
from genrank.engines.base import Stop, TextResult, never  # noqa: E402
from genrank.integrations.pyterrier import GenrankTransformer  # noqa: E402
from genrank.testing import OracleEngine, ScriptedEngine  # noqa: E402
from genrank.types import Tokens  # noqa: E402
from tests.unit.integrations.conftest import run_page  # noqa: E402

os.environ.setdefault("PT_TEST_TRANSFORMER_REPORTS", "0")  # they are warnings

GRADES = {"d1": 1.0, "d2": 3.0, "d3": 2.0, "d4": 4.0}


class Oracle(OracleEngine):
    """Knows the grades, and writes one reason."""

    def write(self, requests: Any, *, stop: Stop = never) -> list[TextResult | None]:
        self.requests += requests
        return [TextResult("It is red.", Tokens()) for _ in requests]


def transformer(**options: Any) -> GenrankTransformer:
    return GenrankTransformer(Reranker(engine=Oracle(GRADES), decoding="pointwise"), **options)


def results(*rows: tuple[str, str], **columns: list[Any]) -> Any:
    """A frame of results: pairs of qid and docno."""
    frame = {
        "qid": [qid for qid, _ in rows],
        "query": [f"query {qid}" for qid, _ in rows],
        "docno": [docno for _, docno in rows],
        "text": [f"Dress {docno}" for _, docno in rows],
    }
    return pd.DataFrame(frame | columns)


def prompts(ranker: GenrankTransformer) -> list[str]:
    engine: Any = ranker.reranker.engine  # type: ignore[union-attr]
    return [engine.tokenizer.decode(request.ids) for request in engine.requests]


# PyTerrier's own tests of a transformer
TestConformance: type[unittest.TestCase] = transformer_test_class(transformer)
TestConformanceWithReasons: type[unittest.TestCase] = transformer_test_class(lambda: transformer(reasons=1))


def test_rows_are_ranked_within_their_queries() -> None:
    frame = results(("2", "d1"), ("1", "d1"), ("1", "d2"), ("2", "d4"), ("1", "d3"))
    before = frame.copy()
    found = transformer()(frame)
    assert list(zip(found.qid, found.docno, found["rank"], strict=True)) == [
        ("2", "d4", 0),
        ("2", "d1", 1),
        ("1", "d2", 0),
        ("1", "d3", 1),
        ("1", "d1", 2),
    ]
    assert found.score.between(0, 1).all()
    assert found.score.dtype == float
    assert list(found.outcome) == ["model"] * 5
    assert list(found.columns) == ["qid", "query", "docno", "text", "score", "outcome", "rank"]
    pd.testing.assert_frame_equal(frame, before)


def test_it_stands_in_a_pipeline() -> None:
    frame = results(("1", "d1"), ("1", "d2"), ("1", "d3"), score=[3.0, 2.0, 1.0], rank=[0, 1, 2], docid=[7, 8, 9])
    retriever = pt.Transformer.from_df(frame)
    found = (retriever >> transformer() % 2).search("query 1")
    assert list(found.docno) == ["d2", "d3"]
    assert list(found.docid) == [8, 9]
    topics = pd.DataFrame([["1", "query 1"]], columns=["qid", "query"])
    qrels = pd.DataFrame([["1", "d2", 1]], columns=["qid", "docno", "label"])
    systems = [retriever, retriever >> transformer()]
    table = pt.Experiment(systems, topics, qrels, ["recip_rank"], names=["a", "b"], plan="tree")
    assert list(table["recip_rank"]) == [0.5, 1.0]


@pytest.mark.parametrize("docnos", [["d7", "d8", "d9"], ["d9", "d8", "d7"]])
def test_measures_see_the_order_of_equal_scores(docnos: list[str]) -> None:
    """PyTerrier's measures order equal scores by docno, so there are none."""
    frame = results(*(("1", docno) for docno in docnos))
    found = transformer()(frame)
    assert list(found.docno) == docnos
    qrels = pd.DataFrame([["1", docnos[0], 1]], columns=["qid", "docno", "label"])
    assert pt.Evaluate(found, qrels, metrics=["recip_rank"])["recip_rank"] == 1.0
    assert list(found.score) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("columns", [{}, {"score": [], "rank": [], "title": [], "history": []}])
def test_empty_frames_have_all_columns(columns: dict[str, list[Any]]) -> None:
    found = transformer(reasons=1)(results(**columns))
    assert len(found) == 0
    assert {"qid", "docno", "score", "rank", "outcome", "reason", "evidence"} <= set(found.columns)
    assert (found.score.dtype, found["rank"].dtype) == (float, "int64")


def test_missing_columns_are_named() -> None:
    frame = results(("1", "d1"))
    for column in ("qid", "query", "docno", "text"):
        with pytest.raises(pt.validate.InputValidationError, match=column):
            transformer()(frame.drop(columns=[column]))
    with pytest.raises(pt.validate.InputValidationError, match="abstract"):
        transformer(text_field="abstract")(frame)


def test_fields_reach_the_prompt_and_other_columns_do_not() -> None:
    columns: dict[str, list[Any]] = {
        "title": ["Red dress"],
        "brand": ["Acme"],
        "price": [39.0],
        "currency": ["EUR"],
        "rating": [float("nan")],
        "season": ["summer"],
        "docid": [4711],
    }
    ranker = transformer()
    ranker(results(("1", "d1"), **columns))
    (prompt,) = prompts(ranker)
    for word in ("Red dress", "brand: Acme", "39", "EUR", "Dress d1"):
        assert word in prompt
    for word in ("summer", "4711", "rated"):
        assert word not in prompt
    ranker = transformer(fields=["season"], text_field="title")
    ranker(results(("1", "d1"), **columns))
    (prompt,) = prompts(ranker)
    assert "Red dress" in prompt
    assert "season: summer" in prompt
    assert "Acme" not in prompt
    assert "Dress d1" not in prompt


def test_histories_and_reasons_are_columns() -> None:
    past = [{"event": "purchase", "listing": {"listing_id": "h", "title": "Straw hat"}}]
    frame = results(("1", "d1"), ("1", "d2"), ("2", "d1"), history=[past, past, float("nan")])
    frame["text"] = ["A red dress"] * 3
    ranker = transformer(reasons=1, batch=1)
    found = ranker(frame)
    assert ["Straw hat" in prompt for prompt in prompts(ranker)] == [True, True, True, False, False]  # a reason each
    reasons = list(zip(found.docno, found.reason, found.evidence, strict=True))
    assert [(docno, reason is None) for docno, reason, _ in reasons] == [("d2", False), ("d1", True), ("d1", False)]
    assert reasons[1][2] == []
    assert "history" in found.columns


def test_reasons_rest_on_evidence() -> None:
    frame = results(("1", "d2"))
    frame["query"], frame["text"] = "red", "A red dress"
    found = transformer(reasons=1)(frame)
    assert list(found.reason) == ["It is red."]
    assert list(found.evidence) == [["title"]]


def test_nothing_is_lost() -> None:
    rows = (("1", "d1"), ("1", "d1"), ("1", "x y"), ("1", "d2"), ("1", "d5"), ("2", "d6"))
    frame = results(*rows)
    frame["text"] = ["Dress", "Dress", "Dress", "Dress", " ", None]
    found = transformer()(frame)
    assert sorted(zip(found.qid, found.docno, strict=True)) == sorted(rows)
    assert found.docno[0] == "d2"
    assert list(found.docno)[4:] == ["d5", "d6"]
    assert list(found["rank"]) == [0, 1, 2, 3, 4, 0]
    assert list(found.score)[4:] == pytest.approx([0, 0])


def test_the_first_stage_is_the_rank_column() -> None:
    engine = ScriptedEngine(lambda _: EngineError("out of memory"))
    ranker = GenrankTransformer(Reranker(engine=engine, decoding="pointwise"))
    frame = results(("1", "d1"), ("1", "d2"), ("1", "d3"), rank=[2, 0, 1], score=[1.0, 3.0, 2.0], outcome=["x"] * 3)
    found = ranker(frame)
    assert list(found.docno) == ["d2", "d3", "d1"]
    assert list(found["rank"]) == [0, 1, 2]
    assert list(found.outcome) == ["fallback"] * 3


def test_the_first_stages_scores_can_be_blended() -> None:
    ranker = GenrankTransformer(Reranker(engine=OracleEngine({}), decoding="pointwise", blend=0.5))
    assert list(ranker(results(("1", "d1"), ("1", "d2"), score=[1.0, 3.0])).docno) == ["d2", "d1"]
    with pytest.raises(InputError, match="score"):
        ranker(results(("1", "d1")))


def test_batches_do_not_change_the_answer() -> None:
    frame = results(*((str(i % 5), f"d{i % 7}") for i in range(35)))
    one = transformer(batch=1, verbose=True)
    whole = transformer(batch=100)
    pd.testing.assert_frame_equal(one(frame), whole(frame))
    engines: list[Any] = [ranker.reranker.engine for ranker in (one, whole)]  # type: ignore[union-attr]
    assert [engine.calls for engine in engines] == [5, 1]


def test_what_is_wrong_is_named() -> None:
    frame = results(("1", "d1"), ("1", "d2"))
    frame.loc[1, "query"] = "another"
    with pytest.raises(InputError, match=r"qid 1\.query: must be the same in all rows"):
        transformer()(frame)
    frame["query"] = " "
    with pytest.raises(InputError, match=r"qid 1\.query: must hold a visible character"):
        transformer()(frame)
    with pytest.raises(InputError, match=r"qid 1\.history\[0\].event: "):
        transformer()(results(("1", "d1"), history=[[{"event": "buy", "listing": {"listing_id": "a", "title": "b"}}]]))
    for options in ({"batch": 0}, {"reasons": -1}, {"deadline": 0}, {"fields": "title"}):
        with pytest.raises(InputError, match=next(iter(options))):
            transformer(**options)
    with pytest.raises(InputError, match="reranker: must be a Reranker or Cascade, got 'm'"):
        GenrankTransformer("m")  # type: ignore[arg-type]
    with pytest.raises(BudgetError):
        GenrankTransformer(Reranker(engine=OracleEngine({}), decoding="inline", max_prompt_tokens=40))(
            results(*(("1", f"d{i}") for i in range(20)))
        )


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ranker = Reranker(engine=Oracle(GRADES), decoding="pointwise")
    monkeypatch.setattr("genrank.Reranker", lambda: ranker)
    frame = results(("1", "d1"), ("1", "d2")).assign(query="red summer dress", rank=[0, 1], score=[2.0, 1.0])
    qrels = pd.DataFrame({"qid": ["1"], "docno": ["d2"], "label": [1]})
    topics = frame[["qid", "query"]].drop_duplicates()
    run_page("PyTerrier", retriever=pt.Transformer.from_df(frame), topics=topics, qrels=qrels)
    shown = capsys.readouterr().out
    assert shown.index("d2") < shown.index("d1")
