"""genrank in LangChain: a document compressor."""

from __future__ import annotations

from collections.abc import Sequence

from genrank.errors import MissingExtraError
from genrank.integrations.listings import NOTES, RELEVANCE
from genrank.integrations.listings import Document as Read
from genrank.integrations.placing import Configured, Placing, arerank, rerank

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
except ImportError:
    raise MissingExtraError("langchain-core", "langchain") from None


class GenrankCompressor(Configured, BaseDocumentCompressor):
    """Reranks retrieved documents, read as `genrank.integrations.listings` says.

    Documents are copied, and their metadata kept. ``relevance_score`` of the metadata is the score, and ``genrank``
    what else is known of it: see `genrank.integrations.placing.Placed`.

    Examples:
        >>> compressor = GenrankCompressor(options={"model": "qwen2.5-coder-0.5b"}, top_n=5)
        >>> ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)

    Args:
        reranker: A reranker that is open. It is not closed here.
        options: Or the arguments of `genrank.Reranker`, by name; it is opened by the first call.
        top_n: How many documents to return; by default all.
        reasons: How many of the first get a reason.
        deadline: Seconds; see `genrank.Reranker.rerank`.
        history: The shopper's past, as `genrank.Reranker.rerank` takes it, or a function that returns it for a query's
            text. ``compressor.model_copy(update={"history": history})`` is the same compressor for another shopper.
        metadata_fields: The only metadata to read; by default all.
        on_ranking: Called with each `genrank.Ranking`, whose provenance tells how it was made.

    Raises:
        InputError: When an argument is wrong.
    """

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """Rerank documents.

        Args:
            documents: ``[n]`` in the retriever's order; may be empty.
            query: What the shopper typed.
            callbacks: Not used.

        Returns:
            Copies of all documents, or of the first `top_n`, best first.

        Raises:
            GenrankError: As `genrank.Reranker.rerank` raises it.
        """
        return self._placed(documents, rerank(self._source, query, _read(documents), self._asked(), self.history))

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """`compress_documents` for asyncio, by `genrank.Reranker.arerank`."""
        placing = await arerank(self._source, query, _read(documents), self._asked(), self.history)
        return self._placed(documents, placing)

    def _placed(self, documents: Sequence[Document], placing: Placing) -> list[Document]:
        self._report(placing)
        found = []
        for one in placing.placed:
            document = documents[one.place]
            metadata = {**document.metadata, RELEVANCE: one.score, NOTES: one.notes}
            found.append(document.model_copy(update={"metadata": metadata}))
        return found


def _read(documents: Sequence[Document]) -> list[Read]:
    return [Read(one.page_content, one.metadata, one.id) for one in documents]
