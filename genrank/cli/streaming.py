"""Reranks a stream of request lines, a batch at a time; valid lines are ranked, wrong ones are counted."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from genrank.cascade import Cascade
from genrank.errors import DataFormatError, InputError
from genrank.reranker import Reranker
from genrank.types import Provenance, Ranking, Request

Line = tuple[int, Request | DataFormatError]
"""A line's number, 1-based, and its request, or what is wrong with it."""


@dataclass
class Summary:
    """How many lines were answered, and how many were wrong.

    Attributes:
        answered: Lines answered with a ranking, whoever made it.
        wrong: Lines that could not be read or ranked; each was reported.
        outcomes: Rankings by ``provenance.outcome``, or by what stands in for it, in words.
    """

    answered: int = 0
    wrong: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        text = f"{self.answered} answered, {self.wrong} wrong"
        troubled = [f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()) if outcome != "model"]
        return f"{text} ({', '.join(troubled)})" if troubled else text


def _outcome(provenance: Provenance) -> str:
    """What became of a ranking, for `Summary`."""
    if provenance.outcome != "fallback":
        return provenance.outcome
    if not provenance.stand_in:  # of a cascade, whose second stage alone was in trouble
        return "not wholly ranked again by the second stage"
    whose = "the fallback's order" if provenance.stand_in == "baseline" else "the order given"
    return f"partly in {whose}" if provenance.windows else f"in {whose}"


def rerank_lines(
    reranker: Reranker | Cascade,
    name: str,
    lines: Iterable[Line],
    summary: Summary,
    *,
    report: Callable[[DataFormatError], None],
    batch: int = 8,
    top_k: int | None = None,
    reasons: int = 0,
    deadline: float | None = None,
) -> Iterator[tuple[int, Request, Ranking]]:
    """Rank the requests of a stream, holding one batch in memory.

    Args:
        reranker: Ranks them.
        name: The file's name, for errors.
        lines: What `genrank.data.jsonl.read_requests` yields.
        summary: Counted up as the stream goes on, so that it is right even when the stream breaks off.
        report: Called with each wrong line's error, in the lines' order.
        batch: Requests that are ranked at once.
        top_k: See `Reranker.rerank`.
        reasons: See `Reranker.rerank`.
        deadline: See `Reranker.rerank`; for each batch.

    Yields:
        Each right request's line number, 1-based, the request and its ranking, in the lines' order.

    Raises:
        InputError: When `top_k`, `reasons` or `deadline` is wrong.
    """

    def rank(requests: list[Request]) -> list[Ranking]:
        return reranker.rerank_batch(requests, top_k=top_k, reasons=reasons, deadline=deadline)

    reranker.check_options(top_k=top_k, reasons=reasons, deadline=deadline)  # a wrong call, not a wrong line
    stream = iter(lines)
    while chunk := list(itertools.islice(stream, batch)):
        answers: list[Ranking | InputError | DataFormatError]
        right = [line for _, line in chunk if isinstance(line, Request)]
        try:
            answers = [*rank(right)]
        except InputError:  # one request that cannot be ranked must not affect the others
            answers = []
            for request in right:
                try:
                    answers += rank([request])
                except InputError as error:
                    answers.append(error)
        answered = iter(answers)
        for number, line in chunk:
            answer = line if isinstance(line, DataFormatError) else next(answered)
            if isinstance(answer, InputError):
                answer = DataFormatError(name, number, "a request that can be ranked", str(answer))
            if isinstance(answer, DataFormatError):
                summary.wrong += 1
                report(answer)
            elif isinstance(line, Request):
                summary.answered += 1
                summary.outcomes[_outcome(answer.provenance)] += 1
                yield number, line, answer
