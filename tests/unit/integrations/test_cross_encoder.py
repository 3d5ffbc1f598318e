from __future__ import annotations

import inspect
import logging
import random
from typing import Any

import pytest

np: Any = pytest.importorskip("numpy", reason="numpy is not installed: pip install 'genrank[search]'")

from genrank import BudgetError, Cascade, EngineError, InputError, Listing, Reranker  # noqa: E402
from genrank.integrations.cross_encoder import GenrankCrossEncoder  # noqa: E402
from genrank.testing import OracleEngine, ScriptedEngine  # noqa: E402
from tests.unit.integrations.conftest import run_page  # noqa: E402

DOCUMENTS = ["Blue coat", "Red wool dress", "Red cotton dress"]


class Reading(ScriptedEngine):
    """Scores a listing by how many of the wanted words its prompt holds."""

    def __init__(self, *wanted: str) -> None:
        super().__init__(self._score)
        self._wanted = wanted

    def _score(self, request: Any) -> list[list[float]]:
        text = self.tokenizer.decode(request.ids)
        odds = float(sum(word in text for word in self._wanted))
        return [[odds, *[0.0] * (len(request.targets) - 1)]]


def encoder(*wanted: str, **options: Any) -> GenrankCrossEncoder:
    return GenrankCrossEncoder(
        Reranker(engine=Reading(*(wanted or ("dress", "cotton"))), decoding="pointwise"), **options
    )


def test_the_signatures_are_those_of_sentence_transformers() -> None:
    theirs: Any = pytest.importorskip("sentence_transformers", reason="pip install 'genrank[rankers]'").CrossEncoder
    for method in ("predict", "rank"):
        real = inspect.signature(inspect.unwrap(getattr(theirs, method))).parameters
        ours = inspect.signature(getattr(GenrankCrossEncoder, method)).parameters
        assert [name for name in real if name != "kwargs"] == list(ours)
        for name, parameter in ours.items():
            assert parameter.kind == real[name].kind
            if name != "batch_size":  # theirs is of one forward pass
                assert parameter.default == real[name].default, name


def test_pairs_are_scored_in_their_order() -> None:
    scores = encoder().predict([("clothes", document) for document in DOCUMENTS])
    assert isinstance(scores, np.ndarray)
    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    assert list(np.argsort(-scores)) == [2, 1, 0]
    assert ((scores >= 0) & (scores <= 1)).all()


def test_pairs_of_one_query_are_ranked_together_wherever_they_stand() -> None:
    engine = OracleEngine({"document-0": 1, "document-1": 2})
    model = GenrankCrossEncoder(Reranker(engine=engine, decoding="listwise"))
    pairs = [("red", "a"), ("blue", "b"), ("red", "c"), ("blue", "d")]
    scores = model.predict(pairs)
    assert len(engine.requests) == 2
    assert scores[2] > scores[0]
    assert scores[3] > scores[1]
    assert (scores[0], scores[2]) == (scores[1], scores[3])


def test_batches_never_part_a_query() -> None:
    draw = random.Random(1)
    pairs = [(f"query {draw.randrange(6)}", f"dress {i}") for i in range(40)]
    engine = OracleEngine({f"document-{i}": float(i) for i in range(40)})
    one = GenrankCrossEncoder(Reranker(engine=engine, decoding="listwise", window=40, strategy="single"))
    whole = one.predict(pairs)
    for size in (1, 7, 40, 1000):
        assert (one.predict(pairs, batch_size=size, show_progress_bar=True) == whole).all()


def test_a_pair_alone_has_a_score_alone() -> None:
    model = encoder()
    for pair in (("clothes", DOCUMENTS[0]), ["clothes", DOCUMENTS[0]], np.array(["clothes", DOCUMENTS[0]])):
        score = model.predict(pair)
        assert isinstance(score, np.float32)
        assert score == model.predict([("clothes", DOCUMENTS[0])])[0]


def test_no_pairs_have_no_scores() -> None:
    scores = encoder().predict([])
    assert (scores.dtype, scores.shape) == (np.float32, (0,))
    assert encoder().rank("clothes", []) == []


