from __future__ import annotations

import asyncio
import copy
import re
from typing import Any

import pytest
from pydantic import Field

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed: pip install 'genrank[llamaindex]'")

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent

from genrank.errors import EngineError, InputError
from genrank.integrations.llamaindex import GenrankPostprocessor
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Ranking
from tests.unit.integrations.conftest import GRADES, HISTORY, MeetingEngine, prompts, run_page


def nodes() -> list[NodeWithScore]:
    dress = TextNode(
        text="A dress for warm days.",
        id_="dress",
        metadata={"title": "Red dress", "brand": "Acme", "size": None, "margin": 0.4},
        excluded_llm_metadata_keys=["margin"],
    )
    found = [
        TextNode(text="Blue coat", id_="coat"),
        TextNode(text="", id_="nothing"),
        dress,
        TextNode(text="Red hat", metadata={"listing_id": "hat"}),
    ]
    return [NodeWithScore(node=node, score=1 - i / 4) for i, node in enumerate(found)]


def oracle(**options: Any) -> GenrankPostprocessor:
    return GenrankPostprocessor(reranker=Reranker(engine=OracleEngine(GRADES)), **options)


class Shop(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return nodes()


class Heard(BaseEventHandler):
    events: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **_: Any) -> None:
        self.events.append(event)


def ranks(found: list[NodeWithScore]) -> list[int]:
    return [one.node.metadata["genrank"]["source_rank"] for one in found]


def test_nodes_come_in_the_models_order() -> None:
    found = oracle().postprocess_nodes(nodes(), query_str="red dress")
    assert ranks(found) == [3, 4, 1, 2]
    scores = [one.get_score(raise_error=True) for one in found]
    assert scores == sorted(scores, reverse=True)
    awaited = asyncio.run(oracle().apostprocess_nodes(nodes(), QueryBundle("red dress")))
    assert [(one.text, one.score) for one in awaited] == [(one.text, one.score) for one in found]


def test_a_query_engine_uses_it() -> None:
    engine = RetrieverQueryEngine.from_args(Shop(), llm=MockLLM(), node_postprocessors=[oracle(top_n=2)])
    assert ranks(engine.query("red dress").source_nodes) == [3, 4]
    assert ranks(asyncio.run(engine.aquery("red dress")).source_nodes) == [3, 4]


def test_nodes_are_copied_and_metadata_kept() -> None:
    given = nodes()
    before = copy.deepcopy(given)
    first, *_ = oracle().postprocess_nodes(given, query_str="red dress")
    assert given == before
    assert first.node.node_id == "dress"
    assert {key: value for key, value in first.node.metadata.items() if key != "genrank"} == given[2].node.metadata
    assert first.node.metadata["genrank"] == {"rank": 1, "source_rank": 3, "outcome": "model"}


def test_what_genrank_says_is_not_shown_to_other_models() -> None:
    first, *_ = oracle().postprocess_nodes(nodes(), query_str="red dress")
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert "genrank" not in first.node.get_content(mode)
    assert first.node.excluded_llm_metadata_keys == ["margin", "genrank"]
    again, *_ = oracle().postprocess_nodes([first], query_str="red dress")
    assert again.node.excluded_llm_metadata_keys == ["margin", "genrank"]


def test_metadata_that_a_node_hides_is_not_read() -> None:
    engine = OracleEngine(GRADES)
    GenrankPostprocessor(reranker=Reranker(engine=engine)).postprocess_nodes(nodes()[2:3], query_str="red dress")
    (prompt,) = prompts(engine)
    assert "Acme" in prompt
    assert "margin" not in prompt


