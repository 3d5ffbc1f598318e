from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pydantic
import pytest

from genrank.errors import ConfigError
from genrank.remote.chat import ChatClient, OpenAISettings, Reply, SpentError, unfinished
from genrank.remote.http import retry_after
from tests.chat_server import Answer, ChatServer, completion

BODY = {"model": "m", "messages": [{"role": "user", "content": "red lamp"}]}


def settings(url: str = "http://127.0.0.1:9/v1", **options: Any) -> OpenAISettings:
    return OpenAISettings(type="openai", base_url=url, model="m", **options)


def replies(answers: Sequence[Answer], **options: Any) -> list[Reply]:
    with ChatServer(answers) as server, ChatClient(settings(server.url, **options)) as client:
        return [client.post(BODY) for _ in answers]


def test_an_answer_has_its_tokens_and_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", " secret\n")
    options = {"prompt_price": 2, "completion_price": 8, "api_key_env": "TEACHER_KEY"}
    with (
        ChatServer(Answer("hello", (2_000_000, 500_000))) as server,
        ChatClient(settings(server.url, **options)) as client,
    ):
        reply = client.post(BODY)
    assert reply == Reply("hello", "stop", prompt_tokens=2_000_000, completion_tokens=500_000, cost=2 * 2 + 8 * 0.5)
    assert client.spent == 8.0
    assert server.bodies == [BODY]
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent() -> None:
    with ChatServer(Answer("hello")) as server, ChatClient(settings(server.url)) as client:
        client.post(BODY)
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("value", ["", "ключ", "a\nb"])
def test_a_missing_key_is_told_without_showing_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(ConfigError, match=r"^api_key_env: the environment variable TEACHER_KEY ") as caught:
        ChatClient(settings(api_key_env="TEACHER_KEY"))
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


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2026 09:28:30 +0200", 30.0),
        ("Wed, 21 Oct 2026 07:28:30 -0000", 30.0),
        ("Wed, 21 Oct 2020 07:28:00 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("soon", None),
        ("1e9", None),
        ("٧", None),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
    ],
)
def test_how_long_to_wait_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after(header, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_a_date_to_wait_for_is_read_from_the_answer() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    (reply,) = replies([Answer(status=429, headers={"Retry-After": soon})])
    assert reply.wait == pytest.approx(30, abs=3)


@pytest.mark.parametrize("status", [401, 403, 404, 302, 308])
def test_what_can_never_succeed_is_a_wrong_call(status: int) -> None:
    headers = {"Location": "http://127.0.0.1:9/elsewhere"}
    with pytest.raises(ConfigError, match=f"^base_url: .* answered HTTP {status} .*check base_url, model and api"):
        replies([Answer(status=status, headers=headers)])


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer(body=b"<html>busy</html>"), "no completion"),
        (Answer(body=b""), "no completion"),
        (Answer(body=b'{"choices": []}'), "no completion"),
        (Answer(body=b'{"choices": [{"message": "hello"}]}'), "no completion"),
        (Answer(body=b'{"choices": [{"message": {"content": null}}]}'), "no text"),
        (Answer([{"type": "thinking", "text": "A > B"}]), "no text"),
        (Answer(body=b'{"choices": [{"message": {"content": null, "reasoning_content": "A > B"}}]}'), "no text"),
        (Answer(body=b"[" * 100_000), "no completion"),
        (Answer(body=b" " * (9 * 2**20) + completion(Answer("hello"))), "no completion"),
        (Answer("hello", delay=2.0), "timeout"),
        (Answer("hello", drip=0.1), "timeout"),
    ],
)
def test_a_lost_answer_counts_at_its_worst(answer: Answer, failure: str) -> None:
    (reply,) = replies([answer], timeout=0.5, max_tokens=1000, completion_price=1e6)
    assert (reply.text, reply.failure, reply.passing, reply.cost) == (None, failure, True, 1000)