def test_arrays_and_tuples_are_lists_of_pairs() -> None:
    pairs = [["clothes", document] for document in DOCUMENTS]
    model = encoder()
    expected = model.predict(pairs)
    for given in (np.array(pairs), tuple(pairs), iter(pairs), [np.array(pair) for pair in pairs]):
        assert (model.predict(given) == expected).all()


def test_documents_are_ranked_best_first() -> None:
    found = encoder().rank("clothes", DOCUMENTS)
    assert [one["corpus_id"] for one in found] == [2, 1, 0]
    assert all(set(one) == {"corpus_id", "score"} for one in found)
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert [type(one["score"]) for one in found] == [float] * 3
    best = encoder().rank("clothes", DOCUMENTS, top_k=1, return_documents=True)
    assert best == [{**found[0], "text": DOCUMENTS[2]}]
    assert len(encoder().rank("clothes", DOCUMENTS, top_k=9)) == 3


def test_the_scores_of_rank_are_those_of_predict() -> None:
    model = encoder()
    scores = model.predict([("clothes", document) for document in DOCUMENTS])
    for one in model.rank("clothes", DOCUMENTS):
        assert one["score"] == pytest.approx(float(scores[one["corpus_id"]]))


def test_documents_without_visible_text_come_last_with_0() -> None:
    documents = ["", "Blue coat", " \n", "Red dress"]
    found = encoder().rank("clothes", documents)
    assert [one["corpus_id"] for one in found] == [3, 1, 0, 2]
    assert [one["score"] for one in found[2:]] == [0.0, 0.0]
    assert list(encoder().predict([("clothes", document) for document in documents])[[0, 2]]) == [0.0, 0.0]
    assert encoder().rank("clothes", ["", ""], top_k=1) == [{"corpus_id": 0, "score": 0.0}]
    assert list(encoder().predict([("clothes", "")])) == [0.0]


def test_equal_documents_are_scored_alike() -> None:
    scores = encoder().predict([("clothes", "Red dress"), ("clothes", "Red dress"), ("clothes", "Coat")])
    assert scores[0] == scores[1] > scores[2]


def test_a_document_may_have_fields() -> None:
    listing = Listing("p1", "Dress", attributes={"material": "cotton"})
    documents: list[Any] = [{"title": "Dress", "material": "cotton"}, listing, listing, "Dress"]
    found = encoder().rank("clothes", documents, return_documents=True)
    assert [one["corpus_id"] for one in found] == [0, 1, 2, 3]
    assert found[0]["score"] == found[2]["score"] > found[3]["score"]
    assert found[1]["text"] is listing


