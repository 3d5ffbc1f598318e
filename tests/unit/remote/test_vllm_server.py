"""The engine for vLLM's server, against a stand-in that answers as vLLM's sources say."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from genrank.decoding import DECODINGS
from genrank.engines.base import PermuteRequest, ScoreRequest, Stop, TextRequest
from genrank.errors import EngineError, InputError, ModelError, ModelNotFoundError
from genrank.remote.completions import UnservedError
from genrank.remote.http import RefusedError
from genrank.remote.vllm_server import VLLMServer
from genrank.reranker import Reranker
from genrank.testing import OracleEngine, WordTokenizer
from genrank.types import Decoding, Ranking
from tests.vllm_double import VLLMDouble, double

URL = "http://vllm:8000/v1"
GRADES = {str(i): float(grade) for i, grade in enumerate(random.Random(0).sample(range(30), 30))}
TITLES = [f"title {i}" for i in range(30)]
LONG = [i % 10 for i in range(200)]


def engine(server: VLLMDouble, **options: Any) -> VLLMServer:
    settings: dict[str, Any] = {"tokenizer": server.oracle.tokenizer, "transport": server.transport}
    return VLLMServer(URL, **(settings | options))


def ids(ranking: Ranking) -> list[str]:
    return [item.listing_id for item in ranking]


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("able", [True, False], ids=["able server", "plain server"])
def test_a_ranking_over_http_is_the_one_in_this_process(decoding: Decoding, able: bool) -> None:
    server = double(GRADES, scale_out=able, plugin=able)
    with closing(engine(server)) as remote:
        ranking = Reranker(engine=remote, decoding=decoding).rerank("q", TITLES, reasons=2)
        awaited = asyncio.run(Reranker(engine=remote, decoding=decoding).arerank("q", TITLES, reasons=2))
    twin = Reranker(engine=server.oracle.engine(), decoding=decoding).rerank("q", TITLES, reasons=2)
    assert ranking.items == awaited.items == twin.items
    assert ids(ranking) == ids(Reranker(engine=OracleEngine(GRADES), decoding=decoding).rerank("q", TITLES))
    assert ranking.provenance.outcome == "model"
    assert ranking.provenance.tokens.prompt == twin.provenance.tokens.prompt
    level = "(one pass, masked)" if able else "(a request a place, step by step)"
    assert ranking.provenance.engine == f"vllm-server {level}"


@pytest.mark.parametrize(
    ("decoding", "able", "completions", "generated"),
    [
        ("pointwise", False, 4, 0),  # 30 prompts in batches of 8
        ("inline", True, 0, 2),  # a window in two passes
        ("inline", False, 8, 0),  # 60 places
        ("first-token", False, 1, 0),
        ("listwise", True, 1, 0),
        ("listwise", False, 29, 0),  # the last choice is none
    ],
)
def test_what_a_ranking_costs_in_requests(decoding: Decoding, able: bool, completions: int, generated: int) -> None:
    server = double(GRADES, scale_out=able, plugin=able)
    with closing(engine(server, batch=8)) as remote:
        reranker = Reranker(engine=remote, decoding=decoding, strategy=None if decoding == "pointwise" else "single")
        before = len(server.bodies), len(server.generated)
        reranker.rerank("q", TITLES)
    assert (len(server.bodies) - before[0], len(server.generated) - before[1]) == (completions, generated)


def test_requests_hold_token_ids_and_leave_nothing_to_the_servers_defaults() -> None:
    server = double(GRADES, adapters=["shop"])
    with closing(engine(server, adapter="adapters/shop")) as remote:
        assert (remote.model, remote.adapter) == ("m", "adapters/shop")
        remote.score([ScoreRequest((5, 6, 7), (1,), (8, 9))])
    body = server.bodies[-1]
    assert body["prompt"] == [[5, 6]], "what follows the last place is read by nobody"
    assert body["model"] == "shop"
    assert (body["temperature"], body["top_p"], body["repetition_penalty"], body["max_tokens"]) == (0.0, 1.0, 1.0, 1)
    assert body["logprob_token_ids"] == [8, 9]


def test_scores_come_in_the_order_of_places_and_targets_that_were_asked_for() -> None:
    for able in (True, False):
        server = double({"1": 1.0, "2": 2.0, "3": 3.0}, scale_out=able)
        titles, words = server.oracle.tokenizer.encode(["title 1 title 2 title 3 end", "no yes"])
        no, yes = words.ids
        with closing(engine(server)) as remote:
            (result,) = remote.score([ScoreRequest(titles.ids, (5, 1, 1, 3), (yes, no, yes))])
        assert result is not None
        assert result.scores == [[grade - 100, -100, grade - 100] for grade in (3, 1, 1, 2)]


def test_tokens_from_the_prefix_cache_are_counted_where_the_server_tells() -> None:
    requests = [ScoreRequest(LONG[:40], (39,), (1,)) for _ in range(3)]
    for details, expected in ((True, [0, 0, 32]), (False, [0, 0, 0])):
        with closing(engine(double(GRADES, details=details))) as remote:
            assert [result.tokens.cached for result in remote.score(requests) if result] == expected


def test_text_is_written_by_tokens_without_the_one_that_ends_it() -> None:
    server = double(GRADES)
    (end,) = server.oracle.tokenizer.encode(["."])[0].ids
    with closing(engine(server)) as remote:
        (result,) = remote.write([TextRequest((1, 2), 20, (end,))])
    assert result is not None
    assert (result.text, result.tokens.completion) == ("It is title 1", 5)
    assert (server.bodies[-1]["stop_token_ids"], server.bodies[-1]["max_tokens"]) == ([end], 20)


def _letters(server: VLLMDouble) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A prompt of three listings, their identifiers, and the tokens between them."""
    prompt, *letters, between = server.oracle.tokenizer.encode(
        ["[A] title 1\n[B] title 2\n[C] title 3\n[", "A", "B", "C", "] > ["]
    )
    return tuple(prompt.ids), tuple(letter.ids[0] for letter in letters), tuple(between.ids)


