"""Searches behind the gateway's routes: a `Pipeline` whose ranking is the gateway's own; events; forgetting."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import cachetools

from genrank.engines.base import Stop
from genrank.errors import InputError
from genrank.search.completion import Suggestion
from genrank.search.filters import Filters
from genrank.search.parts import Parts
from genrank.search.pipeline import SearchResult, Stage, Understand
from genrank.search.understanding import Intent
from genrank.server.answers import Answer
from genrank.server.batching import QueueFullError
from genrank.server.gateway import DownError, Gateway
from genrank.server.logs import log
from genrank.server.privacy import masked
from genrank.types import Candidate, Interaction, Provenance, Query, Ranking, Request, Tokens

if TYPE_CHECKING:
    from genrank.search.understanding import Understanding

_UNDERSTANDING = 1 / 3  # of the time, at most
_REMEMBERED = 10_000  # searches whose events need no look into the log
_FAILED = "failed"

Event = Literal["click", "cart", "purchase"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A search that was read and checked.

    Attributes:
        query: What the shopper typed.
        request_id: Names it in the log.
        ends: When it must be answered, on the clock of ``time.monotonic()``.
        seconds: How long it may take in all.
        user_id: Who searches.
        history: The shopper's past.
        filters: Conditions that each result meets.
        top_k: How many results; None for all.
        reasons: How many of the first results get a reason.
        variety: In place of the configured one.
        logged: Whether what it shows is logged.
    """

    query: Query
    request_id: str
    ends: float
    seconds: float
    user_id: str | None = None
    history: Sequence[Interaction] = ()
    filters: Filters | None = None
    top_k: int | None = None
    reasons: int = 0
    variety: float | None = None
    logged: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search.

    Attributes:
        result: What was found.
        answer: How it was ranked; of two rankings, with the tokens of both.
        cached: Whether the ranking was kept from before.
    """

    result: SearchResult
    answer: Answer
    cached: bool


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a search showed."""

    query: str
    listing_ids: frozenset[str]


