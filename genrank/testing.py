"""Test doubles, for your tests too: engines without a model.

`ScriptedEngine` answers from a script and records its requests; `OracleEngine` ranks by given grades. Both use a word
tokenizer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from genrank.engines.base import (
    Closing,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
    never,
)
from genrank.engines.tokenizer import Encoded, Tokenizer
from genrank.errors import EngineError
from genrank.permutation import Permutation
from genrank.types import Tokens

_TOKEN = re.compile(r" ?[A-Za-z0-9_]+| ?[^A-Za-z0-9_\s]|\s", re.DOTALL)

AnyRequest = ScoreRequest | PermuteRequest | TextRequest
R = TypeVar("R", ScoreRequest, PermuteRequest, TextRequest)
A = TypeVar("A")
ScriptedAnswer = Sequence[Sequence[float]] | Sequence[int] | str | Exception


class WordTokenizer:
    """Makes one token of each ASCII word and each other character, with the space before it; ids count from 0.

    Args:
        chat: Whether to frame the user's turn as a chat model's template would.
    """

    def __init__(self, *, chat: bool = True) -> None:
        self.chat = chat
        self._ids: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        encoded = []
        for text in texts:
            tokens = _TOKEN.findall(text)
            ends = list(itertools.accumulate(map(len, tokens)))
            ids = [self._ids.setdefault(token, len(self._ids)) for token in tokens]
            encoded.append(Encoded(ids, [0, *ends[:-1]] if ends else [], ends))
        return encoded

    def frame(self, system: str, *, chat: bool = True) -> tuple[list[int], list[int]]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        texts = (f"{system}\n\n" if system else "", "")
        if self.chat and chat:
            texts = (f"<system>{system}</system><user>", "</user><assistant>")
        before, after = self.encode(texts)
        return list(before.ids), list(after.ids)

    def turn(self) -> list[int]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        (between,) = self.encode(["</assistant><user>" if self.chat else "\n\n"])
        return list(between.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        return "".join(self.texts(ids))

    def texts(self, ids: Sequence[int]) -> list[str]:
        """See `genrank.engines.tokenizer.Tokenizer`."""
        tokens = list(self._ids)
        return [tokens[i] for i in ids]


class ScriptedEngine(Closing):
    """Answers from a script and records its requests.

    Args:
        script: The answers, one for each request in order, or a function that answers a request: ``[r][t]`` scores
            for a `ScoreRequest`, ``[n]`` places for a `PermuteRequest`, text for a `TextRequest`. An answer that is an
            exception is raised.
        context: The most tokens that it pretends to take.
        tokenizer: By default a `WordTokenizer`.

    Attributes:
        requests: All requests so far.
        calls: Number of batches so far.
        closed: Whether it was closed.
    """

    name = "scripted"
    model = "scripted"
    adapter: str | None = None

    def __init__(
        self,
        script: Iterable[ScriptedAnswer] | Callable[[AnyRequest], ScriptedAnswer],
        *,
        context: int = 1_000_000,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.context = context
        self.tokenizer: Tokenizer = tokenizer or WordTokenizer()
        self.requests: list[AnyRequest] = []
        self.calls: int = 0
        self.closed: bool = False
        if callable(script):
            self._answer_to = script
        else:
            answers = iter(script)
            self._answer_to = lambda _: next(answers, EngineError("the script has no further answer"))

    def close(self) -> None:
        """Make further calls fail."""
        self.closed = True

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """See `genrank.engines.base.Engine`."""
        return self._answers(requests, stop, lambda r, a: ScoreResult(a, Tokens(prompt=len(r.ids))))

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """See `genrank.engines.base.Engine`."""
        return self._answers(
            requests, stop, lambda r, a: PermuteResult(a, Tokens(prompt=len(r.ids), completion=len(a)))
        )

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `genrank.engines.base.Engine`."""
        return self._answers(requests, stop, lambda r, a: TextResult(a, Tokens(prompt=len(r.ids), completion=len(a))))

    def _answers(self, requests: Sequence[R], stop: Stop, wrap: Callable[[R, Any], A]) -> list[A | None]:
        if self.closed:
            raise EngineError("the engine is closed")
        self.calls += 1
        answers: list[A | None] = [None] * len(requests)
        for i, request in enumerate(requests):
            if stop():
                continue
            self.requests.append(request)
            answer = self._answer_to(request)
            if isinstance(answer, Exception):
                raise answer
            answers[i] = wrap(request, answer)
            stop.publish(request, answers[i])
        return answers


class OracleEngine(ScriptedEngine):
    """Ranks by the true grades, under every decoding.

    Args:
        grades: ``{listing_id: grade}``; a listing without one has 0.
    """

    name = "oracle"
    model = "oracle"

    def __init__(self, grades: Mapping[str, float]) -> None:
        super().__init__(lambda request: _by_grade(request, grades))


def _by_grade(request: AnyRequest, grades: Mapping[str, float]) -> ScriptedAnswer:
    if isinstance(request, TextRequest):
        return "It fits."
    known = [grades.get(listing_id, 0.0) for listing_id in request.listing_ids]
    if isinstance(request, PermuteRequest):
        return Permutation.from_scores(known).order
    if len(request.reads) == len(known):  # inline: one place a candidate, yes first among the targets
        return [[grade, *[0.0] * (len(request.targets) - 1)] for grade in known]
    return [known]
