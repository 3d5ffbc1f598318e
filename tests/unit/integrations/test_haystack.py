from __future__ import annotations

import asyncio
import copy
import re
from typing import Any

import pytest

pytest.importorskip("haystack", reason="haystack-ai is not installed: pip install 'genrank[haystack]'")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from genrank.errors import ConfigError, EngineError, InputError
from genrank.integrations import placing
from genrank.integrations.haystack import GenrankRanker
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine
from tests.unit.integrations.conftest import GRADES, HISTORY, MeetingEngine, prompts, run_page

DOCUMENTS = [
    Document(id="coat", content="Blue coat", score=0.9),
    Document(id="nothing", content=None, meta={"brand": None}),
    Document(id="dress", content="For warm days.", meta={"title": "Red dress", "brand": "Acme", "size": None}),
    Document(id="a-hash", content="Red hat", meta={"listing_id": "hat"}),
]


def ranker(**options: Any) -> GenrankRanker:
    return GenrankRanker(reranker=Reranker(engine=OracleEngine(GRADES)), **options)


def ids(found: dict[str, Any]) -> list[str]:
    return [one.id for one in found["documents"]]


def test_documents_come_in_the_models_order() -> None:
    found = ranker().run("red dress", DOCUMENTS)
    assert ids(found) == ["dress", "a-hash", "coat", "nothing"]
    scores = [one.score for one in found["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert found["provenance"]["model"] == "oracle"
    assert found["provenance"]["outcome"] == "model"
    assert asyncio.run(ranker().run_async("red dress", DOCUMENTS))["documents"] == found["documents"]


def test_documents_are_copied_and_meta_kept() -> None:
    before = copy.deepcopy(DOCUMENTS)
    first, *_ = ranker().run("red dress", DOCUMENTS)["documents"]
    assert before == DOCUMENTS
    assert first.meta.pop("genrank") == {"rank": 1, "source_rank": 3, "outcome": "model"}
    assert (first.content, first.meta) == (DOCUMENTS[2].content, DOCUMENTS[2].meta)


def test_top_k_of_the_component_and_of_the_call() -> None:
    assert ids(ranker(top_k=2).run("red dress", DOCUMENTS)) == ["dress", "a-hash"]
    assert ids(ranker(top_k=2).run("red dress", DOCUMENTS, top_k=1)) == ["dress"]
    with pytest.raises(InputError, match="top_k: must be at least 1, got 0"):
        ranker(top_k=0)
    with pytest.raises(InputError, match="top_k: must be at least 1, got -1"):
        ranker().run("red dress", DOCUMENTS, top_k=-1)


def test_no_documents() -> None:
    lazy = GenrankRanker({"model": "no/such-model"})
    assert lazy.run("red dress", []) == {"documents": [], "provenance": {}}
    assert asyncio.run(lazy.run_async("red dress", [])) == {"documents": [], "provenance": {}}


def test_repeated_documents_all_survive() -> None:
    found = ranker().run("red dress", [DOCUMENTS[2]] * 3)["documents"]
    assert [one.meta["genrank"]["source_rank"] for one in found] == [1, 2, 3]


def test_reasons_and_a_history() -> None:
    engine = OracleEngine(GRADES)
    component = GenrankRanker(reranker=Reranker(engine=engine), reasons=1)
    first, second, *_ = component.run("red acme dress", DOCUMENTS, history=HISTORY)["documents"]
    assert first.meta["genrank"]["reason"]
    assert "brand" in first.meta["genrank"]["evidence"]
    assert "reason" not in second.meta["genrank"]
    assert all("Green scarf" in prompt for prompt in prompts(engine))


def test_a_fallback_is_visible() -> None:
    broken = Reranker(engine=ScriptedEngine([EngineError("out of memory")]))
    found = GenrankRanker(reranker=broken).run("red dress", DOCUMENTS)
    assert ids(found) == ["coat", "dress", "a-hash", "nothing"]
    assert found["documents"][0].meta["genrank"]["outcome"] == "fallback"
    assert found["provenance"]["cause"] == "engine-error"


def test_async_is_async() -> None:
    async def ranked() -> list[dict[str, Any]]:
        waiting = GenrankRanker(reranker=Reranker(engine=MeetingEngine()))
        return [*await asyncio.gather(*(waiting.run_async(query, DOCUMENTS[:1]) for query in "ab"))]

    assert [one["provenance"]["outcome"] for one in asyncio.run(ranked())] == ["model", "model"]


def pipeline(component: GenrankRanker) -> Pipeline:
    made = Pipeline()
    made.add_component("ranker", component)
    return made


def test_a_pipeline_runs_it_sync_and_async() -> None:
    data = {"ranker": {"query": "red dress", "documents": DOCUMENTS, "top_k": 2, "history": HISTORY}}
    made = pipeline(ranker())
    assert ids(made.run(data)["ranker"]) == ["dress", "a-hash"]
    assert ids(asyncio.run(made.run_async(data))["ranker"]) == ["dress", "a-hash"]


def test_a_pipeline_is_written_down_and_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"model": "qwen2.5-coder-0.5b", "engine": "http://127.0.0.1:8000/v1", "decoding": "pointwise"}
    made = pipeline(GenrankRanker(options, top_k=2, reasons=1, deadline=1.5, metadata_fields=["brand", "title"]))
    written = made.dumps()
    again = Pipeline.loads(written, allowed_modules=["genrank.integrations.*"])
    assert again.dumps() == written
    read: Any = again.get_component("ranker")
    assert (read.options, read.top_k, read.reasons, read.deadline) == (options, 2, 1, 1.5)
    assert read.metadata_fields == ["brand", "title"]
    opened = []

    def reranker(**given: Any) -> Reranker:
        opened.append(given)
        return Reranker(engine=OracleEngine(GRADES))

    monkeypatch.setattr(placing, "Reranker", reranker)
    asyncio.run(again.warm_up_async())
    assert opened == [options]
    again.warm_up()
    data = {"ranker": {"query": "red dress", "documents": DOCUMENTS}}
    assert ids(again.run(data)["ranker"])[0] == "dress"
    assert ids(asyncio.run(again.run_async(data))["ranker"])[0] == "dress"
    assert opened == [options]


def test_a_reranker_cannot_be_written_down() -> None:
    with pytest.raises(ConfigError, match="create the component with options"):
        ranker().to_dict()


@pytest.mark.usefixtures("oracle_opens")
def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=name, content=f"red {name}") for name in ("coat", "hat", "dress")])
    run_page("Haystack", retriever=InMemoryBM25Retriever(store))
    shown = capsys.readouterr().out
    assert re.findall(r"'rank': (\d)", shown) == ["1", "2", "3"]
    assert "'reason': " in shown


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"options\.modle: Reranker has no such argument"):
        GenrankRanker({"modle": "m"})
    with pytest.raises(InputError, match="options: pass either a reranker or the options of one"):
        GenrankRanker({}, reranker=Reranker(engine=OracleEngine(GRADES)))
    closed = GenrankRanker()
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.warm_up()
