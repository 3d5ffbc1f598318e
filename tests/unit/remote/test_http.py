from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import httpx
import pytest

from genrank.engines.base import Stop
from genrank.errors import ConfigError, EngineError, InputError
from genrank.remote.http import API_KEY, Connection, RefusedError, address
from tests.chat_server import Answer, ChatServer

Handler = Callable[[httpx.Request], httpx.Response] | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]


def connection(handler: Handler, **options: Any) -> Connection:
    settings: dict[str, Any] = {"backoff": 0.01, "transport": httpx.MockTransport(handler)}
    return Connection("http://host/v1", **(settings | options))


def in_turn(*answers: httpx.Response | Exception) -> Handler:
    left = list(answers)

    def handler(_: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


def ask(made: Connection, path: str = "/x") -> Any:
    with closing(made):
        return made.wait(made.post(path, {"a": "é"}))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_may_end_with_a_slash_and_lack_its_path(given: str, found: str) -> None:
    assert address(given) == found


@pytest.mark.parametrize(
    "url",
    ["", "host:8000/v1", "ftp://host/v1", "http://", "http://host/v1?key=1", "http://ho st/v1", "http://host:x/v1"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"^engine: must be an address such as http://127\.0\.0\.1:8000/v1, got "):
        address(url)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(InputError, match=API_KEY) as caught:
        address("http://me:secret@host/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "name"), [({"in_flight": 0}, "in_flight"), ({"attempts": 0}, "attempts"), ({"timeout": 0}, "timeout")]
)
def test_wrong_options(options: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: "):
        Connection("http://host/v1", **options)


def test_json_goes_out_and_comes_back() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, str(request.url), request.content, request.headers.get("Authorization")))
        return httpx.Response(200, json={"b": 1})

    made = connection(handler)
    with closing(made):
        assert made.wait(made.post("/x", {"a": 1})) == {"b": 1}
        assert made.wait(made.get("/models")) == {"b": 1}
        assert made.wait(made.post("../inference/v1/generate", {})) == {"b": 1}
        assert asyncio.run(made.await_(made.get("/models"))) == {"b": 1}
    assert seen[:3] == [
        ("POST", "http://host/v1/x", b'{"a": 1}', None),
        ("GET", "http://host/v1/models", b"", None),
        ("POST", "http://host/inference/v1/generate", b"{}", None),
    ]


def test_the_key_is_sent_and_one_that_cannot_be_one_is_told_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY, " key-1 ")
    headers = []

    def handler(request: httpx.Request) -> httpx.Response:
        headers.append(request.headers["Authorization"])
        return httpx.Response(200, json={})

    ask(connection(handler))
    assert headers == ["Bearer key-1"]
    monkeypatch.setenv(API_KEY, "ключ")
    with pytest.raises(ConfigError, match=API_KEY) as caught:
        connection(handler)
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_asked_again(status: int) -> None:
    assert ask(connection(in_turn(httpx.Response(status), httpx.ReadError("cut"), httpx.Response(200, json=1)))) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(400, json={"error": {"message": "wrong"}}), r"HTTP 400 Bad Request wrong$"),
        (httpx.Response(422, json={"detail": [{"loc": ["a"]}]}), r"HTTP 422 .*loc"),
        (httpx.Response(404, json={"error": "no such model"}), r"HTTP 404 Not Found no such model"),
        (httpx.Response(401, json={"message": "no"}), rf"HTTP 401 .*{API_KEY}"),
        (httpx.Response(403, text="<html>\x1b[31mno"), rf"HTTP 403 .*{API_KEY}"),
        (httpx.Response(302, headers={"Location": "http://elsewhere/"}), r"HTTP 302"),
    ],
)
def test_a_refusal_is_final_and_says_what_the_server_said(answer: httpx.Response, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        ask(connection(in_turn(answer)))
    assert caught.value.status == answer.status_code
    assert str(caught.value).isprintable()


def test_a_server_that_asks_for_minutes_is_given_up_at_once() -> None:
    with pytest.raises(EngineError, match="failed: HTTP 503"):
        ask(connection(in_turn(httpx.Response(503, headers={"Retry-After": "600"}))))


def test_a_request_that_waits_to_be_asked_again_leaves_its_place_to_others() -> None:
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        late = request.url.path == "/v1/late" and asked.count("/v1/late") == 1
        return httpx.Response(503, headers={"Retry-After": "0.2"}) if late else httpx.Response(200, json=1)

    made = connection(handler, in_flight=1)

    async def both() -> None:
        await asyncio.gather(made.get("/late"), made.get("/soon"))

    with closing(made):
        made.wait(both())
    assert asked == ["/v1/late", "/v1/soon", "/v1/late"]


def test_the_whole_answer_must_come_in_time_not_each_byte() -> None:
    with (
        ChatServer(Answer("hello", drip=0.02)) as server,
        pytest.raises(EngineError, match=r"no whole answer within 0\.2 s"),
    ):
        ask(Connection(server.url, timeout=0.2, attempts=1), "/chat/completions")


def test_a_request_may_wait_for_its_turn_while_the_server_answers_others() -> None:
    turn = asyncio.Lock()

    async def handler(_: httpx.Request) -> httpx.Response:
        async with turn:
            await asyncio.sleep(0.05)
        return httpx.Response(200, json=1)

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(made.get("/x") for _ in range(12)))

    with closing(connection(handler, timeout=0.2, attempts=1)) as made:
        assert made.wait(all_at_once()) == [1] * 12


