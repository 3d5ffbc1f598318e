"""What the engines behind HTTP share: calls that may come from any thread or event loop, and publish as they go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from genrank.engines.base import (
    Closing,
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
    check_lengths,
    never,
)
from genrank.engines.loops import A, Answers, R
from genrank.remote.http import Connection


class HTTPEngine(Closing, ABC):
    """An engine behind HTTP; see `genrank.engines.base.AsyncEngine`. A subclass answers batches.

    Args:
        connection: To its server; closed with the engine.

    Attributes:
        model: The model's name.
        adapter: The adapter; None without one.
        context: The most tokens that the model takes, prompt and answer together.
    """

    model: str
    adapter: str | None
    context: int

    def __init__(self, connection: Connection) -> None:
        self._http = connection

    def close(self) -> None:
        """Give up the requests in flight and close the connections. Closing twice does no harm."""
        self._http.close()

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Read scores; see `genrank.engines.base.Engine`."""
        return self._run(requests, self._score_all, stop)

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders; see `genrank.engines.base.Engine`."""
        return self._run(requests, self._permute_all, stop)

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text greedily; see `genrank.engines.base.Engine`."""
        return self._run(requests, self._write_all, stop)

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """`score` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._score_all, stop)

    async def apermute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """`permute` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._permute_all, stop)

    async def awrite(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """`write` for asyncio; see `genrank.engines.base.AsyncEngine`."""
        return await self._arun(requests, self._write_all, stop)

    def _run(
        self,
        requests: Sequence[R],
        work: Callable[[Sequence[R], Answers[A]], Coroutine[Any, Any, None]],
        stop: Stop,
    ) -> list[A | None]:
        check_lengths(requests, self.context, self.model)
        answers = Answers[A](requests, stop)
        if not stop():
            self._http.wait(work(requests, answers), stop)
        return list(answers.found)

    async def _arun(
        self,
        requests: Sequence[R],
        work: Callable[[Sequence[R], Answers[A]], Coroutine[Any, Any, None]],
        stop: Stop,
    ) -> list[A | None]:
        check_lengths(requests, self.context, self.model)
        answers = Answers[A](requests, stop)
        if not stop():
            await self._http.await_(work(requests, answers), stop)
        return list(answers.found)

    @abstractmethod
    async def _score_all(self, requests: Sequence[ScoreRequest], answers: Answers[ScoreResult]) -> None:
        """Answer all `requests`, and give `answers` each answer as it comes."""

    @abstractmethod
    async def _permute_all(self, requests: Sequence[PermuteRequest], answers: Answers[PermuteResult]) -> None:
        """Answer all `requests`, and give `answers` each answer as it comes."""

    @abstractmethod
    async def _write_all(self, requests: Sequence[TextRequest], answers: Answers[TextResult]) -> None:
        """Answer all `requests`, and give `answers` each answer as it comes."""