def test_tensors_are_given_where_they_are_asked_for() -> None:
    torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install 'genrank[transformers]'")
    pairs = [("clothes", document) for document in DOCUMENTS]
    model = encoder()
    expected = model.predict(pairs)
    one = model.predict(pairs, convert_to_tensor=True)
    assert isinstance(one, torch.Tensor)
    assert one.dtype == torch.float32
    assert (one.numpy() == expected).all()
    several = model.predict(pairs, convert_to_numpy=False)
    assert isinstance(several, list)
    assert [float(score) for score in several] == [float(score) for score in expected]
    assert model.predict(pairs[0], convert_to_tensor=True).shape == ()
    assert model.predict([], convert_to_tensor=True).shape == (0,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "Judge: "}, r"prompt: must be None, got 'Judge: '; .*Reranker\(prompt="),
        ({"prompt_name": "shop"}, r"prompt_name: must be None, got 'shop'; .*Reranker\(prompt="),
        ({"activation_fn": max}, "activation_fn: must be None, .* leave it out"),
        ({"device": "cuda"}, "device: must be None, got 'cuda'; .* leave it out"),
        ({"pool": {}}, "pool: must be None, got {}; .* leave it out"),
        ({"chunk_size": 3}, "chunk_size: must be None, got 3; .* leave it out"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
    ],
)
def test_what_the_reranker_decides_is_refused(options: dict[str, Any], said: str) -> None:
    for call in (encoder().predict, encoder().rank):
        arguments: list[Any] = [[("a", "b")]] if call.__name__ == "predict" else ["a", ["b"]]
        with pytest.raises(InputError, match=said):
            call(*arguments, **options)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([("a", "b", "c")], r"inputs\[0\]: must be a pair of query and document, got"),
        (["a", "b", "c"], r"inputs\[0\]: must be a pair"),
        ([("a", "b"), "c"], r"inputs\[1\]: must be a pair of query and document, got 'c'"),
        ([("a", "b"), ("", "c")], r"inputs\[1\].query: must hold a visible character"),
        ([(1, "b")], r"inputs\[0\].query: must be a Query or text, got int"),
        ([("a", 7)], r"inputs\[0\]\[1\]: must be text, a dict of fields or a Listing, got 7"),
        ({"a": "b"}, "inputs: must be a list of pairs, got dict"),
    ],
)
def test_wrong_pairs_are_named(inputs: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        encoder().predict(inputs)


def test_wrong_arguments_of_rank_are_named() -> None:
    with pytest.raises(InputError, match="top_k: "):
        encoder().rank("a", ["b"], top_k=0)
    with pytest.raises(InputError, match="documents: must be a list of documents, got str"):
        encoder().rank("a", "b")
    with pytest.raises(InputError, match="query: must hold a visible character"):
        encoder().rank(" ", [])
    with pytest.raises(
        InputError, match=r"reranker: must be a Reranker or Cascade, got 'm'; write GenrankCrossEncoder\("
    ):
        GenrankCrossEncoder("m")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="deadline"):
        encoder(deadline=-1)


def test_a_cascade_will_do() -> None:
    first = Reranker(engine=Reading("dress"), decoding="pointwise")
    second = Reranker(engine=Reading("cotton"), decoding="pointwise")
    found = GenrankCrossEncoder(Cascade(first, second, top=2)).rank("clothes", DOCUMENTS)
    assert [one["corpus_id"] for one in found] == [2, 1, 0]


def test_a_model_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine = ScriptedEngine(lambda _: EngineError("out of memory"))
    model = GenrankCrossEncoder(Reranker(engine=engine, decoding="pointwise"))
    with caplog.at_level(logging.WARNING, "genrank"):
        scores = model.predict([("secret", "a"), ("secret", "b")])
    assert scores[0] >= scores[1]
    (record,) = [one for one in caplog.records if one.name == "genrank.integrations.cross_encoder"]
    assert "engine-error" in record.getMessage()
    assert "secret" not in caplog.text


def test_the_rerankers_errors_are_raised() -> None:
    with pytest.raises(BudgetError):
        GenrankCrossEncoder(Reranker(engine=OracleEngine({}), decoding="inline", max_prompt_tokens=40)).rank(
            "a", ["b c d"] * 20
        )
    model = encoder()
    model.reranker.close()
    with pytest.raises(EngineError, match="closed"):
        model.predict([("a", "b")])


def test_sentence_transformers_own_evaluator_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation: Any = pytest.importorskip(
        "sentence_transformers.cross_encoder.evaluation", reason="pip install 'genrank[rankers]'"
    )
    samples = [{"query": "clothes", "positive": [DOCUMENTS[2]], "negative": DOCUMENTS[:2]}]
    program = evaluation.CrossEncoderRerankingEvaluator(samples, at_k=3, write_csv=False, show_progress_bar=False)
    monkeypatch.setattr(program, "store_metrics_in_model_card_data", lambda *_: None)  # of a model to be published
    assert program(encoder())["mrr@3"] == 1.0
    assert program(encoder("coat", "Red wool"))["mrr@3"] < 1.0


def test_the_page_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ranker = Reranker(engine=Reading("dress", "cotton"), decoding="pointwise")
    monkeypatch.setattr("genrank.Reranker", lambda: ranker)
    names = run_page("In place of a cross-encoder")
    assert names["scores"][1] > names["scores"][0]
    assert [one["text"] for one in names["best"]] == ["Red cotton dress"]
