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
from genrank.files import fingerprint
from genrank.types import Tokens


class Remembering:
    """Gives each request that was answered before the same answer again.

    So prompts that are equal token by token, as those of a text that a defence leaves alone are with and without it,
    get equal scores and cost nothing. Texts are written anew each time.

    Args:
        engine: Who computes.
        path: A file of answers, made if need be, in which a later run finds them; None keeps them in memory only.

    Attributes:
        seconds: Wall time that all answers so far took to compute, whenever that was; a batch's time is shared
            equally among the places that it reads, and an answer given twice counts twice.
    """

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        self._engine = engine
        self._path = path
        self._known: dict[str, tuple[float, Sequence[float]]] = {}  # seconds; scores of a place, or an order
        self.seconds = 0.0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines():
                    with contextlib.suppress(pydantic.ValidationError):  # a line may be cut off
                        key, seconds, values = _LINE.validate_json(line)
                        self._known[key] = seconds, values

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

        In a causal model the scores at a place hang on the tokens up to it only, so each place is known by them: behind
        a head that was read before, only the rest is asked for.
        """
        keys = [
            [fingerprint(["score", request.ids[: place + 1], request.targets]) for place in request.reads]
            for request in requests
        ]
        taken = set(self._known)
        asked: list[tuple[list[str], ScoreRequest]] = []
        for found, request in zip(keys, requests, strict=True):
            new = [i for i, key in enumerate(found) if key not in taken]
            if new:
                taken.update(found[i] for i in new)
                ids = request.listing_ids  # one a place where each candidate is asked for at its own
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
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
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

    def _recall(self, keys: Sequence[str]) -> list[Sequence[float]] | None:
        """What is known by these keys; None where something is missing."""
        if not all(key in self._known for key in keys):
            return None
        self.seconds += sum(self._known[key][0] for key in keys)
        return [self._known[key][1] for key in keys]

    def _keep(self, found: Mapping[str, tuple[float, Sequence[float]]]) -> None:
        self._known |= found
        if self._path is not None:
            with self._path.open("ab") as out:
                # a line break first: the line before may be cut off
                out.writelines(b"\n" + _LINE.dump_json((key, *one)) for key, one in found.items())


_LINE = pydantic.TypeAdapter(tuple[str, float, Sequence[float]])
