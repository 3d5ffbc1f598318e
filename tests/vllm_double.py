"""A stand-in for vLLM's OpenAI-compatible server: it answers as vLLM 0.32's sources say, with an oracle as its model.

It checks requests as vLLM does, and ignores the fields that it is told to ignore, as an older vLLM does. It is driven
through httpx, without a network.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from genrank.engines.base import PermuteRequest, ScoreRequest
from genrank.engines.mask import PermutationMask
from genrank.engines.tokenizer import Tokenizer
from genrank.testing import AnyRequest, ScriptedAnswer, ScriptedEngine, WordTokenizer

Fault = httpx.Response | Exception | Callable[[dict[str, Any]], dict[str, Any]] | float
"""One answer gone wrong: a response, what the connection raises, a change of the right answer, or seconds of delay."""

TITLE = re.compile(r"title (\d+)")
NAMED = re.compile(r"\[(\w+)\] title (\d+)")
CHATTER = "Sure"


@dataclass
class Oracle:
    """A model that likes listings by their grades; listing ``i`` has the title ``title i``."""

    tokenizer: Tokenizer
    grades: Mapping[str, float]

    def score(self, ids: Sequence[int], token: int) -> float:
        """The log-probability of a token after some others, up to a constant."""
        text, said = self.tokenizer.decode(ids), self.tokenizer.decode([token])
        if said == CHATTER:
            return 0.0  # what it would say if nobody held it back
        if said.strip().lower() == "yes" and (found := TITLE.findall(text)):
            return self.grades.get(found[-1], 0.0) - 100.0
        for name, i in NAMED.findall(text):
            if name == said:
                return self.grades.get(i, 0.0) - 100.0
        return -100.0

    def follow(self, ids: Sequence[int], mask: PermutationMask) -> list[int]:
        """The likeliest tokens under a mask."""
        written: list[int] = []
        while allowed := mask.allowed(written):
            written.append(max(allowed, key=lambda token: self.score([*ids, *written], token)))
        return written

    def answer(self, request: AnyRequest) -> ScriptedAnswer:
        """What an engine in this process answers, as a script of `ScriptedEngine`."""
        if isinstance(request, ScoreRequest):
            return [[self.score(request.ids[: end + 1], token) for token in request.targets] for end in request.reads]
        if isinstance(request, PermuteRequest):
            mask = PermutationMask(tuple(request.identifiers), tuple(request.between))
            return mask.order(self.follow(request.ids, mask))
        return "It is title 1."

    def engine(self) -> ScriptedEngine:
        """An engine in this process with the same model."""
        return ScriptedEngine(self.answer, tokenizer=self.tokenizer)


@dataclass
class VLLMDouble:
    """The server; pass `transport` to an engine.

    Attributes:
        oracle: The model.
        adapters: Names of the adapters that it serves.
        scale_out: Whether it was started with ``--enable-scale-out``, on the V2 runner.
        plugin: Whether it was started with genrank's plug-in.
        details: Whether it was started with ``--enable-prompt-tokens-details``.
        ignored: Fields of a request that it does not know.
        context: The most tokens that it takes.
        key: The key that it wants; empty for none.
        faults: What goes wrong, one for each of the next requests of a completion.
        bodies: Bodies of the completions so far.
        generated: Bodies of the requests to ``/inference/v1/generate`` so far.
        most_at_once: The most requests that were in flight at once.
    """

    oracle: Oracle
    adapters: Sequence[str] = ()
    scale_out: bool = True
    plugin: bool = True
    details: bool = True
    ignored: frozenset[str] = frozenset()
    context: int = 100_000
    key: str = ""
    faults: list[Fault] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    generated: list[dict[str, Any]] = field(default_factory=list)
    delay: float = 0.0
    most_at_once: int = 0
    _at_once: int = 0

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._serve)

    async def _serve(self, request: httpx.Request) -> httpx.Response:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=self._models())
        body = json.loads(request.content)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request.url.path, body)
        finally:
            self._at_once -= 1

    async def _answer(self, path: str, body: dict[str, Any]) -> httpx.Response:
        await asyncio.sleep(self.delay)
        if path == "/inference/v1/generate":
            self.generated.append(body)
            return self._generate(body)
        assert path == "/v1/completions"
        self.bodies.append(body)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        if isinstance(fault, httpx.Response):
            return fault
        answer = self._complete({name: value for name, value in body.items() if name not in self.ignored})
        if callable(fault) and isinstance(answer, dict):
            answer = fault(answer)
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def _models(self) -> dict[str, Any]:
        base = {"id": "m", "object": "model", "owned_by": "vllm", "root": "/models/m", "parent": None}
        cards = [{**base, "max_model_len": self.context}]
        cards += [{**base, "id": name, "root": f"/adapters/{name}", "parent": "m"} for name in self.adapters]
        return {"object": "list", "data": cards}

    def _complete(self, body: dict[str, Any]) -> dict[str, Any] | httpx.Response:
        if body["model"] not in ("m", *self.adapters):
            return _error(404, f"The model `{body['model']}` does not exist.")
        if body.get("logprob_token_ids") and body.get("logprobs") is None:
            return _error(400, "when using `logprob_token_ids`, `logprobs` must be set.")
        prompts = body["prompt"]
        if isinstance(prompts, str):
            prompts = [list(self.oracle.tokenizer.encode([prompts])[0].ids)]
        if len(prompts) > 1024:
            return _error(400, f"prompt list length {len(prompts)} exceeds the maximum")
        most = body.get("max_tokens", 16)
        if any(len(ids) + most > self.context for ids in prompts):
            return _error(400, f"This model's maximum context length is {self.context} tokens.")
        found = [self._choice(i, ids, body, most) for i, ids in enumerate(prompts)]
        usage: dict[str, Any] = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": 1}
        if self.details:
            usage["prompt_tokens_details"] = {"cached_tokens": len(prompts[-1]) // 16 * 16}  # the last prompt's
        return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": found, "usage": usage}

    def _choice(self, i: int, ids: list[int], body: dict[str, Any], most: int) -> dict[str, Any]:
        written = self._write(ids, body.get("vllm_xargs") or {}, most)
        choice: dict[str, Any] = {"index": i, "text": self.oracle.tokenizer.decode(written), "finish_reason": "length"}
        choice["logprobs"] = None
        if body.get("logprobs") is not None:
            tokens = [written[0], *(body.get("logprob_token_ids") or ())]
            by_id = body.get("return_tokens_as_token_ids")
            top = {
                f"token_id:{token}" if by_id else self.oracle.tokenizer.decode([token]): self.oracle.score(ids, token)
                for token in tokens
            }
            choice["logprobs"] = {"tokens": [*top][:1], "token_logprobs": [0.0], "top_logprobs": [top]}
        wanted = body.get("return_token_ids")
        choice["token_ids"] = written if wanted else None
        choice["prompt_token_ids"] = ids if wanted else None
        return choice

    def _write(self, ids: list[int], xargs: dict[str, Any], most: int) -> list[int]:
        if self.plugin and "genrank_identifiers" in xargs:
            mask = PermutationMask(tuple(xargs["genrank_identifiers"]), tuple(xargs.get("genrank_between", ())))
            return self.oracle.follow(ids, mask)[:most]
        said = CHATTER if xargs or most == 1 else "It is title 1."
        return list(self.oracle.tokenizer.encode([said])[0].ids)[:most]

    def _generate(self, body: dict[str, Any]) -> httpx.Response:
        if not self.scale_out:
            return _error(403, "Scale-out endpoints are disabled.")
        ids, sampling = body["token_ids"], body["sampling_params"]
        asked, start = sampling["prompt_logprob_token_ids"], sampling["prompt_logprob_start"]
        if len(asked) != len(ids) - 1 - start:
            return _error(400, f"prompt_logprob_token_ids has {len(asked)} rows")
        rows = [
            [-np.inf if token == -1 else self.oracle.score(ids[: start + i + 1], token) for token in row]
            for i, row in enumerate(asked)
        ]
        with io.BytesIO() as buffer:
            np.save(buffer, np.array(rows, dtype=np.float32), allow_pickle=False)
            encoded = base64.b64encode(buffer.getvalue()).decode()
        return httpx.Response(
            200, json={"request_id": "1", "choices": [{"index": 0}], "prompt_token_id_logprobs": encoded}
        )


def _error(code: int, message: str) -> httpx.Response:
    return httpx.Response(code, json={"error": {"message": message, "type": "BadRequestError", "code": code}})


def double(grades: Mapping[str, float], **options: Any) -> VLLMDouble:
    """A server whose model knows these grades."""
    return VLLMDouble(Oracle(WordTokenizer(), grades), **options)