def test_a_server_that_lost_the_plugin_is_asked_step_by_step() -> None:
    server = double({"3": 3.0, "1": 2.0})
    prompt, letters, between = _letters(server)
    with closing(engine(server)) as remote:
        server.plugin = False
        (result,) = remote.permute([PermuteRequest(prompt, letters, between)])
        assert remote.name == "vllm-server (one pass, step by step)"
    assert result is not None
    assert result.order == (2, 0, 1)


def test_a_server_that_no_longer_reads_in_one_pass_is_asked_place_by_place() -> None:
    server = double(GRADES)
    request = ScoreRequest((5, 6, 7), (0, 2), (8,))
    with closing(engine(server)) as remote:
        server.scale_out = False
        (result,) = remote.score([request])
        assert remote.name == "vllm-server (a request a place, masked)"
    assert result is not None
    assert result.scores == server.oracle.answer(request)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """``[1]`` seconds; what shortcuts go by."""
    now = [1000.0]
    monkeypatch.setattr("genrank.remote.shortcut.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_one_malformed_answer_costs_a_shortcut_for_half_a_minute(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = double(GRADES)
    requests = [ScoreRequest((5, 6, 7), (0, 2), (8,))] * 3

    def score(remote: VLLMServer) -> int:
        """How many requests in one pass that took."""
        before = len(server.generated)
        right = [server.oracle.answer(request) for request in requests]
        assert [result and result.scores for result in remote.score(requests)] == right
        return len(server.generated) - before

    with closing(engine(server)) as remote:
        generate = server._generate
        monkeypatch.setattr(server, "_generate", lambda body: httpx.Response(200, json={"choices": []}))
        assert score(remote) == 3
        assert remote.name == "vllm-server (a request a place, masked)"
        monkeypatch.setattr(server, "_generate", generate)
        clock[0] += 29.0
        assert score(remote) == 0
        clock[0] += 1.0
        assert score(remote) == 1, "one request tries it, the others wait for what it finds"
        assert score(remote) == 3
        assert remote.name == "vllm-server (one pass, masked)"
        assert (remote.one_pass.failures, remote.masked.failures) == (1, 0)
    (warning,) = caplog.messages
    assert warning.startswith("the server failed at 'one pass' (")
    assert "30 s" in warning


def test_a_plugin_that_comes_back_is_found(clock: list[float]) -> None:
    server = double({"3": 3.0, "1": 2.0}, plugin=False)
    prompt, letters, between = _letters(server)

    def permute(remote: VLLMServer) -> tuple[str, int]:
        """How the server is read, and in how many requests."""
        before = len(server.bodies)
        (result,) = remote.permute([PermuteRequest(prompt, letters, between)])
        assert result is not None
        assert result.order == (2, 0, 1)
        return str(remote.masked), len(server.bodies) - before

    with closing(engine(server)) as remote:
        assert permute(remote) == ("step by step", 2)
        clock[0] += 30.0
        assert permute(remote) == ("step by step", 3)
        server.plugin = True
        clock[0] += 30.0
        assert permute(remote) == ("step by step", 2), "the second pause is twice as long"
        clock[0] += 30.0
        assert permute(remote) == ("masked", 1)
        assert remote.masked.failures == 0, "it was never there before"


@pytest.mark.parametrize("field", ["logprob_token_ids", "return_tokens_as_token_ids", "return_token_ids"])
def test_a_server_that_ignores_a_field_is_not_taken_for_one_that_scores(field: str) -> None:
    with pytest.raises(UnservedError, match=field):
        engine(double(GRADES, ignored=frozenset([field])))


def test_ignored_arguments_of_the_plugin_mean_that_it_is_not_there() -> None:
    with closing(engine(double(GRADES, ignored=frozenset(["vllm_xargs"])))) as remote:
        assert remote.name == "vllm-server (one pass, step by step)"


def test_a_server_that_fails_where_it_is_only_tried_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrank.remote.http._LONGEST_BACKOFF", 0.01)
    server = double(GRADES)
    monkeypatch.setattr(server, "_generate", lambda _: httpx.Response(500))
    with closing(engine(server)) as remote:
        assert remote.name == "vllm-server (a request a place, masked)"
        assert remote.score([ScoreRequest((5, 6), (0, 1), (8,))])[0]


def test_another_tokenizer_than_the_servers_is_refused() -> None:
    other = WordTokenizer()
    other.encode(["words that shift all ids"])
    with pytest.raises(ModelError, match=r"reads 'Red summer dress.*pass model="):
        engine(double(GRADES), tokenizer=other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "n"}, r"does not serve n, but m; .*genrank vllm --model n"),
        ({"adapter": "x/shop"}, r"adapter named shop, only other; .*genrank vllm --adapter x/shop"),
    ],
)
def test_a_model_or_an_adapter_that_is_not_served_is_never_replaced_by_another(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=words):
        engine(double(GRADES, adapters=["other"]), **options)


