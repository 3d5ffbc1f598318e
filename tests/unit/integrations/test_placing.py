from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from genrank.cascade import Cascade
from genrank.errors import EngineError, InputError
from genrank.integrations import placing
from genrank.integrations.listings import Document
from genrank.integrations.placing import Asked, Placing, Source, arerank, rerank
from genrank.reranker import History, Reranker
from genrank.testing import OracleEngine, ScriptedEngine
from tests.unit.integrations.conftest import GRADES, HISTORY, prompts

DOCUMENTS = [
    Document("Blue coat", {}, "coat"),
    Document(" ", {}),
    Document("Red dress", {"brand": "Acme"}, "dress"),
    Document("Red hat", {}, "hat"),
]


def oracle() -> Reranker:
    return Reranker(engine=OracleEngine(GRADES))


def _async(*arguments: Any, **options: Any) -> Placing:
    return asyncio.run(arerank(*arguments, **options))


both = pytest.mark.parametrize("call", [rerank, _async], ids=["sync", "async"])


@both
def test_documents_come_in_the_models_order_and_blank_ones_last(call: Callable[..., Placing]) -> None:
    placed = call(Source(oracle(), None), "red dress", DOCUMENTS, Asked()).placed
    assert [one.place for one in placed] == [2, 3, 0, 1]
    assert [one.score for one in placed] == sorted((one.score for one in placed), reverse=True)
    assert placed[0].notes == {"rank": 1, "source_rank": 3, "outcome": "model"}
    assert placed[3].notes == {"rank": 4, "source_rank": 2, "blank": True}
    assert placed[3].score == 0


@both
def test_top_n_reasons_and_history(call: Callable[..., Placing]) -> None:
    asked: list[str] = []

    def history(query: str) -> History:
        asked.append(query)
        return HISTORY

    engine = OracleEngine({"dress": 3})
    found = call(
        Source(Reranker(engine=engine), None),
        "red acme dress",
        DOCUMENTS,
        Asked(top_n=2, reasons=1),
        history,
    )
    assert [one.place for one in found.placed] == [2, 0]
    assert found.placed[0].notes["reason"]
    assert "brand" in found.placed[0].notes["evidence"]
    assert "reason" not in found.placed[1].notes
    assert asked == ["red acme dress"]
    assert all("Green scarf" in prompt for prompt in prompts(engine))
    assert found.ranking is not None
    assert found.ranking.provenance.model == "oracle"


@both
def test_top_n_counts_blank_documents_too(call: Callable[..., Placing]) -> None:
    placed = call(Source(oracle(), None), "dress", DOCUMENTS[:2], Asked(top_n=5)).placed
    assert [one.place for one in placed] == [0, 1]
    assert [one.place for one in call(Source(oracle(), None), "dress", DOCUMENTS[:2], Asked(top_n=1)).placed] == [0]


@both
def test_nothing_to_rank_needs_no_model(call: Callable[..., Placing]) -> None:
    source = Source(None, {"model": "no/such-model"})
    assert call(source, "dress", [], Asked()) == Placing(())
    found = call(source, "dress", [Document(None, {}), Document("", {})], Asked(top_n=1))
    assert [one.place for one in found.placed] == [0]
    assert found.ranking is None


@both
def test_a_failing_engine_is_visible(call: Callable[..., Placing]) -> None:
    source = Source(Reranker(engine=ScriptedEngine([EngineError("out of memory")])), None)
    notes = [one.notes for one in call(source, "dress", DOCUMENTS[2:], Asked()).placed]
    assert notes[0] == {
        "rank": 1,
        "source_rank": 1,
        "outcome": "fallback",
        "cause": "engine-error",
        "why": "the engine failed: out of memory; what no window ranked stands in the first stage's order",
        "stand_in": "first-stage",
    }
    assert notes[1]["source_rank"] == 2


def test_a_cascade_ranks_too() -> None:
    with Cascade(oracle(), oracle(), top=2) as cascade:
        assert [one.place for one in rerank(Source(cascade, None), "dress", DOCUMENTS, Asked()).placed] == [2, 3, 0, 1]


def test_options_open_a_reranker_once_and_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Opened(Reranker):
        def __init__(self, **options: Any) -> None:
            opened.append(options)
            super().__init__(engine=OracleEngine({}), decoding=options["decoding"])

    source = Source(None, {"model": "m", "decoding": "inline"})
    monkeypatch.setattr(placing, "Reranker", Opened)
    assert opened == []
    reranker = source.open()
    assert source.open() is asyncio.run(source.aopen()) is reranker
    assert opened == [{"model": "m", "decoding": "inline"}]
    source.close()
    with pytest.raises(EngineError, match="closed; create a new one"):
        source.open()
    with pytest.raises(EngineError, match="the reranker is closed"):
        reranker.rerank("dress", ["a"])


def test_a_reranker_that_was_passed_stays_open() -> None:
    reranker = oracle()
    source = Source(reranker, None)
    source.close()
    assert source.open() is reranker
    assert len(reranker.rerank("dress", ["a"])) == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Source(oracle(), {}), "options"),
        (lambda: Source("qwen", None), "reranker"),  # type: ignore[arg-type]
        (lambda: Source(None, "qwen"), "options"),  # type: ignore[arg-type]
        (lambda: Source(None, {"modle": "m"}), "options.modle"),
        (lambda: Asked(top_n=0), "top_n"),
        (lambda: Asked(reasons=-1), "reasons"),
        (lambda: Asked(metadata_fields="title"), "metadata_fields"),
        (lambda: placing.check_history([{"event": "bought"}]), "history[0].event"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.field == field
