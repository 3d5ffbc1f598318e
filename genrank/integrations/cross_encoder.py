"""A reranker called as sentence-transformers' ``CrossEncoder`` is, for programs that were written for one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from genrank.cascade import Cascade
from genrank.errors import InputError, MissingExtraError, shown
from genrank.inputs import at, items, make_query, whole_number
from genrank.integrations.listings import Document, candidates
from genrank.progress import track
from genrank.reranker import Reranker
from genrank.types import Listing, Ranking, Request

try:
    import numpy as np
except ImportError:
    raise MissingExtraError("numpy", "search") from None

_log = logging.getLogger(__name__)

BATCH = 512
"""The default number of pairs that are ranked at once."""

_ELSEWHERE = {
    "prompt_name": "a reranker has its prompt already; pass Reranker(prompt=...)",
    "prompt": "a reranker has its prompt already; pass Reranker(prompt=...)",
    "activation_fn": "scores are 0 to 1 already; leave it out",
    "device": "the engine chose its device when it loaded the model; leave it out",
    "pool": "the engine shares out the work itself; leave it out",
    "chunk_size": "the engine shares out the work itself; leave it out",
}
"""Options of sentence-transformers that must be None, and what to do instead."""


class GenrankCrossEncoder:
    """Scores pairs of query and document with a reranker.

    Scores are 0 to 1. Pairs with the same query are ranked together, since every decoding but ``pointwise`` compares
    candidates; only under ``pointwise`` can scores of different queries be compared (`genrank.decoding`).

    A document is a text, an object of texts and other fields (`genrank.integrations.listings`), or a `Listing`. One
    without a visible character is not shown to the model: it scores 0. If the model fails or the deadline passes, the
    scores follow the order of the reranker's fallback, or else of the pairs, and a warning is logged.

    Examples:
        >>> model = GenrankCrossEncoder(Reranker())
        >>> model.predict([("red dress", "Blue coat"), ("red dress", "Red cotton dress")])
        array([0.04, 0.91], dtype=float32)
        >>> model.rank("red dress", ["Blue coat", "Red cotton dress"])
        [{'corpus_id': 1, 'score': 0.91}, {'corpus_id': 0, 'score': 0.04}]

    Args:
        reranker: Ranks the documents; whoever created it closes it.
        deadline: Seconds for each batch; see `genrank.Reranker.rerank`.

    Attributes:
        num_labels: One score a pair, as sentence-transformers' evaluators ask.

    Raises:
        InputError: When an argument is wrong.
    """

    num_labels = 1

    def __init__(self, reranker: Reranker | Cascade, *, deadline: float | None = None) -> None:
        if not isinstance(reranker, (Reranker, Cascade)):
            raise InputError(
                f"must be a Reranker or Cascade, got {shown(reranker)}; write GenrankCrossEncoder(Reranker(model))",
                field="reranker",
            )
        reranker.check_options(deadline=deadline)
        self.reranker = reranker
        self.deadline = deadline

    def predict(
        self,
        inputs: object,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool | None = None,
        activation_fn: object = None,
        apply_softmax: bool | None = False,  # noqa: ARG002 - changes nothing where a pair has one score
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Score pairs; the arguments are those of sentence-transformers 6.

        Args:
            inputs: ``[n]`` pairs of query and document, or a single pair.
            prompt_name: Must be None.
            prompt: Must be None.
            batch_size: Pairs that are ranked at once. The pairs of one query are never parted, so a batch may hold
                more.
            show_progress_bar: Whether to show a bar on a terminal.
            activation_fn: Must be None.
            apply_softmax: Changes nothing, as in any cross-encoder that gives one score a pair.
            convert_to_numpy: False gives a list of torch's tensors.
            convert_to_tensor: True gives one tensor of torch, whatever `convert_to_numpy` is.
            device: Must be None.
            pool: Must be None.
            chunk_size: Must be None.

        Returns:
            ``[n]`` scores as a NumPy array of float32, in the order of the pairs; of a single pair, its score.

        Raises:
            InputError: When an argument is wrong.
            BudgetError: When the prompt cannot hold a window.
            EngineError: When the reranker is closed.
            MissingExtraError: When tensors are asked for and torch is not installed.
        """
        _refuse(
            prompt_name=prompt_name,
            prompt=prompt,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        batch_size = whole_number("batch_size", batch_size, at_least=1)
        inputs = _plain(inputs)
        alone = _is_pair(inputs)
        pairs = [_pair(i, pair) for i, pair in enumerate([inputs] if alone else items(inputs, "inputs", "pairs"))]
        scores = self._scores(pairs, batch_size, bar=bool(show_progress_bar))
        if convert_to_tensor or not convert_to_numpy:
            found = _tensor(scores)
            return found[0] if alone else found if convert_to_tensor else list(found)
        return scores[0] if alone else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, Any] | Listing],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool | None = None,  # noqa: ARG002 - one ranking has nothing to count
        activation_fn: object = None,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query; the arguments are those of sentence-transformers 6.

        Args:
            query: What the shopper typed.
            documents: ``[n]`` in the first stage's order.
            top_k: How many to return; by default all.
            return_documents: Whether results hold their document, as ``text``.
            prompt_name: Must be None.
            prompt: Must be None.
            batch_size: Changes nothing: the documents of one query are ranked together.
            show_progress_bar: Changes nothing.
            activation_fn: Must be None.
            device: Must be None.
            pool: Must be None.
            chunk_size: Must be None.

        Returns:
            Best first, each with ``corpus_id``, the document's place, 0-based, and its ``score``.

        Raises:
            InputError: When an argument is wrong.
            BudgetError: When the prompt cannot hold a window.
            EngineError: When the reranker is closed.
        """
        _refuse(
            prompt_name=prompt_name,
            prompt=prompt,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        whole_number("batch_size", batch_size, at_least=1)
        self.reranker.check_options(top_k=top_k)
        asked = make_query(query)
        given = list(items(documents, "documents", "documents"))
        found = candidates([_document(f"documents[{i}]", one) for i, one in enumerate(given)])
        places = {one.listing.listing_id: i for i, one in enumerate(found) if one is not None}
        order: list[tuple[int, float]] = []
        if places:
            request = Request(asked, tuple(one for one in found if one is not None))
            (ranking,) = self._rank([request], top_k)
            order = [(places[item.listing_id], item.score) for item in ranking]
        order += [(i, 0.0) for i, one in enumerate(found) if one is None]
        return [
            {"corpus_id": place, "score": score} | ({"text": given[place]} if return_documents else {})
            for place, score in order[:top_k]
        ]

    def _scores(self, pairs: Sequence[tuple[str, Document]], batch_size: int, *, bar: bool) -> Any:
        scores = np.zeros(len(pairs), dtype=np.float32)
        groups: dict[str, list[int]] = {}
        for i, (query, _) in enumerate(pairs):
            groups.setdefault(query, []).append(i)
        batches = list(_batches(groups, batch_size))
        for batch in track(batches, "scoring") if bar else batches:
            requests, places = [], []
            for query, members in batch:
                found = dict(zip(members, candidates([pairs[i][1] for i in members]), strict=True))
                shown_to_model = {i: one for i, one in found.items() if one is not None}
                if shown_to_model:
                    requests.append(Request(make_query(query), tuple(shown_to_model.values())))
                    places.append({one.listing.listing_id: i for i, one in shown_to_model.items()})
            for ranking, place in zip(self._rank(requests, None), places, strict=True):
                for item in ranking:
                    scores[place[item.listing_id]] = item.score
        return scores

    def _rank(self, requests: Sequence[Request], top_k: int | None) -> list[Ranking]:
        if not requests:
            return []
        rankings = self.reranker.rerank_batch(requests, top_k=top_k, deadline=self.deadline)
        causes = sorted({one.provenance.cause for one in rankings if one.provenance.outcome == "fallback"})
        if causes:
            _log.warning("the model did not rank all documents (%s); their scores are not its own", ", ".join(causes))
        return rankings


def _refuse(**options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"must be None, got {shown(value)}; {_ELSEWHERE[name]}", field=name)


def _plain(values: Any) -> object:
    """An array as a list; anything else as it is."""
    return values.tolist() if hasattr(values, "tolist") else values


def _is_pair(inputs: object) -> bool:
    """Whether this is one pair, which begins with its query, and no list of pairs."""
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], str)


def _pair(i: int, pair: object) -> tuple[str, Document]:
    field, pair = f"inputs[{i}]", _plain(pair)
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise InputError(f"must be a pair of query and document, got {shown(pair)}", field=field)
    with at(field):
        query = make_query(pair[0])
    return query.text, _document(f"{field}[1]", pair[1])


def _document(field: str, document: object) -> Document:
    if isinstance(document, str):
        return Document(document, {})
    if isinstance(document, Listing):
        return Document(None, document.to_dict())
    if isinstance(document, Mapping):
        text = document.get("text")
        return Document(text if isinstance(text, str) else None, document)
    raise InputError(f"must be text, a dict of fields or a Listing, got {shown(document)}", field=field)


def _batches(groups: Mapping[str, list[int]], size: int) -> Iterator[list[tuple[str, list[int]]]]:
    """The queries with the places of their pairs, in batches of at least `size` pairs, but for the last."""
    batch: list[tuple[str, list[int]]] = []
    pairs = 0
    for query, members in groups.items():
        batch.append((query, members))
        pairs += len(members)
        if pairs >= size:
            yield batch
            batch, pairs = [], 0
    if batch:
        yield batch


def _tensor(scores: Any) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "transformers") from None
    return torch.from_numpy(scores)
