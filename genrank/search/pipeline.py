"""The shop's whole path: understand a query, find candidates, rank them, vary the result, apply rules, log it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from genrank.blending import blend_ranking, is_weight
from genrank.cascade import Cascade
from genrank.errors import EngineError, GenrankError, InputError, shown
from genrank.inputs import make_history, make_query, whole_number
from genrank.reranker import Reranker
from genrank.search.diversity import diversify
from genrank.search.feedback.estimates import ClickEstimates
from genrank.search.filters import Filters
from genrank.search.fusion import reciprocal_rank_fusion
from genrank.search.index import Index
from genrank.search.rules import Rules, apply_rules
from genrank.search.shoppers import Shoppers, check_user, profile
from genrank.search.understanding import Intent, Understanding
from genrank.search.understanding.literal import prices
from genrank.types import Candidate, Interaction, Query, RankedItem, Ranking, Request, Variety, compact

if TYPE_CHECKING:  # a pipeline without a log needs neither pyarrow nor DuckDB
    from genrank.search.feedback.log import FeedbackLog


StageName = Literal["understand", "match", "personalise", "rank", "blend", "vary", "rules", "explain", "log"]
"""The stages, in their order."""

Understand = Callable[[Query], Intent]
"""Reads a query, in the place of `genrank.search.understanding.Understanding`."""

Match = Callable[[Query, Intent | None, Filters, int], Sequence[Candidate]]
"""Finds candidates, best first: for a query, its intent if it was read, the caller's filters, and their number."""

Rank = Callable[[Request], Ranking]
"""Ranks a request, in the place of `genrank.Reranker`."""


@runtime_checkable
class AwaitedRank(Protocol):
    """Ranks as `genrank.Reranker.arerank` does, in its place; a pipeline with one has only `Pipeline.asearch`."""

    async def arerank(
        self,
        query: Query,
        candidates: Sequence[Candidate],
        history: Sequence[Interaction],
        *,
        intent: Intent | None,
        reasons: int,
        deadline: float | None,
    ) -> Ranking:
        """Rank candidates, with reasons for the first ones."""


Personalise = Callable[[str, Query, Sequence[Candidate]], Sequence[Interaction]]
"""What is known of a shopper (the user id) that matters for a query and its candidates."""

Vary = Callable[[Ranking], Ranking]
"""Makes a ranking more varied, in the place of `genrank.search.diversity.diversify`."""

