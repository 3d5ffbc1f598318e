"""A stand-in for a chat endpoint, with an oracle as its model; driven through httpx, without a network."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.gbnf import Grammar

LETTERED = re.compile(r"^\[(\w)\] title (\d+)", re.MULTILINE)
TITLE = re.compile(r"title (\d+)")


@dataclass
class ChatDouble:
    """The endpoint; pass `transport` to an engine.

    Attributes:
        grades: Of listing ``i``, whose title is ``title i``.
        enforces: What it enforces: ``grammar``, and forms of ``response_format``; others are ignored.
        forgetful: Whether the oracle, under a grammar, names the best listing again wherever it may.
        refuses: Fields of a request that it answers with `refusal`.
        refusal: The HTTP status.
        fails: Fields that it answers with HTTP 500.
        top: The most likeliest tokens that it gives; 0 ignores the field.
        models: What ``/v1/models`` lists; None if there is no such path.
        odd: The next texts, whatever is asked for.
        say: A function from the messages to the text, in place of the oracle's.
        finish_reason: Why it says that the model stopped.
        likeliest: The likeliest first tokens, in place of the oracle's.
        sees: What it does with pictures: it ``refuses`` them, ``ignores`` them, or looks at their ``redness``, which
            counts as a grade from 0 to 6.
        counts: Whether it says how many tokens it read; a picture has 49.
        bodies: Bodies of the requests so far.
    """

    grades: Mapping[str, float]
    enforces: Sequence[str] = ()
    forgetful: bool = False
    refuses: Sequence[str] = ()
    refusal: int = 400
    fails: Sequence[str] = ()
    top: int = 0
    models: Sequence[dict[str, Any]] | None = ({"id": "m"},)
    odd: list[str] = field(default_factory=list)
    say: Callable[[list[dict[str, str]]], str] | None = None
    finish_reason: str | None = "stop"
    likeliest: Sequence[dict[str, Any]] | None = None
    sees: Literal["refuses", "ignores", "redness"] = "refuses"
    counts: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._serve)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(404) if self.models is None else httpx.Response(200, json={"data": self.models})
        assert request.url.path == "/v1/chat/completions"
        body = json.loads(request.content)
        self.bodies.append(body)
        pictures = _pictures(body["messages"])
        if pictures and self.sees == "refuses":
            return httpx.Response(400, json={"error": {"message": "m is not a multimodal model"}})
        if wrong := [name for name in self.refuses if name in body]:
            return httpx.Response(self.refusal, json={"error": {"message": f"unknown field {wrong[0]}"}})
        if any(name in body for name in self.fails):
            return httpx.Response(500)
        choice: dict[str, Any] = {"finish_reason": self.finish_reason}
        choice["message"] = {"role": "assistant", "content": self._text(body)}
        if body.get("logprobs") and self.top:
            if body["top_logprobs"] > self.top:
                return httpx.Response(400, json={"error": {"message": f"top_logprobs must be at most {self.top}"}})
            top = self.likeliest or self._likeliest(body["messages"])
            choice["logprobs"] = {"content": [{"token": "x", "top_logprobs": top}]}
        seen = 49 * len(pictures) if self.sees == "redness" else 0
        usage = {"prompt_tokens": 70 + seen, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 64}}
        return httpx.Response(200, json={"choices": [choice], "usage": usage if self.counts else None})

    def _text(self, body: dict[str, Any]) -> str:
        messages = body["messages"]
        if self.odd:
            return self.odd.pop()
        if "grammar" in body and "grammar" in self.enforces:
            return self._bound(messages, Grammar(body["grammar"]))
        form = body.get("response_format") or {}
        if form.get("type") in self.enforces:
            schema = form["schema"] if form["type"] == "json_object" else form["json_schema"]["schema"]
            names = schema["properties"]["ranking"]["items"]["enum"]
            return json.dumps({"ranking": self.order(messages) or names})
        if self.say:
            return self.say(messages)
        order = self.order(messages)
        return " > ".join(f"[{name}]" for name in order) if order else "It is title 1."

    def _bound(self, messages: list[dict[str, str]], grammar: Grammar) -> str:
        order = self.order(messages)

        def choose(text: str, options: Sequence[str]) -> str:
            fresh = options if self.forgetful else [name for name in options if name not in text] or options
            return min(fresh, key=order.index) if order else fresh[0]

        return grammar.write(choose)

    def order(self, messages: list[dict[str, str]]) -> list[str]:
        """The oracle's order of the listings in the last message."""
        listings = LETTERED.findall(_text_of(messages[-1]))
        return [name for name, i in sorted(listings, key=lambda listing: -self.grades.get(listing[1], 0.0))]

    def _likeliest(self, messages: list[dict[str, str]]) -> list[dict[str, Any]]:
        text = _text_of(messages[-1])
        odds = 3.0 if "snow" in text else self.grades.get((TITLE.findall(text) or ["0"])[-1], 0.0)
        odds += sum(map(_redness, _pictures(messages))) if self.sees == "redness" else 0.0
        scores = {"Yes": -math.log1p(math.exp(-odds)), "No": -math.log1p(math.exp(odds)), "Maybe": -40.0}
        return [{"token": token, "logprob": score} for token, score in scores.items()]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _pictures(messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """The pictures in messages; each is an address that holds it."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]


def _redness(data: bytes) -> float:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return 6.0 * image.convert("RGB").resize((1, 1)).tobytes()[0] / 255
