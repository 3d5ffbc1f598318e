from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pydantic
import pytest

from genrank.errors import ConfigError
from genrank.remote.chat import Client, OpenAISettings, Reply, SpentError
from tests.chat_server import Answer, ChatServer

BODY = {"model": "m", "messages": [{"role": "user", "content": "red lamp"}]}


def settings(url: str = "http://127.0.0.1:9/v1", **options: Any) -> OpenAISettings:
    return OpenAISettings(type="openai", base_url=url, model="m", **options)


def replies(answers: Sequence[Answer], **options: Any) -> list[Reply]:
    with ChatServer(answers) as server:
        client = Client(settings(server.url, **options))
        return [client.post(BODY) for _ in answers]


def test_an_answer_has_its_tokens_and_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", " secret\n")
    with ChatServer(Answer("hello", (2_000_000, 500_000))) as server:
        client = Client(settings(server.url, prompt_price=2, completion_price=8, api_key_env="TEACHER_KEY"))
        reply = client.post(BODY)
    assert reply == Reply("hello", prompt_tokens=2_000_000, completion_tokens=500_000, cost=2 * 2 + 8 * 0.5)
    assert client.spent == 8.0
    assert server.bodies == [BODY]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent() -> None:
    with ChatServer(Answer("hello")) as server:
        Client(settings(server.url)).post(BODY)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("value", ["", "ключ", "a\nb"])
def test_a_missing_key_is_told_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(ConfigError, match=r"^teacher\.api_key_env: the environment variable TEACHER_KEY ") as caught:
        Client(settings(api_key_env="TEACHER_KEY"))
    assert not value or value not in str(caught.value)


def test_tokens_that_are_not_reported_are_estimated_on_the_high_side() -> None:
    odd = b'{"choices": [{"message": {"content": "hello"}}], "usage": {"prompt_tokens": "many"}}'
    for reply in replies([Answer("hello", None), Answer(body=odd)], prompt_price=3e6, completion_price=1e6):
        assert reply.text == "hello"
        assert reply.estimated
        assert reply.completion_tokens == 2
        assert reply.prompt_tokens >= 20
        assert reply.cost == 3 * reply.prompt_tokens + 2


@pytest.mark.parametrize(("status", "passing"), [(500, True), (503, True), (429, True), (408, True), (400, False)])
def test_what_the_endpoint_refuses_costs_nothing(status: int, passing: bool) -> None:
    answer = Answer(status=status, body=b"too\nlong", headers={"Retry-After": "7"})
    (reply,) = replies([answer], prompt_price=1, completion_price=1)
    assert (reply.text, reply.failure, reply.passing) == (None, f"http {status}", passing)
    assert reply.words.endswith("too long")
    assert (reply.cost, reply.wait) == (0.0, 7.0)


def test_a_date_to_wait_for_is_passed_over() -> None:
    (reply,) = replies([Answer(status=429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})])
    assert reply.wait is None


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_can_never_succeed_is_a_wrong_call(status: int) -> None:
    headers = {"Location": "http://127.0.0.1:9/elsewhere"}
    with pytest.raises(ConfigError, match=f"answered HTTP {status} .*check base_url, model and api_key_env"):
        replies([Answer(status=status, headers=headers)])


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer(body=b"<html>busy</html>"), "no completion"),
        (Answer(body=b'{"choices": []}'), "no completion"),
        (Answer(body=b'{"choices": [{"message": {"content": null}}]}'), "no text"),
        (Answer(body=b"[" * 100_000), "no completion"),
        (Answer("hello", delay=2.0), "timeout"),
        (Answer("hello", drip=0.1), "timeout"),
    ],
)
def test_a_lost_answer_counts_at_its_worst(answer: Answer, failure: str) -> None:
    (reply,) = replies([answer], timeout=0.5, max_tokens=1000, completion_price=1e6)
    assert (reply.text, reply.failure, reply.passing, reply.cost) == (None, failure, True, 1000)


def test_nobody_there_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reply = Client(settings(f"http://127.0.0.1:{port}/v1", completion_price=1)).post(BODY)
    assert (reply.failure, reply.passing, reply.cost) == ("connection", True, 0.0)


def test_a_connection_that_breaks_is_a_failure_that_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: listening.accept()[0].close())
        reply = Client(settings(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")).post(BODY)
    assert (reply.failure, reply.passing) == ("connection", True)


def test_the_limit_is_never_passed_though_many_ask_at_once() -> None:
    # at worst a request costs 100, in truth 1
    options = {"completion_price": 1e6, "max_tokens": 100, "max_cost": 250.5}
    with ChatServer(Answer("hello", (0, 1), delay=0.01)) as server, ThreadPoolExecutor(16) as pool:
        client = Client(settings(server.url, **options), spent=100.0)
        jobs = [pool.submit(client.post, BODY) for _ in range(100)]
        refused = sum(isinstance(job.exception(), SpentError) for job in jobs)
    assert server.most_at_once == 1  # beside the 100 that are spent there is room for one
    assert client.spent == 151.0  # a further one might end at 251
    assert (len(server.bodies), refused) == (51, 49)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x/v1", "http://", "http://x/v1?a=b", "http://x /v1"])
def test_a_wrong_address_is_told(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"base_url\n.*must be an address such as"):
        settings(url)


def test_a_limit_without_prices_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_cost: says nothing without prompt_price"):
        settings(max_cost=1.0)
