"""Writes the reason for a listing's rank: one short sentence by the model, checked against the facts."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from genrank.decoding.checks import check_count
from genrank.engines.base import Engine, EngineCall, Stop, TextRequest, TextResult, never
from genrank.reasons.grounding import Facts, ground
from genrank.text.clean import clean
from genrank.types import Claims, Interaction, Listing, Query, Tokens

_LIST_MARK = re.compile(r"^(?:\d+[.)]|[-*•])(?:\s+|$)")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|[\u3002\uff01\uff1f]")


@dataclass(frozen=True, slots=True)
class ReasonRequest:
    """A request for one reason.

    Attributes:
        ids: ``[prompt_tokens]``; the reason follows the last of them.
        query: What the shopper typed.
        listing: The listing that needs a reason.
        history: The shopper's past; for a long one, some interactions by their places in it, 0-based.
        others: The other candidates, whose brands and attribute values the model may confuse with this listing's.
        lead: See `genrank.engines.base.ScoreRequest`.
    """

    ids: tuple[int, ...]
    query: Query
    listing: Listing
    history: Sequence[Interaction] | Mapping[int, Interaction] = ()
    others: tuple[Listing, ...] = ()
    lead: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason that agrees with the facts.

    Attributes:
        text: One sentence, at most `genrank.reasons.grounding.MAX_CHARS` characters; empty where nothing is to be said.
        evidence: The fields that support it, such as ``attributes.colour`` or ``history[2].brand``.
        claims: What the check found.
        tokens: Token counts of the model's call.
        written: The model's raw text.
    """

    text: str
    evidence: tuple[str, ...]
    claims: Claims
    tokens: Tokens
    written: str


def write_reasons(
    engine: Engine,
    requests: Sequence[ReasonRequest],
    *,
    max_tokens: int,
    ends: Sequence[int] = (),
    stop: Stop = never,
) -> list[Reason | None]:
    """Let the model write reasons, as one batch, and check each against the facts.

    Args:
        engine: Runs the model.
        requests: ``[n]``.
        max_tokens: The most tokens of one reason.
        ends: Tokens that end a reason, besides the model's own.
        stop: Says when to give up.

    Returns:
        ``[n]`` reasons; None for those that were stopped before they were written.

    Raises:
        EngineError: When the engine fails.
        OutputError: When it does not give an answer to each request.
    """
    call = ask_reasons(requests, max_tokens=max_tokens, ends=ends)
    return read_reasons(requests, call.run(engine, stop))


def ask_reasons(requests: Sequence[ReasonRequest], *, max_tokens: int, ends: Sequence[int] = ()) -> EngineCall:
    """The engine's call that writes reasons; `read_reasons` reads its answers. See `write_reasons`."""
    return EngineCall("write", [TextRequest(request.ids, max_tokens, ends, request.lead) for request in requests])


def read_reasons(
    requests: Sequence[ReasonRequest],
    results: Sequence[TextResult | None],
    *,
    stop: Callable[[], bool] = never,
) -> list[Reason | None]:
    """Check the model's reasons against the facts, until `stop` says to give up; see `write_reasons`.

    Raises:
        OutputError: When there is not one answer for each request.
    """
    check_count(results, requests)
    return [
        None if result is None or stop() else _reason(request, result.text, result.tokens)
        for request, result in zip(requests, results, strict=True)
    ]


@functools.cache
def warm_up() -> None:
    """Compile the check's patterns, once in a process: 0.4 s that should not count against a first call's deadline."""
    ground("It is red, 5 cm and by Acme.", Facts(Query("red cup"), Listing("a", "Red cup, 5 cm", brand="Acme")))


def _reason(request: ReasonRequest, written: str, tokens: Tokens) -> Reason:
    facts = Facts(request.query, request.listing, request.history, request.others)
    result = ground(tidy(written), facts)
    made, grounded = len(result.claims), sum(bool(claim.fields) for claim in result.claims)
    rewritten = result.rewritten and bool(result.text)
    claims = Claims(made, grounded, made - grounded, int(rewritten), int(not result.text))
    return Reason(result.text, result.evidence, claims, tokens, written)


def tidy(text: str) -> str:
    """The first sentence of a model's answer as one clean line; empty when there is none.

    A sentence that the token limit cut off ends with an ellipsis.
    """
    lines = [line for line in text.splitlines() if clean(line)]
    line = _LIST_MARK.sub("", clean(lines[0])) if lines else ""
    end = _SENTENCE_END.search(line)
    if end:
        return line[: end.end()]
    return f"{line} …" if line else ""
