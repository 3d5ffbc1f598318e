"""Ranks in two stages: the first over all candidates, the second over the first few of its ranking."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args

from genrank.decoding.judgements import log_odds, sigmoid
from genrank.engines.base import Closing
from genrank.errors import InputError
from genrank.inputs import items, make_request, whole_number
from genrank.reranker import Candidates, History, Reranker
from genrank.types import Combine, Intent, Provenance, Query, RankedItem, Ranking, Request, in_order

_JUDGING = ("pointwise", "inline")  # decodings whose scores are log-odds, which can be added


class Cascade(Closing):
    """Two rerankers, one after the other; it is called like a `Reranker`.

    The first one ranks all candidates. The second one ranks the first `top` of that ranking again, in that order; the
    others stay below them. Two readings err on different candidates: ``pointwise`` judges each by itself, ``inline``
    and ``listwise`` see them beside each other.

    Examples:
        >>> first = Reranker("qwen2.5-coder-0.5b", decoding="pointwise")
        >>> cascade = Cascade(first, Reranker(engine=first.engine, decoding="inline"), top=10, scores="add")
        >>> ranking = cascade.rerank("red summer dress", candidates)

    Args:
        first: Ranks all candidates. Closing the cascade closes it too.
        second: Ranks the first few; it may share the engine of `first`. Its candidates come with the first one's
            log-odds as their scores, so if its adapter stores a blend, create it with ``blend=False``. Closing the
            cascade closes it too.
        top: How many, at least 2.
        scores: ``replace`` orders them by the second score, ``add`` by the mean of both scores' log-odds, which only
            ``pointwise`` and ``inline`` have.

    Raises:
        InputError: When an argument is wrong.
    """

    def __init__(self, first: Reranker, second: Reranker, *, top: int = 10, scores: Combine = "replace") -> None:
        for name, stage in (("first", first), ("second", second)):
            if not isinstance(stage, Reranker):
                raise InputError(f"must be a Reranker, got {type(stage).__name__}", field=name)
        if scores not in get_args(Combine):
            raise InputError(f"must be one of {list(get_args(Combine))}, got {scores!r}", field="scores")
        if scores == "add" and (other := {first.decoding, second.decoding}.difference(_JUDGING)):
            raise InputError(
                f"add needs the log-odds of pointwise and inline, and {other.pop()} has none; use replace",
                field="scores",
            )
        self.first = first
        self.second = second
        self.top: int = whole_number("top", top, at_least=2)
        self.scores: Combine = scores

    @property
    def fingerprint(self) -> str:
        """What `Reranker.fingerprint` is, over both stages and how they are joined."""
        settings = (self.first.fingerprint, self.second.fingerprint, self.top, self.scores)
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def close(self) -> None:
        """Close both rerankers."""
        self.first.close()
        self.second.close()

    def rerank(
        self,
        query: Query | str,
        candidates: Candidates,
        history: History = (),
        *,
        intent: Intent | Mapping[str, Any] | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """Rank candidates for a query; see `Reranker.rerank`."""
        asked = map(make_request, [query], [candidates], [history], [intent])  # made when the clock runs
        return self.rerank_batch(asked, top_k=top_k, reasons=reasons, deadline=deadline)[0]

    async def arerank(
        self,
        query: Query | str,
        candidates: Candidates,
        history: History = (),
        *,
        intent: Intent | Mapping[str, Any] | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> Ranking:
        """`rerank` for asyncio; see `Reranker.arerank`."""
        asked = map(make_request, [query], [candidates], [history], [intent])
        return (await self.arerank_batch(asked, top_k=top_k, reasons=reasons, deadline=deadline))[0]

    def rerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """Rank the candidates of several queries; see `Reranker.rerank_batch`.

        Args:
            requests: ``[b]``.
            top_k: How many items to return; by default all.
            reasons: How many of the first items get a reason, at most `top`; the second reranker writes them.
            deadline: Seconds for both stages together. If the first takes them all, its ranking is the answer, and its
                provenance says so.

        Raises:
            InputError: When an argument is wrong; its `field` names it.
            BudgetError: When `max_prompt_tokens` cannot hold a window.
            EngineError: When a reranker is closed.
        """
        started = time.monotonic()
        asked = self._check(requests, top_k, reasons, deadline)
        firsts = self.first.rerank_batch(asked, deadline=_left(deadline, started))
        heads = self._heads(asked, firsts)
        seconds = self.second.rerank_batch(heads, reasons=reasons, deadline=_left(deadline, started))
        return self._joined(firsts, seconds, top_k)

    async def arerank_batch(
        self,
        requests: Iterable[Request],
        *,
        top_k: int | None = None,
        reasons: int = 0,
        deadline: float | None = None,
    ) -> list[Ranking]:
        """`rerank_batch` for asyncio; see `Reranker.arerank`."""
        started = time.monotonic()
        asked = self._check(requests, top_k, reasons, deadline)
        firsts = await self.first.arerank_batch(asked, deadline=_left(deadline, started))
        heads = self._heads(asked, firsts)
        seconds = await self.second.arerank_batch(heads, reasons=reasons, deadline=_left(deadline, started))
        return self._joined(firsts, seconds, top_k)

    def check_options(self, *, top_k: int | None = None, reasons: int = 0, deadline: float | None = None) -> None:
        """Check the options of a call that do not depend on the request; see `Reranker.check_options`.

        Raises:
            InputError: When one is wrong; its `field` names it.
        """
        self.first.check_options(top_k=top_k, deadline=deadline)
        self.second.check_options(reasons=reasons)
        if reasons > self.top:
            raise InputError(
                f"the second stage writes them, for at most top={self.top} items, got {reasons}; raise top",
                field="reasons",
            )

    def _check(
        self, requests: Iterable[Request], top_k: int | None, reasons: int, deadline: float | None
    ) -> list[Request]:
        self.check_options(top_k=top_k, reasons=reasons, deadline=deadline)
        return cast(list[Request], list(items(requests, "requests", "Request")))  # the first stage checks each

    def _heads(self, requests: Sequence[Request], rankings: Sequence[Ranking]) -> list[Request]:
        """What the second stage ranks; for it, the first stage's scores are those of the first reranker."""
        heads = []
        for request, ranking in zip(requests, rankings, strict=True):
            candidates = {candidate.listing.listing_id: candidate for candidate in request.candidates}
            head = tuple(
                dataclasses.replace(candidates[item.listing_id], score=log_odds(item.score))
                for item in ranking[: self.top]
            )
            heads.append(dataclasses.replace(request, candidates=head))
        return heads

    def _joined(self, firsts: Sequence[Ranking], seconds: Sequence[Ranking], top_k: int | None) -> list[Ranking]:
        joined = []
        for first, second in zip(firsts, seconds, strict=True):
            provenance = _provenance(first.provenance, second.provenance)
            joined.append(Ranking(first.query_id, self._order(first, second)[:top_k], provenance))
        return joined

    def _order(self, first: Ranking, second: Ranking) -> tuple[RankedItem, ...]:
        """All items; if the second stage did not rank its own, the first stage's order and scores stay."""
        before = {item.listing_id: item for item in first}
        head = [
            dataclasses.replace(before[item.listing_id], reason=item.reason, evidence=item.evidence) for item in second
        ]
        if second.provenance.outcome == "fallback":
            places = {item.listing_id: place for place, item in enumerate(first)}
            head.sort(key=lambda item: places[item.listing_id])
        else:
            again = {item.listing_id: item.score for item in second}
            if self.scores == "add":
                again = {one: _mean(before[one].score, score) for one, score in again.items()}
            head = sorted(
                (dataclasses.replace(item, score=again[item.listing_id]) for item in head), key=lambda item: -item.score
            )
        return in_order([*head, *first[len(head) :]])


def _mean(one: float, other: float) -> float:
    """The score whose log-odds are the mean of two scores' log-odds."""
    return sigmoid((log_odds(one) + log_odds(other)) / 2)


def _left(deadline: float | None, started: float) -> float | None:
    """Seconds left for a stage; with next to none it does nothing, and says so."""
    return None if deadline is None else max(deadline - (time.monotonic() - started), 1e-9)


def _provenance(first: Provenance, second: Provenance) -> Provenance:
    """The provenance of both stages: the first one's, with the sums of both and the first trouble."""
    worse = max(first.outcome, second.outcome, key=("model", "repaired", "fallback").index)
    why = first.why or (second.why and f"the second stage: {second.why}")
    return dataclasses.replace(
        first,
        outcome=worse,
        cause=first.cause or second.cause,
        why=why,
        repairs=first.repairs + second.repairs,
        reasons_missing=first.reasons_missing + second.reasons_missing,
        tokens=first.tokens + second.tokens,
        cuts=dict(Counter(first.cuts) + Counter(second.cuts)),
        neutralised=first.neutralised + second.neutralised,
        claims=first.claims + second.claims,
        seconds=first.seconds + second.seconds,
        then=second,
    )
