"""Constrained choices: which of some texts the model would write as its answer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from genrank.engines.base import Engine, EngineCall, ScoreRequest, ScoreResult, Stop, never
from genrank.errors import EngineError, InputError
from genrank.types import Tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt, and the answers that it may have.

    Attributes:
        ids: ``[p]`` token ids, to the beginning of the answer.
        answers: ``[n]`` token ids of each answer; none is the beginning of a longer one. Equal ones share a
            probability.
        lead: How many first tokens other prompts share; see `ScoreRequest`.

    Raises:
        InputError: When there is no answer, or one is empty or the beginning of another.
    """

    ids: Sequence[int]
    answers: Sequence[Sequence[int]]
    lead: int = 0

    def __post_init__(self) -> None:
        if not self.answers or not all(self.answers):
            raise InputError("must hold at least one answer, and no empty one", field="answers")
        ordered = sorted(set(map(tuple, self.answers)))
        for one, after in itertools.pairwise(ordered):
            if after[: len(one)] == one:
                raise InputError(
                    "no answer may be the beginning of another; end each with the same token", field="answers"
                )


def choose(engine: Engine, choices: Sequence[Choice], *, stop: Stop = never) -> tuple[list[list[float]], Tokens]:
    """The probabilities of the answers, where the model may write nothing else.

    The answers of a choice make a tree of tokens. At each branch the model's probabilities are shared among the tokens
    that go on, so the probability of an answer is the product over its branches: what decoding under a mask of these
    answers would draw it with (as in GENRE, arXiv 2010.00904). One engine call reads all branches.

    Args:
        engine: Reads the scores.
        choices: Any number.
        stop: See `Engine`.

    Returns:
        ``[choices][n]`` log-probabilities, and the tokens that were read. The probabilities of a choice's different
        answers sum to one.

    Raises:
        EngineError: When the engine fails or is stopped before the end.
    """
    trees = [_Tree(choice.answers) for choice in choices]
    requests = [request for choice, tree in zip(choices, trees, strict=True) for request in tree.requests(choice)]
    results: list[Any] = [None] * len(requests)
    if requests and not stop():
        results = EngineCall("score", requests).run(engine, stop)
    if any(result is None for result in results):
        raise EngineError("the engine was stopped before it had read all answers")
    left = iter(results)
    scores = [tree.log_probabilities(left) for tree in trees]
    return scores, sum((result.tokens for result in results), Tokens())


class _Tree:
    """The branches of some answers: the beginnings after which they differ."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self._answers = [tuple(answer) for answer in answers]
        nexts: dict[tuple[int, ...], list[int]] = {}
        for answer in self._answers:
            for length, token in enumerate(answer):
                known = nexts.setdefault(answer[:length], [])
                if token not in known:
                    known.append(token)
        self._branches = {begin: tokens for begin, tokens in nexts.items() if len(tokens) > 1}
        begins = sorted(self._branches, key=len, reverse=True)
        # a prompt for each branch that no longer one passes
        paths = [begin for i, begin in enumerate(begins) if not any(one[: len(begin)] == begin for one in begins[:i])]
        self._reads = [_Read.along(path, self._branches) for path in paths]

    def requests(self, choice: Choice) -> Iterator[ScoreRequest]:
        ids = tuple(choice.ids)
        for read in self._reads:
            places = tuple(len(ids) + len(begin) - 1 for begin in read.branches)
            yield ScoreRequest(ids=ids + read.path, reads=places, targets=read.targets, lead=choice.lead)

    def log_probabilities(self, results: Iterator[ScoreResult]) -> list[float]:
        """Of the answers, from the results of `requests`, of which it takes its own."""
        known: dict[tuple[int, ...], dict[int, float]] = {}
        for read in self._reads:
            for begin, row in zip(read.branches, next(results).scores, strict=True):
                by_token = dict(zip(read.targets, row, strict=True))
                known[begin] = _log_softmax({token: by_token[token] for token in self._branches[begin]})
        return [
            math.fsum(known[answer[:length]][token] for length, token in enumerate(answer) if answer[:length] in known)
            for answer in self._answers
        ]


@dataclass(frozen=True, slots=True)
class _Read:
    """One prompt that reads some branches on its way."""

    path: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]

    @classmethod
    def along(cls, path: tuple[int, ...], branches: Mapping[tuple[int, ...], Sequence[int]]) -> Self:
        passed = tuple(path[:length] for length in range(len(path) + 1) if path[:length] in branches)
        return cls(path, passed, tuple(dict.fromkeys(token for begin in passed for token in branches[begin])))


def _log_softmax(scores: dict[int, float]) -> dict[int, float]:
    most = max(scores.values())
    if not math.isfinite(most):
        raise EngineError("the engine gave scores that are not numbers")
    total = most + math.log(math.fsum(math.exp(score - most) for score in scores.values()))
    return {token: score - total for token, score in scores.items()}
