"""genrank in Haystack: a ranker component."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from genrank.cascade import Cascade
from genrank.errors import ConfigError, MissingExtraError
from genrank.inputs import whole_number
from genrank.integrations.listings import NOTES
from genrank.integrations.listings import Document as Read
from genrank.integrations.placing import Asked, Placing, Source, arerank, rerank
from genrank.reranker import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError:
    raise MissingExtraError("haystack-ai", "haystack") from None


@component
class GenrankRanker:
    """Reranks documents, read as `genrank.integrations.listings` says.

    Documents are copied, and their meta kept. ``genrank`` of the meta holds what is known of a document's score: see
    `genrank.integrations.placing.Placed`.

    Examples:
        >>> pipeline.add_component("ranker", GenrankRanker(options={"model": "qwen2.5-coder-0.5b"}, top_k=5))
        >>> pipeline.connect("retriever", "ranker")

    Args:
        options: The arguments of `genrank.Reranker`, by name; `warm_up` or the first call opens it. Only texts, numbers
            and the like can be written to YAML.
        reranker: Or a reranker that is open. It is not closed here, and cannot be written to YAML.
        top_k: How many documents to return; by default all.
        reasons: How many of the first get a reason.
        deadline: Seconds; see `genrank.Reranker.rerank`.
        metadata_fields: The only meta to read; by default all.

    Raises:
        InputError: When an argument is wrong.
    """

    def __init__(
        self,
        options: dict[str, Any] | None = None,
        *,
        reranker: Reranker | Cascade | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
        metadata_fields: list[str] | None = None,
    ) -> None:
        self.options = options
        self.top_k = top_k
        self.reasons = reasons
        self.deadline = deadline
        self.metadata_fields = metadata_fields
        self._source = Source(reranker, options)
        self._has_options = reranker is None
        self._asked(None)

    def warm_up(self) -> None:
        """Load the model."""
        self._source.open()

    async def warm_up_async(self) -> None:
        """`warm_up` for asyncio: the model is loaded in a thread."""
        await self._source.aopen()

    def close(self) -> None:
        """Free the model if it was opened here; later calls raise an error."""
        self._source.close()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict.

        Raises:
            ConfigError: When it was made with a reranker.
        """
        if not self._has_options:
            raise ConfigError("a reranker cannot be written down; create the component with options instead")
        written: dict[str, Any] = default_to_dict(
            self,
            options=self.options,
            top_k=self.top_k,
            reasons=self.reasons,
            deadline=self.deadline,
            metadata_fields=self.metadata_fields,
        )
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "GenrankRanker":
        """Make a component of what `to_dict` returned."""
        made: GenrankRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document], provenance=dict[str, Any])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        history: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """Rerank documents.

        Args:
            query: What the shopper typed.
            documents: ``[n]`` in the first stage's order; may be empty.
            top_k: How many to return; by default as many as the component was made for.
            history: The shopper's past: interactions as `genrank.parse_request` reads them, or `genrank.Interaction`.

        Returns:
            ``documents``: copies of all documents, or of the first `top_k`, best first. ``provenance``: a
            `genrank.Provenance` as a dict; empty where there was nothing to rank.

        Raises:
            GenrankError: As `genrank.Reranker.rerank` raises it.
        """
        asked = self._asked(top_k)
        return _output(documents, rerank(self._source, query, _read(documents), asked, history or ()))

    @component.output_types(documents=list[Document], provenance=dict[str, Any])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        history: list[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        """`run` for asyncio, by `genrank.Reranker.arerank`."""
        asked = self._asked(top_k)
        return _output(documents, await arerank(self._source, query, _read(documents), asked, history or ()))

    def _asked(self, top_k: int | None) -> Asked:
        top_k = self.top_k if top_k is None else top_k
        if top_k is not None:
            whole_number("top_k", top_k, at_least=1)
        return Asked(top_k, self.reasons, self.deadline, self.metadata_fields)


def _read(documents: Sequence[Document]) -> list[Read]:
    return [Read(one.content, one.meta, one.id, one.score) for one in documents]


def _output(documents: Sequence[Document], placing: Placing) -> dict[str, Any]:
    found = []
    for one in placing.placed:
        document = documents[one.place]
        meta = {**document.meta, NOTES: one.notes}
        found.append(dataclasses.replace(document, score=one.score, meta=meta))
    provenance = placing.ranking.to_dict()["provenance"] if placing.ranking is not None else {}
    return {"documents": found, "provenance": provenance}
