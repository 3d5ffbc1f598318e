"""Why a listing stands where it stands: one short sentence, written by the model and held to the facts."""

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
    """A reason to be written.

    Attributes:
        ids: ``[prompt_tokens]``; the reason follows the last of them.
        query: What the shopper typed.
        listing: What the reason is for.
        history: The shopper's past; of a long one, interactions by their places in it, 0-based.
        others: The other candidates, whose brands and attribute values the model may take for this listing's.
    """

    ids: tuple[int, ...]
    query: Query
    listing: Listing
    history: Sequence[Interaction] | Mapping[int, Interaction] = ()
    others: tuple[Listing, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason that keeps to the facts.

    Attributes:
        text: One sentence, at most `genrank.reasons.grounding.MAX_CHARS` characters.
        evidence: The fields that it rests on, such as ``attributes.colour`` or ``history[2].brand``.
        claims: What the check found.
        tokens: What the model's part cost.
        written: What the model wrote, untidied.
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
    """Let the model write reasons, as one batch, and hold each to the facts.

    Args:
        engine: Runs the model.
        requests: ``[n]``.
        max_tokens: The most tokens of one reason.
        ends: Tokens that end a reason, beside the model's own.
        stop: Whether to give up.

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
    return EngineCall("write", [TextRequest(request.ids, max_tokens, ends) for request in requests])


def read_reasons(
    requests: Sequence[ReasonRequest],
    results: Sequence[TextResult | None],
    *,
    stop: Callable[[], bool] = never,
) -> list[Reason | None]:
    """Hold what the model wrote to the facts, until `stop` says to give up; see `write_reasons`.

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
    """Compile the patterns of the check, once a process: 0.4 s that no deadline of a first call should pay for."""
    ground("It is red, 5 cm and by Acme.", Facts(Query("red cup"), Listing("a", "Red cup, 5 cm", brand="Acme")))


def _reason(request: ReasonRequest, written: str, tokens: Tokens) -> Reason:
    facts = Facts(request.query, request.listing, request.history, request.others)
    result = ground(tidy(written), facts)
    made, grounded = len(result.claims), sum(bool(claim.fields) for claim in result.claims)
    claims = Claims(made, grounded, made - grounded, int(result.rewritten))
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