_LEAST_CONFIDENCE = 0.5  # of what raises a listing
_MOST_CATEGORIES = 2  # that raise listings
_LEAST_SECONDS = 0.001  # for a stage, when the deadline is as good as over


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a search.

    Attributes:
        name: Which one.
        seconds: How long it took.
        order: The listing ids after it, best first, where it changed the order.
        note: What went otherwise than it should, in words.
    """

    name: StageName
    seconds: float
    order: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to a search.

    Attributes:
        request_id: For `genrank.search.feedback.FeedbackLog.event`.
        query: What was searched for.
        intent: What it means; None where that was not asked.
        ranking: The listings, best first; the first ones, if `top_k` was given.
        found: How many candidates there were.
        stages: What each stage did, in their order.
    """

    request_id: str
    query: Query
    intent: Intent | None
    ranking: Ranking
    found: int
    stages: tuple[Stage, ...]

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON types; each item with its whole listing."""
        line = self.ranking.to_dict()
        for told, item in zip(line.get("items", []), self.ranking, strict=True):
            told["listing"] = item.listing.to_dict()
        return compact(
            {
                "request_id": self.request_id,
                "query": self.query.text,
                "intent": self.intent.to_dict() if self.intent else None,
                "items": line.get("items", []),
                "found": self.found,
                "stages": [dataclasses.asdict(stage) | {"order": list(stage.order)} for stage in self.stages],
                "provenance": line.get("provenance"),
            }
        )


@dataclass(frozen=True, slots=True)
class _Rerank:
    """A call of the reranker that is still to be made."""

    ranker: AwaitedRank
    arguments: tuple[Query, Sequence[Candidate], Sequence[Interaction]]
    options: dict[str, Any]


_Steps = Generator[_Rerank, Ranking, SearchResult]


@dataclass
class _Search:
    """One search on its way through the stages."""

    query: Query
    user_id: str | None
    history: tuple[Interaction, ...]
    filters: Filters
    top_k: int | None
    reasons: int
    variety: float
    ends: float | None
    request_id: str
    intent: Intent | None = None
    candidates: tuple[Candidate, ...] = ()
    stages: list[Stage] = field(default_factory=list)

    def left(self) -> float | None:
        """Seconds left; None without a deadline."""
        return None if self.ends is None else max(_LEAST_SECONDS, self.ends - time.monotonic())

    def request(self) -> Request:
        """What is to be ranked."""
        return Request(self.query, self.candidates, self.history, self.intent)

    def rerank(self, ranker: AwaitedRank, candidates: Sequence[Candidate], reasons: int) -> _Rerank:
        """A call of the reranker for this search."""
        options = {"intent": self.intent, "reasons": reasons, "deadline": self.left()}
        return _Rerank(ranker, (self.query, candidates, self.history), options)

    @contextmanager
    def stage(self, name: StageName) -> Iterator[dict[str, Any]]:
        """Time a stage; what is put into the dict goes into its `Stage`."""
        started, told = time.monotonic(), dict[str, Any]()
        yield told
        self.stages.append(Stage(name, time.monotonic() - started, **told))


class Pipeline:
    """Searches a catalogue from query to shown results.

    Each stage is a part of genrank or any callable of the same form; those that are not given are left out.

    1. ``understand``: what the query means.
    2. ``match``: candidates from the index. The price range, the brand and the exclusions of the query are filters
       (without them if nothing is left); a listing in a category that it means, or with an attribute, comes higher.
    3. ``personalise``: a short profile of the shopper.
    4. ``rank``: the reranker reads the candidates.
    5. ``blend``: what shoppers clicked for this query, blended with the ranking's scores. Listings that nobody looked
       at for it keep their order among themselves, and so does the whole ranking where that goes for all. A ranking
       whose outcome is ``fallback`` stays as it is.
    6. ``vary``, 7. ``rules``: `genrank.search.diversity` and `genrank.search.rules`.
    8. ``explain``: reasons for the first items, where a stage after the ranking may have moved others there.
    9. ``log``: what is returned counts as shown.

    If ``personalise`` or ``log`` fails, the search goes on without it, and the stage's note says why.

    Args:
        match: An index, or a callable.
        rank: A `Reranker` or `Cascade`, an `AwaitedRank`, or a callable; None keeps the order of the candidates.
        understand: An `Understanding`, or a callable.
        personalise: `Shoppers`, or a callable; used where a search names a user and gives no history.
        estimates: Estimates of clicks or purchases.
        weight: Weight of the ranking's scores beside `estimates`, 0 to 1; needed with them. In a clone,
            ``python -m eval.calibrate --estimates`` fits it.
        vary: A callable in the place of `diversify`.
        variety: The knob of `diversify`, 0 to 1, for searches that do not give their own.
        method: The method of `diversify`.
        rules: Business rules.
        log: What was shown is written there.
        candidates: How many candidates are found and ranked.
        profile: The most interactions of a shopper that are shown to the reranker.

    Raises:
        InputError: When an argument is wrong.
    """

    def __init__(
        self,
        match: Index | Match,
        rank: Reranker | Cascade | AwaitedRank | Rank | None = None,
        *,
        understand: Understanding | Understand | None = None,
        personalise: Shoppers | Personalise | None = None,
        estimates: ClickEstimates | None = None,
        weight: float | None = None,
        vary: Vary | None = None,
        variety: float = 0.0,
        method: Variety = "mmr",
        rules: Rules | None = None,
        log: FeedbackLog | None = None,
        candidates: int = 50,
        profile: int = 8,
    ) -> None:
        for name, value, kinds in (
            ("match", match, (Index,)),
            ("rank", rank, (Reranker, Cascade, AwaitedRank)),
            ("understand", understand, (Understanding,)),
            ("personalise", personalise, (Shoppers,)),
            ("vary", vary, ()),
        ):
            if not isinstance(value, kinds) and not callable(value) and (value is not None or name == "match"):
                names = " or ".join([*(kind.__name__ for kind in kinds), "a callable"])
                raise InputError(f"must be {names}, got {shown(value)}", field=name)
        if estimates is not None and not isinstance(estimates, ClickEstimates):
            raise InputError(f"must be ClickEstimates, got {shown(estimates)}", field="estimates")
        if (estimates is None) != (weight is None) or not (weight is None or is_weight(weight)):
            raise InputError(
                f"must be a number within 0..1 with estimates, and left out without, got {shown(weight)}",
                field="weight",
            )
        self._estimates, self._weight = estimates, 1.0 if weight is None else float(weight)
        self._match, self._rank, self._understand, self._personalise = match, rank, understand, personalise
        self._vary, self._variety, self._method = vary, _knob(variety), method
        self._rules, self._log = rules, log
        self._candidates = whole_number("candidates", candidates, at_least=1)
        self._profile = whole_number("profile", profile, at_least=0)

    def search(
        self,
        query: Query | str,
        *,
        user_id: str | None = None,
        history: Iterable[Interaction | Mapping[str, Any]] = (),
        filters: Filters | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        variety: float | None = None,
        deadline: float | None = None,
        request_id: str = "",
    ) -> SearchResult:
        """Search.

        Args:
            query: What the shopper typed.
            user_id: Who searches: for ``personalise``, and for the log, which keeps a pseudonym.
            history: The shopper's past, in the place of what ``personalise`` knows.
            filters: Conditions that each result meets, whatever the query says.
            top_k: How many results to return; by default all candidates.
            reasons: How many of the first results get a reason; a callable ``rank`` decides that itself.
            variety: The knob, in the place of the pipeline's.
            deadline: Seconds for everything. Past it, stages that need a model are cut short, as each of them says.
            request_id: Names the search in the log; by default a new one.

        Raises:
            InputError: When an argument is wrong, or the pipeline's ``rank`` can only be awaited.
            GenrankError: Whatever a stage raises that cannot go on; a failing model is no such case.
        """
        search = self._begin(query, user_id, history, filters, top_k, reasons, variety, deadline, request_id)
        steps = self._steps(search)
        asked = _next(steps)
        while isinstance(asked, _Rerank):
            if not isinstance(asked.ranker, (Reranker, Cascade)):
                raise InputError("can only be awaited; call asearch", field="rank")
            asked = _next(steps, asked.ranker.rerank(*asked.arguments, **asked.options))
        return asked

    async def asearch(
        self,
        query: Query | str,
        *,
        user_id: str | None = None,
        history: Iterable[Interaction | Mapping[str, Any]] = (),
        filters: Filters | None = None,
        top_k: int | None = None,
        reasons: int = 0,
        variety: float | None = None,
        deadline: float | None = None,
        request_id: str = "",
    ) -> SearchResult:
        """`search` for asyncio: the reranker is awaited, the other stages run in a thread."""
        search = self._begin(query, user_id, history, filters, top_k, reasons, variety, deadline, request_id)
        steps = self._steps(search)
        asked = await asyncio.to_thread(_next, steps)
        while isinstance(asked, _Rerank):
            ranking = await asked.ranker.arerank(*asked.arguments, **asked.options)
            asked = await asyncio.to_thread(_next, steps, ranking)
        return asked

    def _begin(
        self,
        query: Query | str,
        user_id: str | None,
        history: Iterable[Interaction | Mapping[str, Any]],
        filters: Filters | None,
        top_k: int | None,
        reasons: int,
        variety: float | None,
        deadline: float | None,
        request_id: str,
    ) -> _Search:
        if filters is not None and not isinstance(filters, Filters):
            raise InputError(f"must be Filters, got {shown(filters)}", field="filters")
        if user_id is not None:
            check_user(user_id)
        if top_k is not None:
            whole_number("top_k", top_k, at_least=1)
        if deadline is not None and not (isinstance(deadline, (int, float)) and deadline > 0):
            raise InputError(f"must be more than 0 seconds, got {shown(deadline)}", field="deadline")
        return _Search(
            query=make_query(query),
            user_id=user_id,
            history=make_history(history),
            filters=filters or Filters(),
            top_k=top_k,
            reasons=whole_number("reasons", reasons, at_least=0),
            variety=self._variety if variety is None else _knob(variety),
            ends=None if deadline is None else time.monotonic() + deadline,
            request_id=request_id or uuid.uuid4().hex,
        )

    def _steps(self, search: _Search) -> _Steps:
        """All stages; each call of the reranker is yielded, to be made or awaited, and gets its ranking sent."""
        self._find(search)
        with search.stage("rank") as told:
            if not search.candidates or self._rank is None:
                ranking = Ranking(search.query.query_id, _as_found(search.candidates))
            elif isinstance(self._rank, AwaitedRank):
                reasons = 0 if self._moves(search) else search.reasons
                ranking = yield search.rerank(self._rank, search.candidates, reasons)
            elif (ranked := self._rank(search.request())) is not None:
                ranking = ranked
            else:
                raise EngineError("the rank stage returned nothing")
            told["order"] = tuple(item.listing_id for item in ranking)
            if ranking.provenance.outcome == "fallback":
                told["note"] = ranking.provenance.why
        ranking = self._moved(search, ranking)
        first = ranking.items[: search.reasons]
        if first and self._moves(search) and isinstance(self._rank, AwaitedRank):
            with search.stage("explain"):
                candidates = tuple(Candidate(item.listing, item.score) for item in first)  # a blend needs scores
                told_of = yield search.rerank(self._rank, candidates, len(candidates))
                ranking = _with_reasons(ranking, told_of)
        if self._log is not None and ranking.items:
            with search.stage("log") as told, _optional(told):
                self._log.shown(ranking, request_id=search.request_id, query=search.query.text, user_id=search.user_id)
        return SearchResult(
            search.request_id, search.query, search.intent, ranking, len(search.candidates), tuple(search.stages)
        )

    def _find(self, search: _Search) -> None:
        """The stages before the ranking."""
        if self._understand is not None:
            with search.stage("understand") as told:
                if isinstance(self._understand, Understanding):
                    search.intent = self._understand.understand(search.query, deadline=search.left())
                else:
                    search.intent = self._understand(search.query)
                if search.intent.why:
                    told["note"] = search.intent.why
                if search.intent.corrected != search.intent.query:
                    search.query = dataclasses.replace(search.query, text=search.intent.corrected)
        with search.stage("match") as told:
            if isinstance(self._match, Index):
                found, told["note"] = match(self._match, search.query, search.intent, search.filters, self._candidates)
            else:
                found = list(self._match(search.query, search.intent, search.filters, self._candidates))
            search.candidates = tuple(found[: self._candidates])
            told["order"] = tuple(one.listing.listing_id for one in search.candidates)
        if self._personalise is not None and search.user_id is not None and not search.history:
            with search.stage("personalise") as told, _optional(told):
                listings = [one.listing for one in search.candidates]
                if isinstance(self._personalise, Shoppers):
                    known: Sequence[Interaction] = self._personalise.history(search.user_id)
                else:
                    known = self._personalise(search.user_id, search.query, search.candidates)
                search.history = tuple(profile(known, search.query, listings, most=self._profile))

    def _moved(self, search: _Search, ranking: Ranking) -> Ranking:
        """The ranking after the stages that change its order, cut to what is wanted."""
        if self._estimates is not None:
            with search.stage("blend") as told:
                ranking = with_estimates(ranking, search.query, self._estimates, self._weight)
                told["order"] = tuple(item.listing_id for item in ranking)
        if self._vary is not None or search.variety:
            with search.stage("vary") as told:
                if self._vary is not None:
                    ranking = self._vary(ranking)
                else:
                    top = search.top_k or 10
                    ranking = diversify(ranking, variety=search.variety, method=self._method, top_k=top)
                told["order"] = tuple(item.listing_id for item in ranking)
        if self._rules is not None:
            with search.stage("rules") as told:
                ranking, report = apply_rules(ranking, self._rules)
                told["order"] = tuple(item.listing_id for item in ranking)
                told["note"] = "; ".join(f"{one.rule}: {one.why}" for one in report.conflicts)
        return ranking if search.top_k is None else dataclasses.replace(ranking, items=ranking.items[: search.top_k])

    def _moves(self, search: _Search) -> bool:
        """Whether a stage after the ranking may change its order."""
        return bool(self._estimates is not None or self._vary is not None or search.variety or self._rules is not None)


def _next(steps: _Steps, ranking: Ranking | None = None) -> _Rerank | SearchResult:
    """The next call of the reranker, or the result.

    Args:
        steps: The stages.
        ranking: The answer to the last call; None at the beginning.
    """
    try:
        return steps.send(ranking)  # type: ignore[arg-type] # a generator that begins is sent None
    except StopIteration as end:
        result: SearchResult = end.value
        return result


@contextmanager
def _optional(told: dict[str, Any]) -> Iterator[None]:
    """A stage that no answer depends on: if it fails, its note says so, and the search goes on."""
    try:
        yield
    except (OSError, GenrankError) as error:
        told["note"] = f"failed: {error}"


def match(
    index: Index, query: Query, intent: Intent | None, filters: Filters, count: int
) -> tuple[list[Candidate], str]:
    """Find candidates in an index, with what the query means.

    The caller's filters always hold. The intent's price range, brand and exclusions are filters too, unless nothing
    meets them; the words of the price are not searched for. What it means besides is no filter: the listings in each of
    its likeliest categories, and those with each of its attributes, are rankings of their own, fused with that of the
    query's words (`genrank.search.fusion.reciprocal_rank_fusion`), so they come higher.

    Returns:
        At most `count` candidates, best first, and what was given up, in words.
    """
    if intent is None:
        return index.search(query, filters=filters, k=count), ""
    query = dataclasses.replace(query, text=searched_text(query.text, intent))
    strict, note = filters_with(filters, intent), ""
    found = index.search(query, filters=strict, k=count)
    if not found and strict != filters:
        strict, note = filters, "nothing meets the query's price, brand and exclusions, which were left out"
        found = index.search(query, filters=filters, k=count)
    rankings = [found, *(index.search(query, filters=one, k=count) for one in raising_filters(intent, strict))]
    by_id = {one.listing.listing_id: one.listing for ranking in rankings for one in ranking}
    scores = reciprocal_rank_fusion([one.listing.listing_id for one in ranking] for ranking in rankings)
    best = list(scores.items())[:count]
    return [Candidate(by_id[one], score=score, rank=rank) for rank, (one, score) in enumerate(best, start=1)], note


def with_estimates(ranking: Ranking, query: Query, estimates: ClickEstimates, weight: float) -> Ranking:
    """Blend a ranking's scores with estimates of clicks; see `genrank.blending` and `ClickEstimates.standard_scores`.

    Args:
        ranking: The ranking.
        query: What it answers.
        estimates: The estimates.
        weight: Weight of the ranking's scores, 0 to 1.

    Returns:
        The same items. Where no listing was looked at for this query, or the outcome is ``fallback``, the ranking.
    """
    others = estimates.standard_scores(query.text, [item.listing_id for item in ranking])
    if not any(others) or ranking.provenance.outcome == "fallback":
        return ranking
    provenance = dataclasses.replace(ranking.provenance, estimates=weight, calibration=None)
    return dataclasses.replace(blend_ranking(ranking, others, weight), provenance=provenance)


def categories_of(index: Index, listings: int = 20) -> Callable[[str], list[tuple[Sequence[str], float]]]:
    """How `genrank.search.understanding.Vocabulary` finds categories in an index, without a copy of it in memory.

    Args:
        index: The catalogue's.
        listings: How many listings say which category a text means.
    """

    def search(text: str) -> list[tuple[Sequence[str], float]]:
        found = index.search(text, k=listings, mode="text")
        return [(one.listing.category, one.score or 0.0) for one in found]

    return search


def searched_text(text: str, intent: Intent) -> str:
    """The words of a query to search for: without those of its price, which is a filter."""
    return (prices(text)[1] if intent.has_price else "") or text


def filters_with(filters: Filters, intent: Intent) -> Filters:
    """The caller's filters with the intent's price range, brand and exclusions; where they disagree, the caller's."""
    changes: dict[str, Any] = {}
    if filters.price_min is None and filters.price_max is None and intent.has_price:
        changes = {"price_min": intent.least_price, "price_max": intent.most_price}
        if filters.currency is None and intent.currency:
            changes["currency"] = intent.currency
    if filters.brand is None and intent.brand is not None:
        changes["brand"] = intent.brand.value
    if intent.excluded:
        changes["without_words"] = tuple(dict.fromkeys([*filters.without_words, *intent.excluded]))
    return dataclasses.replace(filters, **changes)