@contextmanager
def dripping_head() -> Iterator[str]:
    """A server that sends one byte of a header every 50 ms, for as long as one reads."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.settimeout(5)  # on a machine that stalls, the client may give up before it connects

        def serve() -> None:
            with suppress(OSError):  # the client gave up
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
                    while True:
                        connection.sendall(b"x")
                        time.sleep(0.05)

        pool.submit(serve)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def test_the_timeout_holds_for_the_headers_too() -> None:
    with dripping_head() as url, ChatClient(settings(url, timeout=0.3)) as client:
        started = time.monotonic()
        assert client.post(BODY).failure == "timeout"
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("finish_reason", "usage", "failure"),
    [
        ("stop", (10, 5), ""),
        ("stop", (10, 2000), ""),
        ("eos_token", (10, 5), ""),
        (None, (10, 5), ""),
        (None, None, ""),
        (None, (10, 100), "cut off"),
        ("length", (10, 100), "cut off"),
        ("LENGTH", (10, 5), "cut off"),
        ("max_tokens", (10, 5), "cut off"),
        ("content_filter", (10, 5), "content filter"),
        ("abort", (10, 5), "not finished"),
    ],
)
def test_an_answer_that_was_cut_off_is_a_failure(
    finish_reason: str | None, usage: tuple[int, int] | None, failure: str
) -> None:
    answer = Answer("[A] > [B]", usage, finish_reason=finish_reason)
    (reply,) = replies([answer], max_tokens=100, completion_price=1e6)
    assert (reply.text, reply.finish_reason, reply.failure) == ("[A] > [B]", finish_reason, failure)
    assert reply.cost == (usage[1] if usage else 3)  # nine bytes are three tokens
    assert bool(reply.words) == bool(failure)


def test_what_is_cut_off_before_any_text_costs_what_was_written() -> None:
    null = b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}], "usage": {"prompt_tokens": 1,'
    null += b'"completion_tokens": 70}}'
    (reply,) = replies([Answer(body=null)], max_tokens=100, completion_price=1e6)
    assert (reply.text, reply.failure, reply.cost) == ("", "cut off", 70.0)
    (reply,) = replies([Answer("A >", None, finish_reason="length")], max_tokens=100, completion_price=1e6)
    assert reply.cost == 100.0  # it was cut off at the limit


def test_what_speaks_against_an_answer() -> None:
    assert unfinished(None, None, 10) == unfinished("", 9, 10) == unfinished("stop", 10, 10) == ("", "")
    assert unfinished(None, 10, 10) == ("cut off", "10 tokens of at most 10; raise max_tokens")
    assert unfinished("odd" * 100, 1, 10)[0] == "not finished"


def test_only_text_is_read() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "[A] > [B]"}], "text": "[A] > [B]"},
        {"type": "text", "text": "[B] > "},
        "odd",
        {"type": "text", "text": None},
        {"type": "text", "text": "[A]"},
    ]
    message = {"reasoning_content": "[A] > [B]", "reasoning": "[A] > [B]"}
    found = replies([Answer(parts), Answer("[B] > [A]", message=message)])
    assert [reply.text for reply in found] == ["[B] > [A]"] * 2


def test_nobody_there_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with ChatClient(settings(f"http://127.0.0.1:{port}/v1", completion_price=1)) as client:
        reply = client.post(BODY)
    assert (reply.failure, reply.passing, reply.cost) == ("connection", True, 0.0)
    assert f"127.0.0.1:{port}" in reply.words


def test_a_connection_that_breaks_is_a_failure_that_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: listening.accept()[0].close())
        with ChatClient(settings(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", completion_price=1)) as client:
            reply = client.post(BODY)
    assert (reply.failure, reply.passing, reply.cost > 0) == ("connection", True, True)


def test_the_limit_is_never_passed_though_many_ask_at_once() -> None:
    # at worst a request costs 100, in truth 1
    options = {"completion_price": 1e6, "max_tokens": 100, "max_cost": 250.5}
    with (
        ChatServer(Answer("hello", (0, 1), delay=0.01)) as server,
        ThreadPoolExecutor(16) as pool,
        ChatClient(settings(server.url, **options), spent=100.0) as client,
    ):
        jobs = [pool.submit(client.post, BODY) for _ in range(100)]
        refused = sum(isinstance(job.exception(), SpentError) for job in jobs)
    assert server.most_at_once == 1  # beside the 100 that are spent there is room for one
    assert client.spent == 151.0  # a further one might end at 251
    assert (len(server.bodies), refused) == (51, 49)


def test_coroutines_and_threads_share_one_client() -> None:
    async def ask(client: ChatClient, count: int) -> list[Reply]:
        return await asyncio.gather(*(client.apost(BODY) for _ in range(count)))

    with (
        ChatServer(Answer("hello", delay=0.2)) as server,
        ThreadPoolExecutor(2) as pool,
        ChatClient(settings(server.url)) as client,
    ):
        started = time.monotonic()
        waiting = pool.submit(client.post, BODY)
        loops = pool.submit(asyncio.run, ask(client, 5))  # a second loop, in another thread
        found = [*asyncio.run(ask(client, 20)), *loops.result(), waiting.result()]
        assert time.monotonic() - started < 3  # one after the other they take 5.2 s
        assert threading.active_count() < 40  # those of the server: the client needs one
    assert [reply.text for reply in found] == ["hello"] * 26
    assert server.most_at_once > 10


def test_a_request_that_is_cancelled_counts_at_its_worst_and_frees_the_limit() -> None:
    options = {"completion_price": 1e6, "max_tokens": 100, "max_cost": 250.0}

    async def ask(client: ChatClient) -> Reply:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.apost(BODY), 0.2)
        return await client.apost(BODY)

    answers = [Answer("late", (0, 1), delay=2.0), Answer("hello", (0, 1))]
    with ChatServer(answers) as server, ChatClient(settings(server.url, **options)) as client:
        assert asyncio.run(ask(client)).text == "hello"
        assert client.spent == 101.0


def test_a_client_that_is_closed_says_so() -> None:
    client = ChatClient(settings())
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.post(BODY)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(listening: socket.socket) -> bytes:
        connection, _ = listening.accept()
        with connection:
            asked = connection.recv(65536)
            data = completion(Answer("by proxy"))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        return asked

    for name in ("HTTP_PROXY", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listening.getsockname()[1]}")
        asked = pool.submit(proxy, listening)
        with ChatClient(settings("http://nowhere.invalid/v1")) as client:
            assert client.post(BODY).text == "by proxy"
        assert asked.result().startswith(b"POST http://nowhere.invalid/v1/chat/completions ")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_told(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ConfigError, match=r"^base_url: no connection can be made to http://127.0.0.1:9/v1: .*prox"):
        ChatClient(settings())


def test_without_httpx_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from genrank.remote.chat import *\n"
        "try: ChatClient(OpenAISettings(type='openai', base_url='http://127.0.0.1:9/v1', model='m'))\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout == "httpx is not installed; get it with: pip install 'genrank[remote]'\n"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x/v1", "http://", "http://x/v1?a=b", "http://x /v1"])
def test_a_wrong_address_is_told(url: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"base_url\n.*must be an address such as"):
        settings(url)


def test_a_limit_without_prices_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_cost: has no effect without prompt_price"):
        settings(max_cost=1.0)


def test_a_body_is_sent_as_json() -> None:
    body = {"messages": [{"role": "user", "content": "连衣裙 🎁"}]}
    with ChatServer(Answer("hello")) as server, ChatClient(settings(server.url)) as client:
        client.post(body)
    assert json.dumps(server.bodies[0]) == json.dumps(body)