def test_a_model_may_be_named_by_where_the_server_has_it_from() -> None:
    with closing(engine(double(GRADES), model="/models/m")) as remote:
        assert remote.model == "/models/m"
        remote.score([ScoreRequest((5,), (0,), (8,))])


def test_too_long_a_prompt_is_refused_here_and_one_as_long_as_allowed_is_read() -> None:
    server = double(GRADES, context=100)
    with closing(engine(server)) as remote:
        assert remote.context == 98
        for reads in ((97,), (0, 97)):
            assert remote.score([ScoreRequest(LONG[:98], reads, (1,))])[0]
        with pytest.raises(EngineError, match="99 tokens exceed the 98"):
            remote.score([ScoreRequest(LONG[:99], (98,), (1,))])


@pytest.mark.parametrize("batch", [0, 1025])
def test_a_batch_that_vllm_would_refuse_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match="batch"):
        engine(double(GRADES), batch=batch)


# What goes wrong on the way.

SCORE = ScoreRequest((5, 6, 7), (2,), (8, 9))


@pytest.fixture
def server() -> VLLMDouble:
    return double(GRADES)


@pytest.fixture
def remote(server: VLLMDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[VLLMServer]:
    made = engine(server, attempts=3)
    monkeypatch.setattr(made._http, "_backoff", 0.01)
    yield made
    made.close()


def test_an_overloaded_server_is_asked_again_when_it_says(server: VLLMDouble, remote: VLLMServer) -> None:
    server.faults = [httpx.Response(429, headers={"Retry-After": "0.2"})]
    started = time.monotonic()
    assert remote.score([SCORE])[0]
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(
    "fault",
    [
        httpx.Response(503, json={"error": {"message": "the engine is dead"}}),
        httpx.ReadError("connection reset"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.Response(200, text='{"choices": [{"index": 0, "lo'),
        httpx.Response(200, text="<html>busy</html>"),
    ],
    ids=["503", "cut", "half a body", "half a JSON", "HTML"],
)
def test_what_may_pass_is_asked_again(server: VLLMDouble, remote: VLLMServer, fault: Any) -> None:
    server.faults = [fault, fault]
    assert remote.score([SCORE])[0]
    server.faults = [fault] * 3
    with pytest.raises(
        EngineError, match=r"^http://vllm:8000/v1/completions failed 3 times, at last: .*(genrank vllm|see its log)"
    ):
        remote.score([SCORE])


def test_a_request_that_the_server_refuses_is_not_made_again(server: VLLMDouble, remote: VLLMServer) -> None:
    server.faults = [httpx.Response(400, json={"error": {"message": "token id 8 is out of vocabulary"}})]
    before = len(server.bodies)
    with pytest.raises(RefusedError, match="refused the request: HTTP 400 Bad Request token id 8 is out of vocabulary"):
        remote.score([SCORE])
    assert len(server.bodies) == before + 1


def _without(answer: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != key}


def _score_of(value: Any) -> Any:
    """A change that puts `value` in place of a score."""

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][0]["logprobs"]["top_logprobs"][0]["token_id:9"] = value
        return answer

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answer: _without(answer, "choices"), "no choices"),
        (lambda answer: answer | {"choices": []}, "0 choices where 1 prompts"),
        (lambda answer: answer | {"choices": answer["choices"] * 2}, "2 choices where 1 prompts"),
        (lambda answer: answer | {"choices": [answer["choices"][0] | {"index": 1}]}, "1 choices where 1 prompts"),
        (lambda answer: answer | {"choices": [answer["choices"][0] | {"logprobs": None}]}, "no log-probability"),
        (_score_of(None), "no log-probability of token 9"),
        (_score_of("high"), "no log-probability of token 9"),
        (_score_of(True), "no log-probability of token 9"),
    ],
)
def test_an_answer_that_lacks_something_is_an_error(
    server: VLLMDouble, remote: VLLMServer, change: Any, words: str
) -> None:
    server.faults = [change]
    with pytest.raises(UnservedError, match=words):
        remote.score([SCORE])


