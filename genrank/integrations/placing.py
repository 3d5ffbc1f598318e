"""Ranks the documents of other frameworks: what their integrations share."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import BaseModel, PrivateAttr

from genrank.cascade import Cascade
from genrank.errors import EngineError, InputError
from genrank.inputs import make_history, whole_number
from genrank.integrations.listings import Document, candidates
from genrank.reranker import History, Reranker
from genrank.types import Candidate, Ranking

Histories: TypeAlias = History | Callable[[str], History]
"""A shopper's past, or a function that returns it for a query's text."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A document of a ranking.

    Attributes:
        place: Its place among the documents that were passed, 0-based.
        score: 0 to 1, never above the score before it.
        notes: What genrank says of it, as JSON types: ``rank`` and ``source_rank`` (1-based), the ``outcome`` of the
            ranking, ``cause``, ``why`` and ``stand_in`` where that is not ``model``, ``reason`` and ``evidence`` where
            there is a reason. A document without a visible character is last, and has ``blank`` in place of an
            outcome.
    """

    place: int
    score: float
    notes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placing:
    """A ranking of documents.

    Attributes:
        placed: Best first.
        ranking: As the reranker returned it; None where there was nothing to rank.
    """

    placed: tuple[Placed, ...]
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What an integration asks of every ranking.

    Attributes:
        top_n: How many documents to return; None for all.
        reasons: How many of the first get a reason.
        deadline: Seconds; see `genrank.Reranker.rerank`.
        metadata_fields: The only metadata to read; None for all.

    Raises:
        InputError: When one is wrong.
    """

    top_n: int | None = None
    reasons: int = 0
    deadline: float | None = None
    metadata_fields: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.top_n is not None:
            whole_number("top_n", self.top_n, at_least=1)
        whole_number("reasons", self.reasons, at_least=0)
        if isinstance(self.metadata_fields, str):
            raise InputError(
                f"must be a list of names, got {self.metadata_fields!r}; write [{self.metadata_fields!r}]",
                field="metadata_fields",
            )