def raising_filters(intent: Intent, filters: Filters) -> Iterator[Filters]:
    """What an intent raises: its likeliest categories and its attributes, each as filters of its own.

    What the caller's filters decide already is not among them.
    """
    if not filters.category:
        for category in intent.categories[:_MOST_CATEGORIES]:
            yield dataclasses.replace(filters, category=category.value)
    for name, guess in intent.attributes.items():
        if guess.confidence >= _LEAST_CONFIDENCE and name not in filters.attributes:
            yield dataclasses.replace(filters, attributes={**filters.attributes, name: guess.value})


def _as_found(candidates: Sequence[Candidate]) -> tuple[RankedItem, ...]:
    """Candidates as a ranking in their own order."""
    count = len(candidates)
    return tuple(
        RankedItem(one.listing, rank=place + 1, score=1 - place / count, source_rank=place + 1)
        for place, one in enumerate(candidates)
    )


def _with_reasons(ranking: Ranking, told_of: Ranking) -> Ranking:
    """A ranking with the reasons of another one of the same listings."""
    reasons = {item.listing_id: item for item in told_of}
    items = tuple(
        dataclasses.replace(item, reason=told.reason, evidence=told.evidence)
        if (told := reasons.get(item.listing_id))
        else item
        for item in ranking
    )
    return dataclasses.replace(ranking, items=items)


def _knob(variety: float) -> float:
    if not is_weight(variety):
        raise InputError(f"must be a number within 0..1, got {shown(variety)}", field="variety")
    return float(variety)
