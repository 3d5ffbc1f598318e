"""An engine that computes nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic

from genrank.engines.base import (
    Engine,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
    never,
)
from genrank.engines.tokenizer import Tokenizer
from genrank.experiment.journal import Journal
from genrank.files import fingerprint
from genrank.types import Tokens


class Remembering:
    """Gives each request that it has seen before the same scores again.

    So two prompts with the same tokens, such as those of a text that the defence does not change, get equal scores, and
    the second costs nothing. Texts are not kept: each `write` runs the engine.

    Args:
        engine: Computes the scores.
        path: A file that keeps scores for later runs; None keeps them in memory only.

    Attributes:
        seconds: Wall time that computing all scores given so far took, in this run or an earlier one. A batch's time is
            shared equally among the places it reads, and scores that are given twice count twice.
    """

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        self._engine = engine
        self._journal = Journal(path)
        self.seconds = 0.0

    @property
    def name(self) -> str:
        """See `genrank.engines.base.Engine`."""
        return self._engine.name

    @property
    def model(self) -> str:
        """See `genrank.engines.base.Engine`."""
        return self._engine.model

    @property
    def adapter(self) -> str | None:
        """See `genrank.engines.base.Engine`."""
        return self._engine.adapter

    @property
    def context(self) -> int:
        """See `genrank.engines.base.Engine`."""
        return self._engine.context

    @property
    def tokenizer(self) -> Tokenizer:
        """See `genrank.engines.base.Engine`."""
        return self._engine.tokenizer

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """See `genrank.engines.base.Engine`.

        In a causal model the scores at a place depend only on the tokens up to it, so these are the place's key: if two
        prompts share their beginning, only the rest of the second is computed.
        """
        keys = [
            [fingerprint(["score", request.ids[: place + 1], request.targets]) for place in request.reads]
            for request in requests
        ]
        taken: set[str] = set()
        asked: list[tuple[list[str], ScoreRequest]] = []
        for found, request in zip(keys, requests, strict=True):
            new = [i for i, key in enumerate(found) if key not in taken and self._known(key) is None]
            if new:
                taken.update(found[i] for i in new)
                ids = request.listing_ids  # one for each place, if each candidate is read at a place of its own
                asked.append(
                    (
                        [found[i] for i in new],
                        dataclasses.replace(
                            request,
                            reads=[request.reads[i] for i in new],
                            listing_ids=[ids[i] for i in new] if len(ids) == len(found) else ids,
                        ),
                    )
                )
        started = time.monotonic()
        results = self._engine.score([request for _, request in asked], stop=stop) if asked else []
        share = (time.monotonic() - started) / max(1, sum(len(names) for names, _ in asked))
        for (names, _), result in zip(asked, results, strict=True):
            if result is not None:
                self._keep({key: (share, values) for key, values in zip(names, result.scores, strict=True)})
        answers: list[ScoreResult | None] = []
        for found, request in zip(keys, requests, strict=True):
            scores = self._recall(found)
            answers.append(ScoreResult(scores, Tokens(prompt=len(request.ids))) if scores is not None else None)
        return answers

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """See `genrank.engines.base.Engine`."""
        keys = [fingerprint(["permute", request.ids, request.identifiers, request.between]) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if self._known(key) is None}
        started = time.monotonic()
        results = self._engine.permute(list(new.values()), stop=stop) if new else []
        share = (time.monotonic() - started) / max(1, len(new))
        self._keep({key: (share, one.order) for key, one in zip(new, results, strict=True) if one is not None})
        answers: list[PermuteResult | None] = []
        for key, request in zip(keys, requests, strict=True):
            orders = self._recall([key])
            n = len(request.identifiers)
            tokens = Tokens(prompt=len(request.ids), completion=n + (n - 1) * len(request.between))
            answers.append(PermuteResult([int(place) for place in orders[0]], tokens) if orders is not None else None)
        return answers

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `genrank.engines.base.Engine`."""
        return self._engine.write(requests, stop=stop)

    def _known(self, key: str) -> tuple[float, Sequence[float]] | None:
        """The seconds that a key's values took, and the values: scores of a place, or an order."""
        for fields in reversed(self._journal.of(key)):
            with contextlib.suppress(pydantic.ValidationError):
                return _VALUES.validate_python((fields.get("seconds"), fields.get("values")))
        return None

    def _recall(self, keys: Sequence[str]) -> list[Sequence[float]] | None:
        """The values of these keys; None if one of them is not known."""
        found = [self._known(key) for key in keys]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        self.seconds += sum(seconds for seconds, _ in known)
        return [values for _, values in known]

    def _keep(self, found: Mapping[str, tuple[float, Sequence[float]]]) -> None:
        self._journal.add((key, {"seconds": seconds, "values": [*values]}) for key, (seconds, values) in found.items())


_VALUES = pydantic.TypeAdapter(tuple[float, Sequence[float]])