class Source:
    """Where an integration has its reranker from.

    Args:
        reranker: A reranker that is open.
        options: Or the arguments of `genrank.Reranker`, by name, which then is opened when it is first needed.

    Raises:
        InputError: When both are passed, or one is wrong.
    """

    def __init__(self, reranker: Reranker | Cascade | None, options: Mapping[str, Any] | None) -> None:
        if reranker is not None and options is not None:
            raise InputError("pass either a reranker or the options of one, not both", field="options")
        if reranker is not None and not isinstance(reranker, (Reranker, Cascade)):
            raise InputError(f"must be a Reranker, got {type(reranker).__name__}", field="reranker")
        if options is not None and not isinstance(options, Mapping):
            raise InputError(
                f"must be a dict of the arguments of Reranker, got {type(options).__name__}", field="options"
            )
        known = list(inspect.signature(Reranker).parameters)
        if wrong := [name for name in options or () if name not in known]:
            raise InputError(f"Reranker has no such argument; it has {', '.join(known)}", field=f"options.{wrong[0]}")
        self._reranker = reranker
        self._options = dict(options or {})
        self._owns = reranker is None
        self._closed = False
        self._lock = threading.Lock()

    def open(self) -> Reranker | Cascade:
        """The reranker; opens it where that was not done.

        Raises:
            EngineError: When the source is closed.
            GenrankError: As `genrank.Reranker` raises it.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the integration is closed; create a new one")
            opened = self._reranker or Reranker(**self._options)
            self._reranker = opened
        return opened

    async def aopen(self) -> Reranker | Cascade:
        """`open` for asyncio: a model is read in a thread."""
        opened = self._reranker
        return opened if opened is not None else await asyncio.to_thread(self.open)

    def close(self) -> None:
        """Free the reranker if it was opened here; later calls raise an error."""
        with self._lock:
            self._closed = self._closed or self._owns
            if self._owns and self._reranker is not None:
                self._reranker.close()
                self._reranker = None


class Configured(BaseModel):
    """The arguments that LangChain's and LlamaIndex's class take, both of which are models of pydantic."""

    reranker: Any = None
    options: dict[str, Any] | None = None
    top_n: int | None = None
    reasons: int = 0
    deadline: float | None = None
    history: Any = ()
    metadata_fields: Any = None
    on_ranking: Any = None
    _source: Source = PrivateAttr()

    def __init__(
        self,
        *,
        reranker: Reranker | Cascade | None = None,
        options: Mapping[str, Any] | None = None,
        top_n: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
        history: Histories = (),
        metadata_fields: Sequence[str] | None = None,
        on_ranking: Callable[[Ranking], object] | None = None,
    ) -> None:
        source = Source(reranker, options)
        Asked(top_n, reasons, deadline, metadata_fields)
        check_history(history)
        super().__init__(
            reranker=reranker,
            options=options,
            top_n=top_n,
            reasons=reasons,
            deadline=deadline,
            history=history,
            metadata_fields=metadata_fields,
            on_ranking=on_ranking,
        )
        self._source = source

    def close(self) -> None:
        """Free the model if it was opened here; later calls raise an error."""
        self._source.close()

    def _asked(self) -> Asked:
        return Asked(self.top_n, self.reasons, self.deadline, self.metadata_fields)

    def _report(self, placing: Placing) -> None:
        if self.on_ranking is not None and placing.ranking is not None:
            self.on_ranking(placing.ranking)


def rerank(source: Source, query: str, documents: Sequence[Document], asked: Asked, history: Histories = ()) -> Placing:
    """Rank documents for a query.

    Args:
        source: Where the reranker is.
        query: What the shopper typed.
        documents: ``[n]`` in the first stage's order; may be empty.
        asked: What is asked.
        history: The shopper's past.

    Returns:
        Each document exactly once, or the first `Asked.top_n`.

    Raises:
        GenrankError: As `genrank.Reranker.rerank` raises it.
    """
    if not documents:
        return Placing(())
    found = candidates(documents, asked.metadata_fields)
    ranked = [one for one in found if one is not None]
    if not ranked:
        return _placing(found, None, asked)
    return _placing(found, source.open().rerank(query, ranked, past(history, query), **_options(asked)), asked)


async def arerank(
    source: Source, query: str, documents: Sequence[Document], asked: Asked, history: Histories = ()
) -> Placing:
    """`rerank` for asyncio, by `genrank.Reranker.arerank`."""
    if not documents:
        return Placing(())
    found = candidates(documents, asked.metadata_fields)
    ranked = [one for one in found if one is not None]
    if not ranked:
        return _placing(found, None, asked)
    reranker = await source.aopen()
    return _placing(found, await reranker.arerank(query, ranked, past(history, query), **_options(asked)), asked)


def past(history: Histories, query: str) -> History:
    """The history for a query."""
    return history(query) if callable(history) else history


def check_history(history: Histories) -> None:
    """Check a history that is no function.

    Raises:
        InputError: When it is wrong.
    """
    if not callable(history):
        make_history(history)


def _options(asked: Asked) -> dict[str, Any]:
    return {"top_k": asked.top_n, "reasons": asked.reasons, "deadline": asked.deadline}


def _placing(found: Sequence[Candidate | None], ranking: Ranking | None, asked: Asked) -> Placing:
    """The documents in the ranking's order, those without a visible character last."""
    places = {one.listing.listing_id: place for place, one in enumerate(found) if one is not None}
    placed = []
    for item in ranking or ():
        notes = {"reason": item.reason, "evidence": list(item.evidence)} if item.reason else {}
        placed.append((places[item.listing_id], item.score, {**_outcome(ranking), **notes}))
    placed += [(place, 0.0, {"blank": True}) for place, one in enumerate(found) if one is None]
    return Placing(
        tuple(
            Placed(place, score, {"rank": rank, "source_rank": place + 1, **notes})
            for rank, (place, score, notes) in enumerate(placed[: asked.top_n], start=1)
        ),
        ranking,
    )


def _outcome(ranking: Ranking | None) -> dict[str, Any]:
    if ranking is None:
        return {}
    source = ranking.provenance
    troubles = {"cause": source.cause, "why": source.why, "stand_in": source.stand_in}
    return {"outcome": source.outcome, **{name: text for name, text in troubles.items() if text}}