class Searcher:
    """Searches a catalogue. Create it, and await everything else, in one event loop.

    Args:
        gateway: Ranks.
        parts: The index and what else there is; closed with the searcher.

    Raises:
        GenrankError: When queries are to be understood and that is not possible.
    """

    def __init__(self, gateway: Gateway, parts: Parts) -> None:
        self.parts = parts
        self._gateway = gateway
        self._config = gateway.config.search
        engine = gateway.first.engine
        self._understanding = parts.understanding(engine) if self._config.understand else None
        self._made_by = Provenance(
            model=gateway.names[0],
            adapter=PurePath(engine.adapter).name if engine.adapter else None,
            engine=engine.name,
        )
        self._running = 0
        self._shown: cachetools.LRUCache[str, _Shown] = cachetools.LRUCache(_REMEMBERED)

    @classmethod
    def of(cls, gateway: Gateway) -> Searcher | None:
        """The searcher that the gateway's configuration describes; None without an index.

        Raises:
            GenrankError: When a part cannot be opened.
        """
        config = gateway.config.search
        if config.index is None:
            return None
        parts = Parts.open(
            config.index,
            encoder=config.encoder,
            shoppers=config.shoppers,
            rules=config.rules,
            log=config.log,
            estimates=config.estimates,
        )
        try:
            return cls(gateway, parts)
        except BaseException:
            parts.close()
            raise

    async def search(self, asked: Asked) -> Found:
        """Search. When the caller is cancelled, the work stops.

        Raises:
            InputError: When an argument is wrong.
            QueueFullError: When too many requests wait.
            DownError: When the model ranked nothing, and the configuration says to refuse such an answer.
        """
        batching = self._gateway.config.batching
        if self._running >= batching.queue + batching.size:
            raise QueueFullError(self._gateway.retry_after)
        rank = _GatewayRank(self._gateway, asked, self._made_by)
        left = asked.ends - time.monotonic()
        stop = Stop(time.monotonic() + _UNDERSTANDING * left)
        logging_it = {} if asked.logged else {"log": None}
        pipeline = self.parts.pipeline(
            rank,
            understand=self._reading(self._understanding, stop) if self._understanding else None,
            variety=self._config.variety,
            candidates=self._config.candidates,
            weight=self._config.weight,
            **logging_it,
        )
        self._running += 1
        try:
            result = await pipeline.asearch(
                asked.query,
                user_id=asked.user_id,
                history=asked.history,
                filters=asked.filters,
                top_k=asked.top_k and min(asked.top_k, self._config.candidates),
                reasons=asked.reasons,
                variety=asked.variety,
                deadline=max(left, 1e-3),
                request_id=asked.request_id,
            )
        finally:
            self._running -= 1
            stop.cancel()  # a thread may still read the query
        result = _harmless(result)
        for stage in result.stages:
            self._gateway.metrics.stages.labels(stage.name).observe(stage.seconds)
        found = Found(result, *rank.outcome(asked.reasons))
        if rank.answers:
            took = time.monotonic() - asked.ends + asked.seconds
            self._gateway.metrics.answered(found.answer, cached=found.cached, seconds=took)
        if self.parts.log is not None and asked.logged and result.ranking.items:
            ids = frozenset(item.listing_id for item in result.ranking)
            self._shown[asked.request_id] = _Shown(result.query.text, ids)
        return found

    async def complete(self, prefix: str, count: int) -> list[Suggestion]:
        """Suggestions for what has been typed so far; none where there are no suggestions."""
        completion = self.parts.completion
        return await asyncio.to_thread(completion.complete, prefix, count) if completion else []

    async def shown(self, request_id: str) -> frozenset[str] | None:
        """The ids of the listings that a search showed; None for one that the log does not know."""
        found = await self._search_of(request_id)
        return None if found is None else found.listing_ids

    async def happened(
        self,
        request_id: str,
        listing_id: str,
        event: Event,
        *,
        time: datetime,
        event_id: str | None = None,
        user_id: str | None = None,
    ) -> None:
        """Log what a shopper did, and remember it for a known one's next searches; both once, however often it is sent.

        Raises:
            InputError: When a field is wrong.
            OSError: When it cannot be written.
        """
        search = await self._search_of(request_id)
        query = search.query if search else ""
        await asyncio.to_thread(self._record, request_id, listing_id, event, time, event_id, user_id, query)

    async def forget(self, user_id: str) -> tuple[int | None, int | None, int | None]:
        """Remove a shopper.

        Returns:
            How many interactions, impressions and events there were; None for what is not kept.

        Raises:
            InputError: When the id is wrong.
            OSError: When it cannot be written.
        """
        shoppers, feedback = self.parts.shoppers, self.parts.log
        interactions = await asyncio.to_thread(shoppers.forget, user_id) if shoppers else None
        if feedback is None:
            return interactions, None, None
        removed = await asyncio.to_thread(feedback.forget, user_id)
        self._shown.clear()  # it does not say whose searches they were
        return interactions, removed.impressions, removed.events

    async def titles(self, listing_ids: Sequence[str]) -> dict[str, str]:
        """The titles of listings, by id."""
        found = await asyncio.to_thread(self.parts.index.get, listing_ids)
        return {listing.listing_id: listing.title for listing in found}

    def close(self) -> None:
        """Close the index and the other parts."""
        self.parts.close()

    def _reading(self, reader: Understanding, stop: Stop) -> Understand:
        """Reads a query until `stop` says so; while the engine is left alone, only its words."""

        def understand(query: Query) -> Intent:
            if self._gateway.breaker.state == "open":
                stop.cancel()
            try:
                intent = reader.understand(query, stop=stop)
            except InputError:
                raise
            except Exception as error:  # whatever the engine raises, the search goes on
                log(logging.ERROR, "the engine failed to read a query", error=type(error).__name__)
                stop.cancel()
                intent = reader.understand(query, stop=stop)
            return dataclasses.replace(intent, why=intent.why and "the model could not be asked, or not in time")

        return understand

    def _record(
        self,
        request_id: str,
        listing_id: str,
        event: Event,
        time: datetime,
        event_id: str | None,
        user_id: str | None,
        query: str,
    ) -> None:
        if self.parts.log is not None:
            self.parts.log.event(request_id, listing_id, event, time=time, event_id=event_id)
        listings = self.parts.index.get([listing_id])
        if self.parts.shoppers is None or user_id is None or not listings:
            return
        mask = self._gateway.config.privacy.mask
        happened = masked([Interaction(event, listings[0], time=time, query=query)], mask)
        if happened[0] not in self.parts.shoppers.history(user_id):
            self.parts.shoppers.add(user_id, happened)

    async def _search_of(self, request_id: str) -> _Shown | None:
        known: _Shown | None = self._shown.get(request_id)
        if known is None:
            known = await asyncio.to_thread(self._look_up, request_id)
            if known is not None:
                self._shown[request_id] = known
        return known

    def _look_up(self, request_id: str) -> _Shown | None:
        """What the log knows of a search, of another process or from before a restart."""
        if self.parts.log is None:
            return None
        rows = self.parts.log.query("SELECT query, listing_id FROM impressions WHERE request_id = ?", [request_id])
        ids = frozenset(rows.column("listing_id").to_pylist())
        return _Shown(rows.column("query")[0].as_py(), ids) if ids else None


