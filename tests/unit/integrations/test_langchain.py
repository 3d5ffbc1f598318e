from __future__ import annotations

import asyncio
import copy
import re
from typing import Any

import pytest

pytest.importorskip("langchain_core", reason="langchain-core is not installed: pip install 'genrank[langchain]'")
pytest.importorskip("langchain_classic", reason="langchain-classic is not installed: pip install 'genrank[dev]'")
pytest.importorskip("langchain_tests", reason="langchain-tests is not installed: pip install 'genrank[dev]'")

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from genrank.errors import EngineError, InputError
from genrank.integrations.langchain import GenrankCompressor
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, ScriptedEngine
from genrank.types import Ranking
from tests.unit.integrations.conftest import GRADES, HISTORY, MeetingEngine, prompts, run_page

DOCUMENTS = [
    Document("Blue coat", id="coat"),
    Document("", id="nothing", metadata={"brand": None}),
    Document("A dress for warm days.", id="dress", metadata={"title": "Red dress", "brand": "Acme", "size": None}),
    Document("Red hat", metadata={"listing_id": "hat"}),
]


class Shop(BaseRetriever):
    """Finds the same documents for every query, the first `k`."""

    k: int = 4

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return DOCUMENTS[: self.k]


def compressor(**options: Any) -> GenrankCompressor:
    return GenrankCompressor(reranker=Reranker(engine=OracleEngine(GRADES)), **options)


class Reranked(ContextualCompressionRetriever):
    """A shop whose documents are reranked; `top_n` is the compressor's."""

    def __init__(self, top_n: int | None = None) -> None:
        super().__init__(base_compressor=compressor(top_n=top_n), base_retriever=Shop())


@pytest.mark.anyio
class TestLangChainsOwnTests(RetrieversIntegrationTests):
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return Reranked

    @property
    def retriever_query_example(self) -> str:
        return "red dress"

    @property
    def num_results_arg_name(self) -> str:
        return "top_n"

    @pytest.mark.xfail(reason="ContextualCompressionRetriever passes arguments of invoke to its retriever alone")
    def test_invoke_with_k_kwarg(self) -> None:  # type: ignore[override]
        raise NotImplementedError


def test_a_retriever_reranks() -> None:
    found = Reranked().invoke("red dress")
    assert [one.id for one in found] == ["dress", None, "coat", "nothing"]
    assert found == asyncio.run(Reranked().ainvoke("red dress"))


def test_documents_are_copied_and_metadata_kept() -> None:
    before = copy.deepcopy(DOCUMENTS)
    first, *_ = compressor().compress_documents(DOCUMENTS, "red dress")
    assert before == DOCUMENTS
    assert first is not DOCUMENTS[2]
    assert (first.page_content, first.id) == ("A dress for warm days.", "dress")
    score = first.metadata.pop("relevance_score")
    assert 0.8 < score <= 1
    assert first.metadata.pop("genrank") == {"rank": 1, "source_rank": 3, "outcome": "model"}
    assert first.metadata == DOCUMENTS[2].metadata


def test_no_documents() -> None:
    assert compressor().compress_documents([], "red dress") == []
    assert asyncio.run(compressor().acompress_documents([], "red dress")) == []


def test_repeated_documents_all_survive() -> None:
    found = compressor().compress_documents([DOCUMENTS[2]] * 3, "red dress")
    assert [one.metadata["genrank"]["source_rank"] for one in found] == [1, 2, 3]


def test_reasons_are_in_the_metadata() -> None:
    first, second, *_ = compressor(reasons=1).compress_documents(DOCUMENTS, "red acme dress")
    assert "Red" in first.metadata["genrank"]["reason"] or "Acme" in first.metadata["genrank"]["reason"]
    assert "brand" in first.metadata["genrank"]["evidence"]
    assert "reason" not in second.metadata["genrank"]


def test_a_history_or_a_function_that_finds_it() -> None:
    engine = OracleEngine(GRADES)
    ranked = GenrankCompressor(reranker=Reranker(engine=engine))
    for other in (ranked, ranked.model_copy(update={"history": lambda query: HISTORY if "dress" in query else ()})):
        other.compress_documents(DOCUMENTS[:1], "red dress")
    assert ["Green scarf" in prompt for prompt in prompts(engine)] == [False, True]


def test_a_fallback_and_the_provenance_are_visible() -> None:
    seen: list[Ranking] = []
    broken = Reranker(engine=ScriptedEngine([EngineError("out of memory")]))
    found = GenrankCompressor(reranker=broken, on_ranking=seen.append).compress_documents(DOCUMENTS, "red dress")
    assert [one.id for one in found] == ["coat", "dress", None, "nothing"]
    assert found[0].metadata["genrank"]["outcome"] == "fallback"
    assert "out of memory" in found[0].metadata["genrank"]["why"]
    assert seen[0].provenance.cause == "engine-error"


def test_async_is_async() -> None:
    async def ranked() -> list[list[Document]]:
        waiting = GenrankCompressor(reranker=Reranker(engine=MeetingEngine()))
        return [*await asyncio.gather(*(waiting.acompress_documents(DOCUMENTS[:1], query) for query in ("a", "b")))]

    found = asyncio.run(ranked())
    assert [[one.metadata["genrank"]["outcome"] for one in documents] for documents in found] == [["model"]] * 2


def test_options_are_read_at_the_first_call() -> None:
    lazy = GenrankCompressor(options={"model": "no/such model"})
    assert lazy.options == {"model": "no/such model"}
    with pytest.raises(InputError) as caught:
        GenrankCompressor(options={"engin": "http://127.0.0.1:8000/v1"})
    assert caught.value.field == "options.engin"
    lazy.close()
    with pytest.raises(EngineError, match="closed"):
        lazy.compress_documents(DOCUMENTS, "red dress")


@pytest.mark.usefixtures("oracle_opens")
def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("LangChain", retriever=Shop())
    assert re.findall(r"'source_rank': (\d)", capsys.readouterr().out) == ["3", "4", "1", "2"]
    names = run_page("How do I pass the shopper's history?")
    (listing,) = [one["listing"]["title"] for one in names["compressor"].history("any")]
    assert listing == names["for_one"].history[0]["listing"]["title"] == "Linen trousers"


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(InputError, match="top_n: must be at least 1, got 0"):
        compressor(top_n=0)
    with pytest.raises(InputError, match="query: must hold a visible character"):
        compressor().compress_documents(DOCUMENTS, " ")
