"""A client for any OpenAI-compatible chat endpoint that never spends more than it may.

A request is sent only if its worst case (every token of the answer is written) still fits the spending limit, together
with the requests in flight.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from genrank.errors import ConfigError
from genrank.remote.http import import_httpx, read_body, retry_after
from genrank.text.clean import clean

_FATAL = (401, 402, 403, 404, 405)
_PASSING = (408, 409, 425, 429)
_MAX_BYTES = 8 * 2**20
_MAX_ERROR_BYTES = 2000
_BYTES_PER_TOKEN = 3  # an estimate on the high side: about 4 in English, one character in Chinese

_FINISHED = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length")
_FILTERED = ("content_filter", "safety")


class OpenAISettings(BaseModel, frozen=True, extra="forbid"):
    """A model behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: Such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is appended.
        model: Its name there.
        api_key_env: The environment variable that holds the key; None sends no key.
        reasons: How many of the best listings it is asked to give a reason for.
        options: More fields for each request, such as ``response_format``. They override those made here; null removes
            a field, as in ``{max_tokens: null, max_completion_tokens: 1024}``.
        max_tokens: Token limit of one answer; a lost answer is charged as if it had this many.
        timeout: Seconds within which the whole answer must arrive.
        attempts: How often a request is made at most, if it fails in a way that may pass.
        backoff: Seconds before the second attempt, doubled for each further one; the endpoint's ``Retry-After`` takes
            precedence.
        concurrency: Requests in flight.
        prompt_price: Price of a million tokens read, in any currency.
        completion_price: Price of a million tokens written.
        max_cost: Spending limit for all requests for one folder, over all sittings; None for no limit.
    """

    type: Literal["openai"]
    base_url: str
    model: Annotated[str, Field(min_length=1)]
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    reasons: Annotated[int, Field(ge=0)] = 0
    options: dict[str, Any] = Field(default_factory=dict)
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    timeout: Annotated[float, Field(gt=0)] = 120.0
    attempts: Annotated[int, Field(ge=1)] = 5
    backoff: Annotated[float, Field(ge=0)] = 1.0
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    max_cost: Annotated[float, Field(gt=0)] | None = None

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url and not (parts.query or parts.fragment)
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain or parts.port == 0:
            raise ValueError(f"must be an address such as http://127.0.0.1:8000/v1, got {url!r}")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _limit_needs_prices(self) -> OpenAISettings:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost: has no effect without prompt_price and completion_price; give these too")
        return self

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url}/chat/completions"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6

    def authorization(self) -> dict[str, str]:
        """The header that carries the key; empty without `api_key_env`.

        Raises:
            ConfigError: When the environment variable is not set, or holds something that cannot be a key.
        """
        name = self.api_key_env
        if name is None:
            return {}
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            trouble = "does not hold a key" if key else "is not set"
            raise ConfigError(f"api_key_env: the environment variable {name} {trouble}; export {name}=...")
        return {"Authorization": f"Bearer {key}"}


class SpentError(Exception):
    """The spending limit does not allow another request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request.

    Attributes:
        text: What the model wrote outside its reasoning fields, perhaps cut off (see `failure`); None if nothing came.
        finish_reason: Why the endpoint says the model stopped; None if it does not say.
        failure: What went wrong, as a short name to count by, such as ``cut off``; empty for a whole answer.
        words: The same in more words.
        passing: Whether asking again may help.
        wait: Seconds the endpoint asks to be left alone; None if it does not say.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        estimated: Whether the token counts are an estimate because the endpoint did not report them.
        cost: What the request costs; its worst case if the answer was lost on the way.
    """

    text: str | None = None
    finish_reason: str | None = None
    failure: str = ""
    words: str = ""
    passing: bool = False
    wait: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost: float = 0.0


def unfinished(finish_reason: str | None, completion_tokens: int | None, max_tokens: int) -> tuple[str, str]:
    """Why an answer is not whole, by what the endpoint says of it.

    Args:
        finish_reason: As the endpoint gave it; None or empty if it did not.
        completion_tokens: Tokens that it reported as written; None if it reported none.
        max_tokens: The token limit of the answer.

    Returns:
        A short name to count by, and words; both empty if nothing speaks against the answer.
    """
    reason = (finish_reason or "").strip().lower()
    if not reason:
        if completion_tokens is not None and completion_tokens >= max_tokens:
            return "cut off", f"{completion_tokens} tokens of at most {max_tokens}; raise max_tokens"
        return "", ""
    if reason in _FINISHED:
        return "", ""
    if reason in _CUT_OFF:
        return "cut off", f"finish_reason {finish_reason!r}; raise max_tokens (now {max_tokens})"
    return "content filter" if reason in _FILTERED else "not finished", f"finish_reason {finish_reason!r:.80}"


class ChatClient:
    """Sends chat requests, from any number of threads and event loops.

    One event loop in a thread of its own runs all requests over one pool of connections: `post` waits for it, and
    `apost` awaits it. Close the client, or use it as a context manager.

    Args:
        settings: The endpoint.
        spent: What earlier sittings have spent.

    Attributes:
        spent: What has been spent so far, earlier sittings included.

    Raises:
        ConfigError: When the environment does not hold the key, or the address or a proxy setting is unusable.
        MissingExtraError: When httpx is not installed.
    """

    def __init__(self, settings: OpenAISettings, spent: float = 0.0) -> None:
        self.settings = settings
        self.spent: float = spent
        self._reserved = 0.0  # by the requests in flight
        self._in_flight = 0
        self._settled = asyncio.Condition()
        self._httpx = httpx = import_httpx()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "genrank"}
        try:
            self._url = httpx.URL(settings.url)
            self._http = httpx.AsyncClient(
                headers=headers | settings.authorization(),
                timeout=httpx.Timeout(settings.timeout, pool=None),
                limits=httpx.Limits(max_connections=None),
                follow_redirects=False,  # one would take the key to another address
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"base_url: no connection can be made to {settings.base_url}: {error}") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="genrank-chat", daemon=True)
        self._thread.start()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up the requests in flight and close the connections; a second call does nothing."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._http.aclose()
        await self._loop.shutdown_asyncgens()

    def post(self, body: Mapping[str, Any]) -> Reply:
        """Make one request and wait for its answer; see `apost` for what it returns and raises."""
        future = self._submit(body)
        try:
            return future.result()
        finally:
            future.cancel()  # where the wait was interrupted

    async def apost(self, body: Mapping[str, Any]) -> Reply:
        """Make one request; cancelling it gives the request up.

        Args:
            body: With ``messages``.

        Returns:
            The answer, or why there is none.

        Raises:
            SpentError: When it might exceed the spending limit; nothing was sent.
            ConfigError: When no request to this endpoint can succeed: a wrong address, key or account.
        """
        return await asyncio.wrap_future(self._submit(body))

    def _submit(self, body: Mapping[str, Any]) -> concurrent.futures.Future[Reply]:
        if self._loop.is_closed():
            raise RuntimeError("the client is closed")
        return asyncio.run_coroutine_threadsafe(self._post(body), self._loop)

    async def _post(self, body: Mapping[str, Any]) -> Reply:
        # an escaped character is many bytes, but no more tokens
        prompt_tokens = _tokens(json.dumps(body, ensure_ascii=False))
        worst = self.settings.cost(prompt_tokens, self.settings.max_tokens)
        await self._reserve(worst)
        cost = worst
        try:
            reply = await self._send(json.dumps(body).encode(), prompt_tokens)
            cost = reply.cost
            return reply
        finally:
            self.spent += cost
            self._in_flight -= 1
            self._reserved = self._reserved - worst if self._in_flight else 0.0
            async with self._settled:
                self._settled.notify_all()

    async def _reserve(self, worst: float) -> None:
        """Wait until the request fits into the limit beside those in flight, or can no longer fit at all."""
        limit = self.settings.max_cost
        async with self._settled:
            while limit is not None and self.spent + self._reserved + worst > limit:
                if self.spent + worst > limit:
                    raise SpentError
                await self._settled.wait()
            self._reserved += worst
            self._in_flight += 1

    async def _send(self, data: bytes, prompt_tokens: int) -> Reply:
        settings, httpx = self.settings, self._httpx
        lost = Reply(
            passing=True,
            prompt_tokens=prompt_tokens,
            completion_tokens=settings.max_tokens,
            estimated=True,
            cost=settings.cost(prompt_tokens, settings.max_tokens),
        )
        try:
            # httpx counts the seconds from one byte to the next, this counts those of the whole answer
            async with (
                asyncio.timeout(settings.timeout),
                self._http.stream("POST", self._url, content=data) as response,
            ):
                if not response.is_success:
                    return await self._refused(response)
                return self._answer(await read_body(response, _MAX_BYTES), lost)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            # nothing was sent, so nothing was charged
            words = f"{settings.base_url}: {error or type(error).__name__}"
            return Reply(failure="connection", words=words, passing=True)
        except (TimeoutError, httpx.TimeoutException):
            return replace(lost, failure="timeout", words=f"no whole answer within {settings.timeout:g} s")
        except (OSError, httpx.HTTPError) as error:
            return replace(lost, failure="connection", words=f"{type(error).__name__}: {error}")

    async def _refused(self, response: Any) -> Reply:
        code = response.status_code
        try:
            said = clean((await read_body(response, _MAX_ERROR_BYTES)).decode("utf-8", "replace"))[:200]
        except (OSError, self._httpx.HTTPError):
            said = ""
        words = clean(f"HTTP {code} {response.reason_phrase}") + (f": {said}" if said else "")
        if code in _FATAL or 300 <= code < 400:
            raise ConfigError(f"base_url: {self.settings.url} answered {words}; check base_url, model and api_key_env")
        return Reply(
            failure=f"http {code}",
            words=words,
            passing=code in _PASSING or code >= 500,
            wait=retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC)),
        )

    def _answer(self, found: bytes, lost: Reply) -> Reply:
        try:
            value = json.loads(found)
            choice = value["choices"][0]
            text = message_text(choice["message"].get("content"))
            finish_reason = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return replace(lost, failure="no completion", words=f"{found[:100]!r}")
        finish_reason = None if finish_reason is None else str(finish_reason)
        reported = token_usage(value.get("usage"))
        limit = self.settings.max_tokens
        failure, words = unfinished(finish_reason, reported[1] if reported else None, limit)
        if text is None and not failure:
            return replace(lost, failure="no text", words=f"{choice['message'].get('content')!r}"[:100])
        text = text or ""
        read, written = reported or (lost.prompt_tokens, limit if failure else _tokens(text))
        return Reply(
            text,
            finish_reason,
            failure,
            words,
            passing=bool(failure),
            prompt_tokens=read,
            completion_tokens=written,
            estimated=not reported,
            cost=self.settings.cost(read, written),
        )


def message_text(content: Any) -> str | None:
    """A message's text: a string, or the parts of type ``text`` of a list; None if it is neither.

    Parts of other types (``thinking``, ``reasoning``, ``refusal``) are no answer.
    """
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [text for part in parts if isinstance(text := part.get("text"), str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


def token_usage(usage: Any) -> tuple[int, int] | None:
    """Tokens read and written, if the endpoint reports both."""
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(read, int) or not isinstance(written, int) or min(read, written) < 0:
        return None
    return read, written


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
