from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import httpx
import pytest

from genrank.engines.base import (
    PermuteRequest,
    PermuteResult,
    ScoreRequest,
    ScoreResult,
    Stop,
    TextRequest,
    TextResult,
)
from genrank.engines.loops import Answers, answer_each
from genrank.errors import EngineError
from genrank.remote.calls import HTTPEngine
from genrank.remote.http import Connection
from genrank.types import Tokens


class Lengths(HTTPEngine):
    """Scores a prompt by its length, longer ones later; a prompt that begins with 13 fails."""

    model, adapter, context = "m", None, 100

    async def _score_all(self, requests: Sequence[ScoreRequest], answers: Answers[ScoreResult]) -> None:
        await answer_each(requests, self._score, answers)

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        await asyncio.sleep(len(request.ids) / 100)
        if request.ids[0] == 13:
            raise EngineError("unlucky")
        return ScoreResult([[float(len(request.ids))]], Tokens())

    async def _permute_all(self, requests: Sequence[PermuteRequest], answers: Answers[PermuteResult]) -> None:
        for i, request in enumerate(requests):
            answers.give(i, PermuteResult(range(len(request.identifiers)), Tokens()))

    async def _write_all(self, requests: Sequence[TextRequest], answers: Answers[TextResult]) -> None:
        for i, _ in enumerate(requests):
            answers.give(i, TextResult(f"text {i}", Tokens()))


@pytest.fixture
def engine() -> Iterator[Lengths]:
    with closing(Lengths(Connection("http://host", transport=httpx.MockTransport(lambda _: httpx.Response(500))))) as e:
        yield e


def test_answers_come_in_the_order_of_the_requests(engine: Lengths) -> None:
    requests = [ScoreRequest(range(1, n + 1), (0,), (1,)) for n in (3, 1, 2)]
    for found in (engine.score(requests), asyncio.run(engine.ascore(requests))):
        assert [result and result.scores for result in found] == [[[3.0]], [[1.0]], [[2.0]]]
    orders = [PermuteRequest((1,), (5, 6), ())]
    for permuted in (engine.permute(orders), asyncio.run(engine.apermute(orders))):
        assert [result and list(result.order) for result in permuted] == [[0, 1]]
    texts = [TextRequest((1,), 5), TextRequest((1,), 5)]
    for written in (engine.write(texts), asyncio.run(engine.awrite(texts))):
        assert [result and result.text for result in written] == ["text 0", "text 1"]


def test_what_was_answered_before_the_deadline_is_published_and_returned(engine: Lengths) -> None:
    requests = [ScoreRequest(range(1, n + 1), (0,), (1,)) for n in (90, 1)]
    stop = Stop()
    threading.Timer(0.2, stop.cancel).start()
    found = engine.score(requests, stop=stop)
    assert found[0] is None
    assert found[1] is stop.finished(requests[1]) is not None


def test_one_request_that_fails_fails_the_call_with_its_own_error(engine: Lengths) -> None:
    requests = [ScoreRequest((1,), (0,), (1,)), ScoreRequest((13,), (0,), (1,))]
    with pytest.raises(EngineError, match="unlucky"):
        engine.score(requests)
    with pytest.raises(EngineError, match="unlucky"):
        asyncio.run(engine.ascore(requests))


def test_too_long_a_prompt_is_refused_before_anything_is_asked(engine: Lengths) -> None:
    with pytest.raises(EngineError, match="101 tokens exceed the 100 that m takes"):
        engine.write([TextRequest(range(96), 5)])
    with pytest.raises(EngineError, match="101 tokens exceed the 100 that m takes"):
        asyncio.run(engine.awrite([TextRequest(range(96), 5)]))