def test_events_tell_of_each_ranking() -> None:
    dispatcher, heard = get_dispatcher(), Heard()
    dispatcher.add_event_handler(heard)
    try:
        found = oracle(top_n=2).postprocess_nodes(nodes(), query_str="red dress")
        asyncio.run(oracle().apostprocess_nodes(nodes(), query_str="red dress"))
    finally:
        dispatcher.event_handlers.remove(heard)
    starts = [event for event in heard.events if isinstance(event, ReRankStartEvent)]
    ends = [event for event in heard.events if isinstance(event, ReRankEndEvent)]
    assert [(one.query, one.model_name, one.top_n, len(one.nodes)) for one in starts] == [
        ("red dress", "oracle", 2, 4),
        ("red dress", "oracle", 4, 4),
    ]
    assert ends[0].nodes == found
    assert len(ends[1].nodes) == 4


def test_no_nodes() -> None:
    lazy = GenrankPostprocessor(options={"model": "no/such-model"})
    assert lazy.postprocess_nodes([], query_str="red dress") == []
    assert asyncio.run(lazy.apostprocess_nodes([], query_str="red dress")) == []


def test_repeated_nodes_all_survive() -> None:
    assert ranks(oracle().postprocess_nodes(nodes()[2:3] * 3, query_str="red dress")) == [1, 2, 3]


def test_reasons_are_in_the_metadata() -> None:
    first, second, *_ = oracle(reasons=1).postprocess_nodes(nodes(), query_str="red acme dress")
    assert first.node.metadata["genrank"]["reason"]
    assert "brand" in first.node.metadata["genrank"]["evidence"]
    assert "reason" not in second.node.metadata["genrank"]


def test_a_history_or_a_function_that_finds_it() -> None:
    engine = OracleEngine(GRADES)
    plain = GenrankPostprocessor(reranker=Reranker(engine=engine))
    for one in (plain, plain.model_copy(update={"history": lambda query: HISTORY if "dress" in query else ()})):
        one.postprocess_nodes(nodes()[:1], query_str="red dress")
    assert ["Green scarf" in prompt for prompt in prompts(engine)] == [False, True]


def test_a_fallback_and_the_provenance_are_visible() -> None:
    seen: list[Ranking] = []
    broken = Reranker(engine=ScriptedEngine([EngineError("out of memory")]))
    found = GenrankPostprocessor(reranker=broken, on_ranking=seen.append).postprocess_nodes(nodes(), query_str="dress")
    assert ranks(found) == [1, 3, 4, 2]
    assert found[0].node.metadata["genrank"]["outcome"] == "fallback"
    assert seen[0].provenance.cause == "engine-error"


def test_async_is_async() -> None:
    async def ranked() -> list[list[NodeWithScore]]:
        waiting = GenrankPostprocessor(reranker=Reranker(engine=MeetingEngine()))
        return [*await asyncio.gather(*(waiting.apostprocess_nodes(nodes()[:1], query_str=query) for query in "ab"))]

    found = asyncio.run(ranked())
    assert [one[0].node.metadata["genrank"]["outcome"] for one in found] == ["model", "model"]


def test_it_is_written_down_and_read_again() -> None:
    options = {"model": "qwen2.5-coder-0.5b", "decoding": "inline"}
    made = GenrankPostprocessor(options=options, top_n=3, reasons=1, history=HISTORY, metadata_fields=["brand"])
    again = GenrankPostprocessor.from_json(made.to_json())
    assert again.to_dict() == made.to_dict()
    assert (again.options, again.top_n, again.reasons, again.history) == (options, 3, 1, HISTORY)
    assert made.to_dict()["class_name"] == "GenrankPostprocessor"
    with pytest.raises(TypeError):
        oracle().to_json()


@pytest.mark.usefixtures("oracle_opens")
def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("LlamaIndex", retriever=Shop(), llm=MockLLM())
    assert re.findall(r"'source_rank': (\d)", capsys.readouterr().out) == ["3", "4", "1", "2"]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match="top_n: must be at least 1, got 0"):
        oracle(top_n=0)
    with pytest.raises(InputError, match=r"options\.modle: Reranker has no such argument"):
        GenrankPostprocessor(options={"modle": "m"})
    with pytest.raises(InputError, match="query_bundle: this argument is required"):
        oracle().postprocess_nodes(nodes())
    closed = GenrankPostprocessor(options={})
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.postprocess_nodes(nodes(), query_str="red dress")
