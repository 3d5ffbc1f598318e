"""Calls rerank clients as their documentation shows it; runs in an environment that holds them, without genrank.

Each line on stdin is a JSON list: the name of a function below, and its keyword arguments. Each line on stdout holds
what it returned, ``{"returned": ...}``, or ``{"raised": CLASS, "message": ...}``. Most functions return pairs of a
document's place, 0-based, and its score, in the client's order.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

Rows = list[list[Any]]


def versions(names: Sequence[str]) -> list[str]:
    return [version(name) for name in names]


def cohere_v2(**asked: Any) -> Rows:
    return _cohere("ClientV2", **asked)


def cohere_v2_async(**asked: Any) -> Rows:
    return asyncio.run(_cohere_async("AsyncClientV2", **asked))


def cohere_v1(**asked: Any) -> Rows:
    return _cohere("Client", **asked)


def cohere_v1_async(**asked: Any) -> Rows:
    return asyncio.run(_cohere_async("AsyncClient", **asked))


def _cohere(kind: str, base: str, key: str, model: str, query: str, documents: list[Any], **options: Any) -> Rows:
    import cohere

    with getattr(cohere, kind)(key, base_url=base) as client:
        return _cohere_rows(client.rerank(model=model, query=query, documents=documents, **options))


async def _cohere_async(
    kind: str, base: str, key: str, model: str, query: str, documents: list[Any], **options: Any
) -> Rows:
    import cohere

    async with getattr(cohere, kind)(key, base_url=base) as client:
        return _cohere_rows(await client.rerank(model=model, query=query, documents=documents, **options))


def cohere_answer(base: str, key: str, version: int, **options: Any) -> Any:
    """The whole answer, as the client's object holds it."""
    import cohere

    client = cohere.Client(key, base_url=base) if version == 1 else cohere.ClientV2(key, base_url=base)
    with client:
        return client.rerank(**options).model_dump(mode="json")


def cohere_error(base: str, key: str, **options: Any) -> Any:
    """What the client's error holds."""
    import cohere

    with cohere.ClientV2(key, base_url=base) as client:
        try:
            client.rerank(**options)
        except cohere.core.ApiError as error:
            return {"class": type(error).__name__, "status": error.status_code, "body": error.body}
    return None


def voyage(base: str, key: str, model: str, query: str, documents: list[str], retries: int = 0, **options: Any) -> Rows:
    import voyageai

    client = voyageai.Client(api_key=key, base_url=base, max_retries=retries)
    return _voyage_rows(client.rerank(query, documents, model, **options), documents)


def voyage_async(base: str, key: str, model: str, query: str, documents: list[str], **options: Any) -> Rows:
    import voyageai

    client = voyageai.AsyncClient(api_key=key, base_url=base)
    return _voyage_rows(asyncio.run(client.rerank(query, documents, model, **options)), documents)


def langchain_cohere(base: str, key: str, model: str, query: str, documents: list[str], top_n: int | None) -> Rows:
    from langchain_cohere import CohereRerank

    ranker = CohereRerank(base_url=base, cohere_api_key=key, model=model, top_n=top_n)
    return _langchain_rows(ranker.compress_documents(_langchain_documents(documents), query))


def langchain_cohere_async(
    base: str, key: str, model: str, query: str, documents: list[str], top_n: int | None
) -> Rows:
    from langchain_cohere import CohereRerank

    ranker = CohereRerank(base_url=base, cohere_api_key=key, model=model, top_n=top_n)
    return _langchain_rows(asyncio.run(ranker.acompress_documents(_langchain_documents(documents), query)))


def langchain_jina(base: str, key: str, model: str, query: str, documents: list[str], top_n: int | None) -> Rows:
    from langchain_community.document_compressors import jina_rerank

    jina_rerank.JINA_API_URL = base  # it has no option for the address
    ranker = jina_rerank.JinaRerank(jina_api_key=key, model=model, top_n=top_n)
    return _langchain_rows(ranker.compress_documents(_langchain_documents(documents), query))


