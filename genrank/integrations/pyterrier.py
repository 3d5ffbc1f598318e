"""A PyTerrier transformer that reranks what came before it in a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from genrank.cascade import Cascade
from genrank.data.documents import LISTING_FIELDS
from genrank.errors import InputError, MissingExtraError, shown
from genrank.inputs import at, make_history, make_query, whole_number
from genrank.integrations.listings import Document, candidates
from genrank.progress import track
from genrank.reranker import Reranker
from genrank.types import Candidate, Interaction, Query, RankedItem, Request

try:
    import numpy as np
    import pandas as pd
    import pyterrier as pt
except ImportError:
    raise MissingExtraError("pyterrier", "pyterrier") from None

FIELDS = (*LISTING_FIELDS, "currency")
"""The columns that are read besides the text, where a frame has them."""


class RerankerTransformer(pt.Transformer):  # type: ignore[misc] - PyTerrier's types are not read
    """Reranks a frame of results; use it after a retriever.

    The frame has the columns ``qid``, ``query``, ``docno`` and a text, and may have the fields of `genrank.Listing`,
    ``score`` (the first stage's) and ``history``, the shopper's past as a list of interactions or dicts, the same in all
    rows of a query. Rows of a query are in the first stage's order.

    The answer has the same rows, best first within each query, with new ``score`` and ``rank``; ``outcome``, whether
    the order is the model's (`genrank.Provenance`); and, where reasons are asked for, ``reason`` and ``evidence``.
    A row without visible text comes last. Scores fall within each query, if only by a rounding error, since PyTerrier's
    measures would put equal ones into another order.

    Examples:
        >>> pipeline = bm25 >> pt.text.get_text(index, ["text"]) >> RerankerTransformer(Reranker())
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
        members: dict[Any, list[int]] = {}
        for place in np.argsort(inp["rank"].to_numpy(), kind="stable") if "rank" in inp else range(len(inp)):
            members.setdefault(inp["qid"].iloc[place], []).append(place)
        columns = [
            "query",
            self.text_field,
            "docno",
            *(name for name in (*self.fields, "score", "history") if name in inp),
        ]
        rows = inp[list(dict.fromkeys(columns))].to_dict("records")
        order: list[int] = []
        scores: list[float] = []
        found: dict[str, list[Any]] = {"outcome": [], "reason": [], "evidence": []}
        queries = [(qid, places, [rows[place] for place in places]) for qid, places in members.items()]
        batches = [queries[start : start + self.batch] for start in range(0, len(queries), self.batch)]
        for batch in track(batches, "reranking", len(batches)) if self.verbose else batches:
            for places, ranked, outcome in self._ranked(batch):
                order += [places[place] for place, _ in ranked]
                scores += _falling([0.0 if item is None else item.score for _, item in ranked])
                found["outcome"] += [outcome] * len(places)
                found["reason"] += [item and item.reason for _, item in ranked]
                found["evidence"] += [list(item.evidence) if item else [] for _, item in ranked]
        if not self.reasons:
            del found["reason"], found["evidence"]
        answer = inp.iloc[order].reset_index(drop=True).drop(columns=["score", "rank", *found], errors="ignore")
        answer["score"] = np.array(scores, dtype=np.float64)
        for name, values in found.items():
            answer[name] = pd.Series(values, index=answer.index, dtype=object)
        return pt.model.add_ranks(answer)

    def _ranked(
        self, batch: Sequence[tuple[Any, list[int], list[dict[str, Any]]]]
    ) -> Iterator[tuple[list[int], list[tuple[int, RankedItem | None]], str]]:
        """Each query's places in the frame, with its rows by number, best first, and the outcome."""
        read = [self._read(qid, rows) for qid, _, rows in batch]
        requests = [
            Request(query, kept, history)
            for query, found, history in read
            if (kept := tuple(one for one in found if one is not None))
        ]
        rankings = iter(
            self.reranker.rerank_batch(requests, reasons=self.reasons, deadline=self.deadline) if requests else ()
        )
        for (_, places, _), (_, found, _) in zip(batch, read, strict=True):
            rows = {one.listing.listing_id: row for row, one in enumerate(found) if one is not None}
            blank: list[tuple[int, RankedItem | None]] = [(row, None) for row, one in enumerate(found) if one is None]
            if rows:
                ranking = next(rankings)
                yield places, [(rows[item.listing_id], item) for item in ranking] + blank, ranking.provenance.outcome
            else:
                yield places, blank, "model"  # there was nothing to read

    def _read(
        self, qid: object, rows: Sequence[dict[str, Any]]
    ) -> tuple[Query, list[Candidate | None], tuple[Interaction, ...]]:
        with at(f"qid {qid}"):
            texts = {row["query"] for row in rows}
            if len(texts) > 1:
                raise InputError(f"must be the same in all rows, got {shown(sorted(map(str, texts)))}", field="query")
            past = rows[0].get("history")
            is_missing = past is None or (isinstance(past, float) and np.isnan(past))
            documents = [
                Document(text if isinstance(text := row[self.text_field], str) else None, row, row["docno"])
                for row in rows
            ]
            return (
                make_query(rows[0]["query"]),
                candidates(documents, self.fields),
                () if is_missing else make_history(past),
            )


def _falling(scores: Iterable[float]) -> list[float]:
    """The scores, each below the one before it as 32-bit floats, which trec_eval compares."""
    found: list[float] = []
    last = np.float32(np.inf)
    for score in scores:
        last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
        found.append(float(last))
    return found
