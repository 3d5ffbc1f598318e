"""genrank in LlamaIndex: a node postprocessor."""

from __future__ import annotations

from collections.abc import Sequence

from genrank.cascade import Cascade
from genrank.errors import InputError, MissingExtraError
from genrank.integrations.listings import NOTES
from genrank.integrations.listings import Document as Read
from genrank.integrations.placing import Configured, Placing, arerank, rerank
from genrank.reranker import Reranker

try:
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
    from llama_index_instrumentation import get_dispatcher
except ImportError:
    raise MissingExtraError("llama-index-core", "llamaindex") from None

_DISPATCHER = get_dispatcher(__name__)


class GenrankPostprocessor(Configured, BaseNodePostprocessor):
    """Reranks retrieved nodes, read as `genrank.integrations.listings` says.

    Metadata that a node hides from models (``excluded_llm_metadata_keys``) are not read. Nodes are copied, and their
    metadata kept. Under ``genrank``, hidden from models too, the metadata hold what is known of a node's score: see
    `genrank.integrations.placing.Placed`. Each call dispatches a ``ReRankStartEvent`` and a ``ReRankEndEvent``.

    Examples:
        >>> reranker = GenrankPostprocessor(options={"model": "qwen2.5-coder-0.5b"}, top_n=5)
        >>> index.as_query_engine(node_postprocessors=[reranker])

    Args:
        reranker: A reranker that is open. It is not closed here.
        options: Or the arguments of `genrank.Reranker`, by name; it is opened by the first call. Only with these can a
            postprocessor be written with ``to_json``.
        top_n: How many nodes to return; by default all.
        reasons: How many of the first get a reason.
        deadline: Seconds; see `genrank.Reranker.rerank`.
        history: The shopper's past, as `genrank.Reranker.rerank` takes it, or a function that returns it for a query's
            text. ``postprocessor.model_copy(update={"history": history})`` is the same one for another shopper.
        metadata_fields: The only metadata to read; by default all.
        on_ranking: Called with each `genrank.Ranking`, whose provenance tells how it was made.

    Raises:
        InputError: When an argument is wrong.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex writes it down."""
        return "GenrankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        self._starts(query, nodes, self._source.open())
        return self._placed(nodes, rerank(self._source, query, _read(nodes), self._asked(), self.history))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        if not nodes:
            return []
        self._starts(query, nodes, await self._source.aopen())
        return self._placed(nodes, await arerank(self._source, query, _read(nodes), self._asked(), self.history))

    def _starts(self, query: str, nodes: list[NodeWithScore], reranker: Reranker | Cascade) -> None:
        first = reranker.first if isinstance(reranker, Cascade) else reranker
        top_n = len(nodes) if self.top_n is None else self.top_n
        _DISPATCHER.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=first.engine.model))

    def _placed(self, nodes: list[NodeWithScore], placing: Placing) -> list[NodeWithScore]:
        self._report(placing)
        found = []
        for one in placing.placed:
            node = nodes[one.place].node
            hidden = {
                name: list(dict.fromkeys([*getattr(node, name), NOTES]))
                for name in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")
            }
            copied = node.model_copy(update={"metadata": {**node.metadata, NOTES: one.notes}, **hidden})
            found.append(nodes[one.place].model_copy(update={"node": copied, "score": one.score}))
        _DISPATCHER.event(ReRankEndEvent(nodes=found))
        return found


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise InputError("this argument is required; pass query_bundle or query_str", field="query_bundle")
    return str(bundle.query_str)


def _read(nodes: Sequence[NodeWithScore]) -> list[Read]:
    read = []
    for one in nodes:
        hidden = one.node.excluded_llm_metadata_keys
        metadata = {key: value for key, value in one.node.metadata.items() if key not in hidden}
        read.append(Read(one.node.get_content(metadata_mode=MetadataMode.NONE), metadata, one.node.node_id, one.score))
    return read
