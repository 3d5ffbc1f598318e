"""What the gateway knows of a ranking: places instead of listings, without any text of the request."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pydantic

from genrank.types import Cause, Decoding, Outcome, Provenance, RankedItem, Ranking, Request, Strategy, Tokens

Tier = Literal["reasons", "model", "baseline", "first-stage"]
"""How good an answer is, best first: the model's order with all reasons that were asked for, the model's order, an
order that is in part or wholly the fallback's, and one that is in part or wholly the first stage's."""

_WHY = {
    "deadline": "the deadline passed",
    "engine-error": "the engine failed",
    "bad-output": "the model's answer could not be used",
    "budget": "it did not fit the token budget",
}


@dataclass(frozen=True, slots=True)
class RankedPlace:
    """One candidate of an answer.

    Attributes:
        place: Its place in the request, 0-based.
        score: 0 to 1, never above the score before it.
        reason: See `genrank.RankedItem`.
        evidence: See `genrank.RankedItem`.
    """

    place: int
    score: float
    reason: str | None = None
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A ranking as the gateway passes it on and keeps it; the fields after `tier` are those of `genrank.Provenance`.

    Attributes:
        items: Best first.
        tier: How good it is.
        second_stage: Seconds of a cascade's second stage, which are part of `seconds`; None without one.
    """

    items: tuple[RankedPlace, ...]
    tier: Tier
    outcome: Outcome
    cause: Cause = ""
    reasons_missing: int = 0
    decoding: Decoding | Literal[""] = ""
    prompt: str = ""
    prompt_hash: str = ""
    windows: int = 0
    kept: int = 0
    neutralised: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    cuts: Mapping[str, int] = field(default_factory=dict)
    strategy: Strategy | Literal[""] = ""
    agreement: float | None = None
    seconds: float = 0.0
    second_stage: float | None = None

    @classmethod
    def of(cls, request: Request, ranking: Ranking, *, reasons: int) -> Answer:
        """Make it from what a reranker answered; `reasons` is how many were asked for."""
        places = {candidate.listing.listing_id: i for i, candidate in enumerate(request.candidates)}
        source = ranking.provenance
        complete = reasons and not source.reasons_missing and source.outcome != "fallback"
        tier: Tier = source.stand_in or ("reasons" if complete else "model")
        return cls(
            items=tuple(
                RankedPlace(places[item.listing_id], item.score, item.reason, item.evidence) for item in ranking
            ),
            tier=tier,
            outcome=source.outcome,
            cause=source.cause,
            reasons_missing=source.reasons_missing,
            decoding=source.decoding,
            prompt=source.prompt,
            prompt_hash=source.prompt_hash,
            windows=source.windows,
            kept=source.kept,
            neutralised=source.neutralised,
            tokens=source.tokens,
            cuts=dict(source.cuts),
            strategy=source.strategy,
            agreement=source.agreement,
            seconds=source.seconds,
            second_stage=source.then.seconds if source.then else None,
        )

    @classmethod
    def stand_in(cls, count: int, cause: Cause, scores: Sequence[float] | None = None) -> Answer:
        """The order without the model: by the fallback's scores, or as the candidates came.

        Args:
            count: How many candidates there are.
            cause: Why it is not the model's.
            scores: ``[count]`` of the fallback; higher is better, ties keep their order.
        """
        places = range(count) if scores is None else sorted(range(count), key=lambda place: -scores[place])
        items = tuple(RankedPlace(place, (count - i) / count) for i, place in enumerate(places))
        return cls(items, tier="first-stage" if scores is None else "baseline", outcome="fallback", cause=cause)

    def ranking(self, request: Request, made_by: Provenance) -> Ranking:
        """The answer as a ranking, of the candidates that it is about.

        Args:
            request: What was asked.
            made_by: Names the model, the adapter and the engine.
        """
        candidates = request.candidates
        provenance = dataclasses.replace(
            made_by,
            prompt=self.prompt,
            prompt_hash=self.prompt_hash,
            decoding=self.decoding,
            strategy=self.strategy,
            outcome=self.outcome,
            cause=self.cause,
            why=_WHY.get(self.cause, "") if self.outcome == "fallback" else "",
            stand_in=self.tier if self.tier in ("baseline", "first-stage") else "",
            reasons_missing=self.reasons_missing,
            windows=self.windows,
            kept=self.kept,
            neutralised=self.neutralised,
            tokens=self.tokens,
            cuts=self.cuts,
            agreement=self.agreement,
            seconds=self.seconds,
        )
        items = tuple(
            RankedItem(
                candidates[item.place].listing,
                rank=rank,
                score=item.score,
                source_rank=candidates[item.place].rank or item.place + 1,
                reason=item.reason,
                evidence=item.evidence,
            )
            for rank, item in enumerate(self.items, start=1)
        )
        return Ranking(request.query.query_id, items, provenance)


_STORED = pydantic.TypeAdapter(Answer)


def dump(answer: Answer) -> bytes:
    """The answer as JSON."""
    return _STORED.dump_json(answer)


def load(stored: bytes, count: int) -> Answer | None:
    """The answer that `dump` wrote for `count` candidates; None when it is something else, as of another version."""
    try:
        answer = _STORED.validate_json(stored)
    except pydantic.ValidationError:
        return None
    places = {item.place for item in answer.items}
    return answer if len(places) == len(answer.items) and places <= set(range(count)) else None