class _GatewayRank:
    """Ranks one search as the gateway ranks everything, and remembers the answers.

    Attributes:
        answers: Of the ranking and, where reasons are written later, of that; and whether each was kept from before.
    """

    def __init__(self, gateway: Gateway, asked: Asked, made_by: Provenance) -> None:
        self._gateway, self._asked, self._made_by = gateway, asked, made_by
        self.answers: list[tuple[Answer, bool]] = []

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
        """See `genrank.search.pipeline.AwaitedRank`; the search's own deadline counts."""
        del deadline
        request = Request(query, tuple(candidates), masked(history, self._gateway.config.privacy.mask), intent)
        try:
            answer, cached = await self._gateway.rank(
                request, top_k=None, reasons=reasons, ends=self._asked.ends, seconds=self._asked.seconds
            )
        except (QueueFullError, DownError):
            if not self.answers:
                raise
            answer, cached = Answer.stand_in(len(candidates), "engine-error"), False  # the order stays; no reasons
        self.answers.append((answer, cached))
        return answer.ranking(request, self._made_by)

    def outcome(self, reasons: int) -> tuple[Answer, bool]:
        """What the search's answer is worth: the ranking's tier, and the reasons', wherever they were written."""
        if not self.answers:  # nothing was found, so there was nothing to rank
            return Answer((), tier="model", outcome="model"), False
        first, last = self.answers[0][0], self.answers[-1][0]
        tier = "reasons" if first.tier == "model" and last.tier == "reasons" else first.tier
        missing = min(reasons, len(first.items)) if last.outcome == "fallback" else last.reasons_missing
        answer = dataclasses.replace(
            first,
            tier=tier,
            reasons_missing=missing,
            tokens=sum((answer.tokens for answer, cached in self.answers if not cached), Tokens()),
        )
        return answer, all(cached for _, cached in self.answers)


def _harmless(result: SearchResult) -> SearchResult:
    """A result whose notes hold no error's own words, which may name a path; the log says which stage failed."""

    def plain(stage: Stage) -> Stage:
        if not stage.note.startswith(f"{_FAILED}: "):
            return stage
        log(logging.ERROR, "a stage of a search failed", stage=stage.name)
        return dataclasses.replace(stage, note=_FAILED)

    return dataclasses.replace(result, stages=tuple(map(plain, result.stages)))