def llamaindex_cohere(base: str, key: str, model: str, query: str, documents: list[str], top_n: int) -> Rows:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _llamaindex_rows(CohereRerank(api_key=key, base_url=base, model=model, top_n=top_n), query, documents)


def llamaindex_jina(base: str, key: str, model: str, query: str, documents: list[str], top_n: int) -> Rows:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _llamaindex_rows(JinaRerank(api_key=key, base_url=base, model=model, top_n=top_n), query, documents)


def llamaindex_tei(base: str, key: str, model: str, query: str, documents: list[str], top_n: int) -> Rows:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    ranker = TextEmbeddingInference(auth_token=key, base_url=base, model_name=model, top_n=top_n)
    return _llamaindex_rows(ranker, query, documents)


def haystack_cohere(base: str, key: str, model: str, query: str, documents: list[str], top_k: int) -> Rows:
    return _haystack_rows(_haystack_ranker(base, key, model).run(query, _haystack_documents(documents), top_k))


def haystack_cohere_async(base: str, key: str, model: str, query: str, documents: list[str], top_k: int) -> Rows:
    call = _haystack_ranker(base, key, model).run_async(query, _haystack_documents(documents), top_k)
    return _haystack_rows(asyncio.run(call))


def litellm_rerank(base: str, key: str, model: str, query: str, documents: list[Any], **options: Any) -> Rows:
    import litellm

    answer = litellm.rerank(model=model, query=query, documents=documents, api_base=base, api_key=key, **options)
    return _litellm_rows(answer)


def litellm_arerank(base: str, key: str, model: str, query: str, documents: list[Any], **options: Any) -> Rows:
    import litellm

    call = litellm.arerank(model=model, query=query, documents=documents, api_base=base, api_key=key, **options)
    return _litellm_rows(asyncio.run(call))


def litellm_answer(base: str, key: str, **options: Any) -> Any:
    """The whole answer, as LiteLLM's object holds it."""
    import litellm

    return litellm.rerank(api_base=base, api_key=key, **options).model_dump(mode="json")


def _cohere_rows(answer: Any) -> Rows:
    return [[result.index, result.relevance_score] for result in answer.results]


def _voyage_rows(answer: Any, documents: Sequence[str]) -> Rows:
    assert all(result.document == documents[result.index] for result in answer.results)
    assert answer.total_tokens >= 0
    return [[result.index, result.relevance_score] for result in answer.results]


def _langchain_documents(documents: Sequence[str]) -> list[Any]:
    from langchain_core.documents import Document

    return [Document(text, metadata={"index": i}) for i, text in enumerate(documents)]


def _langchain_rows(documents: Iterable[Any]) -> Rows:
    return [[document.metadata["index"], document.metadata["relevance_score"]] for document in documents]


def _llamaindex_rows(ranker: Any, query: str, documents: Sequence[str]) -> Rows:
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(documents)]
    return [[int(node.node_id), node.score] for node in ranker.postprocess_nodes(nodes, query_str=query)]


def _haystack_ranker(base: str, key: str, model: str) -> Any:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker

    return CohereRanker(model=model, api_key=Secret.from_token(key), api_base_url=base)


def _haystack_documents(documents: Sequence[str]) -> list[Any]:
    from haystack import Document

    return [Document(content=text, meta={"index": i}) for i, text in enumerate(documents)]


def _haystack_rows(answer: Any) -> Rows:
    return [[document.meta["index"], document.score] for document in answer["documents"]]


def _litellm_rows(answer: Any) -> Rows:
    return [[result["index"], result["relevance_score"]] for result in answer.results]


def main() -> None:
    """Answer calls until stdin ends; what a library prints goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"returned": globals()[name](**arguments)}
        except Exception as error:
            answer = {"raised": type(error).__name__, "message": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