def test_choices_in_another_order_are_put_right(server: VLLMDouble, remote: VLLMServer) -> None:
    requests = [ScoreRequest(server.oracle.tokenizer.encode([f"title {i} ?"])[0].ids, (3,), (8,)) for i in range(4)]
    right = remote.score(requests)
    server.faults = [lambda answer: answer | {"choices": answer["choices"][::-1]}]
    assert [result and result.scores for result in remote.score(requests)] == [
        result and result.scores for result in right
    ]


def test_a_slow_answer_past_the_deadline_leaves_the_finished_ones(server: VLLMDouble) -> None:
    with closing(engine(server, batch=10)) as remote:
        server.faults = [0.0, 30.0, 0.0]
        started = time.monotonic()
        ranking = Reranker(engine=remote).rerank("q", TITLES, deadline=0.3)
        assert time.monotonic() - started < 2
    assert (ranking.provenance.outcome, ranking.provenance.cause) == ("fallback", "deadline")
    assert ranking.provenance.windows == 20
    assert sorted(ids(ranking)) == sorted(GRADES)


def test_a_server_that_is_gone_leaves_the_first_stages_order(server: VLLMDouble, remote: VLLMServer) -> None:
    server.faults = [httpx.ConnectError("connection refused") for _ in range(10)]
    ranking = Reranker(engine=remote).rerank("q", TITLES)
    assert ids(ranking) == [str(i) for i in range(30)]
    assert ranking.provenance.cause == "engine-error"
    assert "http://vllm:8000/v1/completions failed 3 times" in ranking.provenance.why


def test_a_cancelled_call_gives_its_requests_up(server: VLLMDouble, remote: VLLMServer) -> None:
    server.faults = [30.0]

    async def cancel() -> None:
        task = asyncio.create_task(remote.ascore([SCORE]))
        while not server._at_once:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while server._at_once:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cancel(), 5))


def test_no_more_requests_are_in_flight_than_allowed() -> None:
    server = double(GRADES, delay=0.01)
    with closing(engine(server, batch=1, in_flight=3)) as remote:
        assert all(remote.score([SCORE] * 12))
    assert server.most_at_once == 3


def test_a_call_that_is_stopped_before_it_starts_asks_nothing(server: VLLMDouble, remote: VLLMServer) -> None:
    before, stop = len(server.bodies), Stop(0.0)
    assert remote.score([SCORE], stop=stop) == [None]
    assert len(server.bodies) == before


def test_a_closed_engine_says_so(remote: VLLMServer) -> None:
    remote.close()
    remote.close()
    with pytest.raises(EngineError, match="closed"):
        remote.score([SCORE])


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENRANK_API_KEY", "secret-1\n")
    engine(double(GRADES, key="secret-1")).close()
    with pytest.raises(EngineError, match="GENRANK_API_KEY") as caught:
        engine(double(GRADES, key="other"))
    assert "secret" not in str(caught.value)
