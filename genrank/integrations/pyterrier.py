"""A PyTerrier transformer that reranks what came before it in a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from genrank.cascade import Cascade
from genrank.data.documents import LISTING_FIELDS
from genrank.errors import InputError, MissingExtraError, shown
from genrank.inputs import at, make_history, make_query, whole_number
from genrank.integrations.listings import Document, candidates
from genrank.progress import track
from genrank.reranker import Reranker
from genrank.types import Candidate, Interaction, Query, Ranking, Request

try:
    import numpy as np
    import pandas as pd
    import pyterrier as pt
except ImportError:
    raise MissingExtraError("pyterrier", "pyterrier") from None

FIELDS = (*LISTING_FIELDS, "currency")
"""The columns that are read besides the text, where a frame has them."""


class GenrankTransformer(pt.Transformer):  # type: ignore[misc]  # its types are not read
    """Reranks a frame of results; use it after a retriever.

    The frame has the columns ``qid``, ``query``, ``docno`` and a text, and may have the fields of `genrank.Listing`,
    ``score`` (the first stage's) and ``history``, the shopper's past as a list of interactions or dicts, the same in
    all rows of a query. The first stage's order is that of the column ``rank``, or else that of the rows.

    The answer has the same rows, best first within each query, with new ``score`` and ``rank``; ``outcome``, whether
    the order is the model's (`genrank.Provenance`); and, where reasons are asked for, ``reason`` and ``evidence``.
    A row without visible text comes last. Scores fall within each query, if only by a rounding error, since PyTerrier's
    measures would put equal ones into another order.

    Examples:
        >>> pipeline = bm25 >> pt.text.get_text(index, ["text"]) >> GenrankTransformer(Reranker())
        >>> pipeline.search("red summer dress")

    Args:
        reranker: Ranks the documents; whoever created it closes it.
        text_field: The column of the text: the listing's title, or its description where there is a column ``title``.
        fields: The other columns to read, if the frame has them; those that are no field of a listing become
            attributes.
        reasons: How many of a query's first documents get a reason.
        deadline: Seconds for each batch; see `genrank.Reranker.rerank`.
        batch: Queries that are ranked at once.
        verbose: Whether to show a progress bar on a terminal.

    Raises:
        InputError: When an argument is wrong.
    """

    schematic: ClassVar[dict[str, Any]] = {"label": "genrank", "help_url": None}  # without one, PyTerrier looks it up

    def __init__(
        self,
        reranker: Reranker | Cascade,
        *,
        text_field: str = "text",
        fields: Sequence[str] = FIELDS,
        reasons: int = 0,
        deadline: float | None = None,
        batch: int = 16,
        verbose: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(reranker, (Reranker, Cascade)):
            raise InputError(f"must be a Reranker or Cascade, got {shown(reranker)}", field="reranker")
        if isinstance(fields, str):
            raise InputError(f"must be a list of columns, got {shown(fields)}", field="fields")
        reranker.check_options(reasons=reasons, deadline=deadline)
        self.reranker = reranker
        self.text_field = text_field
        self.fields = tuple(fields)
        self.reasons = reasons
        self.deadline = deadline
        self.batch = whole_number("batch", batch, at_least=1)
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Rerank a frame of results.

        Raises:
            pyterrier.validate.InputValidationError: When a column is missing.
            InputError: When a query or a history is wrong.
            BudgetError: When the prompt cannot hold a window.
            EngineError: When the reranker is closed.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        asked = self._asked(inp)
        batches = [asked[start : start + self.batch] for start in range(0, len(asked), self.batch)]
        rows: list[_Row] = []
        for batch in track(batches, "reranking", len(batches)) if self.verbose else batches:
            rows += self._ranked(batch)
        answer = inp.iloc[[row.place for row in rows]].reset_index(drop=True)
        answer = answer.drop(columns=["score", "rank"], errors="ignore")
        answer["score"] = np.array([row.score for row in rows], dtype=np.float64)
        for name in ("outcome", "reason", "evidence") if self.reasons else ("outcome",):
            answer[name] = pd.Series([getattr(row, name) for row in rows], index=answer.index, dtype=object)
        return pt.model.add_ranks(answer)

    def _asked(self, inp: pd.DataFrame) -> list[_Asked]:
        """The queries of a frame, in the order of their first rows."""
        members: dict[Any, list[int]] = {}
        order = np.argsort(inp["rank"].to_numpy(), kind="stable") if "rank" in inp else range(len(inp))
        for place in order:
            members.setdefault(inp["qid"].iloc[place], []).append(int(place))
        columns = ["query", self.text_field, "docno", *self.fields, "score", "history"]
        rows = inp[[name for name in dict.fromkeys(columns) if name in inp]].to_dict("records")
        return [self._read(qid, places, [rows[place] for place in places]) for qid, places in members.items()]

    def _read(self, qid: object, places: list[int], rows: Sequence[dict[str, Any]]) -> _Asked:
        with at(f"qid {qid}"):
            texts = {row["query"] for row in rows}
            if len(texts) > 1:
                raise InputError(f"must be the same in all rows, got {shown(sorted(map(str, texts)))}", field="query")
            query, past = make_query(rows[0]["query"]), rows[0].get("history")
            is_missing = past is None or (isinstance(past, float) and np.isnan(past))
            history = () if is_missing else make_history(past)
        documents = [
            Document(text if isinstance(text := row[self.text_field], str) else None, row, row["docno"]) for row in rows
        ]
        fields = [name for name in self.fields if name != self.text_field]
        return _Asked(places, query, candidates(documents, fields), history)

    def _ranked(self, batch: Sequence[_Asked]) -> list[_Row]:
        """The rows of some queries, best first within each."""
        requests = [one.request for one in batch if one.request is not None]
        found = self.reranker.rerank_batch(requests, reasons=self.reasons, deadline=self.deadline) if requests else []
        rankings, rows = iter(found), []
        for one in batch:
            ranking = next(rankings) if one.request is not None else ()
            outcome = ranking.provenance.outcome if isinstance(ranking, Ranking) else "model"  # nothing to read
            scores = _falling([*(item.score for item in ranking), *[0.0] * len(one.blank)])
            rows += [
                _Row(one.place_of[item.listing_id], score, outcome, item.reason, list(item.evidence))
                for item, score in zip(ranking, scores, strict=False)
            ]
            rows += [
                _Row(place, score, outcome) for place, score in zip(one.blank, scores[len(ranking) :], strict=True)
            ]
        return rows


@dataclass(frozen=True)
class _Asked:
    """One query of a frame.

    Attributes:
        places: ``[n]`` places of its rows in the frame, in the first stage's order.
        query: The query.
        candidates: ``[n]`` its rows; None for one without visible text.
        history: The shopper's past.
    """

    places: Sequence[int]
    query: Query
    candidates: Sequence[Candidate | None]
    history: tuple[Interaction, ...]

    @cached_property
    def request(self) -> Request | None:
        """What the reranker is asked; None where there is nothing to read."""
        kept = tuple(one for one in self.candidates if one is not None)
        return Request(self.query, kept, self.history) if kept else None

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Places in the frame, by listing id."""
        pairs = zip(self.candidates, self.places, strict=True)
        return {one.listing.listing_id: place for one, place in pairs if one is not None}

    @cached_property
    def blank(self) -> list[int]:
        """Places of the rows without visible text."""
        return [place for one, place in zip(self.candidates, self.places, strict=True) if one is None]


class _Row(NamedTuple):
    """A row of the answer, by its place in the frame."""

    place: int
    score: float
    outcome: str
    reason: str | None = None
    evidence: Sequence[str] = ()


def _falling(scores: Iterable[float]) -> list[float]:
    """The scores, each below the one before it as 32-bit floats, which trec_eval compares."""
    found: list[float] = []
    last = np.float32(np.inf)
    for score in scores:
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        found.append(float(last))
    return found