def test_a_request_that_hangs_is_given_up_whatever_the_server_answers_meanwhile() -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(60 if request.url.path == "/v1/hangs" else 0.02)
        return httpx.Response(200, json=1)

    async def both() -> None:
        hangs = asyncio.ensure_future(made.get("/hangs"))
        while not hangs.done():
            await made.get("/x")
        await hangs

    with (
        closing(connection(handler, timeout=0.1, attempts=1)) as made,
        pytest.raises(EngineError, match="no whole answer within 1 s"),
    ):
        made.wait(both())


def test_a_server_that_is_not_there_is_named_with_the_fix() -> None:
    with pytest.raises(EngineError, match=r"^http://127.0.0.1:9/v1/x failed 2 times, at last: .*genrank vllm"):
        ask(Connection("http://127.0.0.1:9", attempts=2, backoff=0.01))


def _stuck() -> tuple[Connection, threading.Event]:
    begun = threading.Event()

    async def handler(_: httpx.Request) -> httpx.Response:
        begun.set()
        await asyncio.sleep(30)
        return httpx.Response(200, json=1)

    return Connection("http://host/v1", transport=httpx.MockTransport(handler)), begun


def _after(begun: threading.Event, work: Callable[[], object]) -> Callable[[], None]:
    def wait() -> None:
        assert begun.wait(5)
        work()

    return wait


def test_a_deadline_and_a_cancellation_end_the_wait_without_an_answer() -> None:
    made, begun = _stuck()
    with closing(made):
        started = time.monotonic()
        assert made.wait(made.get("/x"), Stop(started + 0.05)) is None
        assert asyncio.run(made.await_(made.get("/x"), Stop(time.monotonic() + 0.05))) is None
        stop = Stop()
        begun.clear()
        threading.Thread(target=_after(begun, stop.cancel)).start()
        assert made.wait(made.get("/x"), stop) is None
        assert time.monotonic() - started < 2


def test_closing_ends_what_is_waited_for_and_refuses_what_comes_later() -> None:
    made, begun = _stuck()
    threading.Thread(target=_after(begun, made.close)).start()
    with pytest.raises(EngineError, match="was closed during the call"):
        made.wait(made.get("/x"))
    with pytest.raises(EngineError, match="is closed"):
        made.wait(made.get("/x"))


def test_a_connection_that_nobody_holds_ends_its_thread() -> None:
    before = set(threading.enumerate())
    made = connection(in_turn())
    (thread,) = set(threading.enumerate()) - before
    del made
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
