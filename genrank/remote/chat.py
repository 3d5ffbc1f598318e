"""A client of any OpenAI-compatible chat endpoint that spends no more than it may.

Python's own `urllib`: one request a thread, no package to install. A request is made only where it cannot exceed the
spending limit at its worst, that is with every token of its answer written; requests in flight count as such.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from genrank.errors import ConfigError
from genrank.text.clean import clean

_FATAL = (301, 302, 303, 307, 308, 401, 402, 403, 404, 405)
_PASSING = (408, 409, 425, 429)
_NOBODY_THERE = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)  # who could have charged for it
_MOST_BYTES = 8 * 2**20
_BYTES_PER_TOKEN = 3  # an estimate on the high side: about 4 in English, one character in Chinese


class OpenAISettings(BaseModel, frozen=True, extra="forbid"):
    """A teacher behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: Such as ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is put behind it.
        model: Its name there.
        api_key_env: The environment variable that holds the key; None sends none.
        reasons: Reasons that are asked for, of so many of the best listings.
        options: Further fields of each request, such as ``response_format``; they go before those made here, and null
            leaves one out, as in ``{max_tokens: null, max_completion_tokens: 1024}``.
        max_tokens: The most tokens of one answer, and what a lost answer counts as.
        timeout: Seconds until an answer must be there.
        attempts: How often a request is made at most, where it failed in a way that may pass.
        backoff: Seconds before the second attempt, twice as many before each further one; the endpoint's own
            ``Retry-After`` goes before it.
        concurrency: Requests in flight.
        prompt_price: Of a million tokens read, in any currency.
        completion_price: Of a million tokens written.
        max_cost: What all requests for one folder may cost together, over all sittings; None: no limit.
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
            raise ValueError("max_cost: says nothing without prompt_price and completion_price; give these too")
        return self

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"{self.base_url}/chat/completions"

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


class SpentError(Exception):
    """The spending limit does not allow a further request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    Attributes:
        text: The model's answer; None where there is none.
        failure: What went wrong, as a short name to count by; empty where there is an answer.
        words: The same in more words.
        passing: Whether asking again may help.
        wait: Seconds that the endpoint wants to be left alone; None where it says nothing.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        estimated: Whether the tokens are an estimate, since the endpoint did not say.
        cost: What it costs; at its worst where an answer was lost on the way.
    """

    text: str | None = None
    failure: str = ""
    words: str = ""
    passing: bool = False
    wait: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost: float = 0.0


class Client:
    """Makes requests, from many threads.

    Args:
        settings: Of the endpoint.
        spent: What was spent on earlier sittings.

    Raises:
        ConfigError: When the environment does not hold the key, or it is no key.
    """

    def __init__(self, settings: OpenAISettings, spent: float = 0.0) -> None:
        self.settings = settings
        self.spent = spent
        self._reserved: list[float] = []
        self._settled = threading.Condition()
        self._headers = {"Content-Type": "application/json", "User-Agent": "genrank"} | _authorization(settings)
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, body: Mapping[str, Any]) -> Reply:
        """Make one request.

        Args:
            body: With ``messages``.

        Returns:
            The answer, or why there is none.

        Raises:
            SpentError: When it might exceed the spending limit; nothing was sent.
            ConfigError: When no request to this endpoint can succeed: a wrong address, key or account.
        """
        data = json.dumps(body).encode()
        # an escaped character is many bytes
        prompt_tokens = _tokens(json.dumps(body, ensure_ascii=False))
        worst = self.settings.cost(prompt_tokens, self.settings.max_tokens)
        self._reserve(worst)
        cost = worst
        try:
            reply = self._send(data, prompt_tokens)
            cost = reply.cost
            return reply
        finally:
            with self._settled:
                self._reserved.remove(worst)
                self.spent += cost
                self._settled.notify_all()

    def _reserve(self, worst: float) -> None:
        """Wait until the request fits into the limit beside those in flight, or until none of them is left."""
        limit = self.settings.max_cost
        with self._settled:
            while limit is not None and self.spent + sum(self._reserved) + worst > limit:
                if self.spent + worst > limit:
                    raise SpentError
                self._settled.wait()
            self._reserved.append(worst)

    def _send(self, data: bytes, prompt_tokens: int) -> Reply:
        settings = self.settings
        lost = Reply(
            passing=True,
            prompt_tokens=prompt_tokens,
            completion_tokens=settings.max_tokens,
            estimated=True,
            cost=settings.cost(prompt_tokens, settings.max_tokens),
        )
        request = urllib.request.Request(settings.url, data, self._headers, method="POST")
        ends = time.monotonic() + settings.timeout
        try:
            with self._opener.open(request, timeout=settings.timeout) as response:
                found = _read(response, ends)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, _NOBODY_THERE):
                return Reply(failure="connection", words=f"{settings.base_url}: {reason}", passing=True)
            failure = "timeout" if isinstance(reason, TimeoutError) else "connection"
            return replace(lost, failure=failure, words=f"{type(reason).__name__}: {reason}")
        return self._answer(found, lost)

    def _refused(self, error: urllib.error.HTTPError) -> Reply:
        try:
            said = clean(error.read(2000).decode("utf-8", "replace"))[:200]
        except (OSError, http.client.HTTPException):
            said = ""
        words = f"HTTP {error.code} {error.reason}: {said}"
        if error.code in _FATAL:
            raise ConfigError(f"teacher: {self.settings.url} answered {words}; check base_url, model and api_key_env")
        passing = error.code in _PASSING or error.code >= 500
        return Reply(
            failure=f"http {error.code}",
            words=words,
            passing=passing,
            wait=_seconds(error.headers.get("Retry-After", "")),
        )

    def _answer(self, found: bytes, lost: Reply) -> Reply:
        try:
            value = json.loads(found)
            text = value["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return replace(lost, failure="no completion", words=f"{found[:100]!r}")
        if not isinstance(text, str):
            return replace(lost, failure="no text", words=f"{text!r}"[:100])
        reported = _usage(value.get("usage"))
        read, written = reported or (lost.prompt_tokens, _tokens(text))
        cost = self.settings.cost(read, written)
        return Reply(text, prompt_tokens=read, completion_tokens=written, estimated=not reported, cost=cost)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another address; without one it is an error like any other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _authorization(settings: OpenAISettings) -> dict[str, str]:
    name = settings.api_key_env
    if name is None:
        return {}
    key = os.environ.get(name, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        trouble = "holds something that is no key" if key else "is not set"
        raise ConfigError(f"teacher.api_key_env: the environment variable {name} {trouble}; export {name}=...")
    return {"Authorization": f"Bearer {key}"}


def _read(response: http.client.HTTPResponse, ends: float) -> bytes:
    """The whole body; a `TimeoutError` where it drips on past `ends`."""
    found = b""
    while len(found) < _MOST_BYTES and (part := response.read1(2**16)):
        found += part
        if time.monotonic() > ends:
            raise TimeoutError("the answer did not end in time")
    return found


def _usage(usage: Any) -> tuple[int, int] | None:
    """Tokens read and written, where the endpoint says both."""
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(read, int) or not isinstance(written, int) or min(read, written) < 0:
        return None
    return read, written


def _seconds(text: str) -> float | None:
    """The time that ``Retry-After`` gives as a number; a date is passed over."""
    return float(text) if text.isdecimal() and len(text) < 6 else None


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)
