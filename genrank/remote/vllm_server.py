"""Runs a model on vLLM's OpenAI-compatible server: token ids go in, the scores of chosen tokens come out.

Prompts are rendered here, with the model's own tokenizer, so they are the same tokens as on any other engine, and every
decoding is exact. What the server can do is found by trying it, since it ignores fields that it does not know.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genrank.engines.base import PermuteRequest, PermuteResult, ScoreRequest, ScoreResult, TextRequest, TextResult
from genrank.engines.loops import Answers, answer_each
from genrank.engines.mask import BETWEEN, IDENTIFIERS, PermutationMask
from genrank.engines.tokenizer import HubTokenizer, Tokenizer, load_tokenizer
from genrank.errors import EngineError, InputError, ModelError
from genrank.models.store import resolve
from genrank.remote.calls import HTTPEngine
from genrank.remote.completions import (
    UnservedError,
    cached_tokens,
    choices,
    chosen_scores,
    prompt_scores,
    token_ids,
)
from genrank.remote.http import Connection, RefusedError
from genrank.remote.models import find_adapter, find_model, served_models
from genrank.remote.shortcut import Shortcut
from genrank.types import Tokens

if TYPE_CHECKING:
    import httpx

_GREEDY: Mapping[str, Any] = {  # said in full: the server fills gaps from the model's own generation_config.json
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_SPARE = 2  # tokens: vLLM writes at least one, and a prompt that is read in one pass has one more
_LEAST_CONTEXT = 64
_MOST_PROMPTS = 1024  # in one request, unless the server's VLLM_MAX_COMPLETION_PROMPTS says otherwise
_PROBE = "Red summer dress, 42 EUR: 连衣裙 夏季"
"""A text that tokenizers split in different ways."""


class VLLMServer(HTTPEngine):
    """A model behind vLLM's own server, such as ``genrank vllm`` starts.

    Prompts that are read at one place go out in batches. Where a prompt is read at several places, the server reads
    them in one pass if it can (``--enable-scale-out`` and the V2 model runner); otherwise each place is a prompt that
    ends there, and the prefix cache keeps what they share. With genrank's plug-in the server enforces a listwise order,
    in one request; without it, each choice is a request. Either shortcut is left alone for a while after it fails, and
    then tried again; see `genrank.remote.shortcut`.

    The key, if the server wants one, is in the environment variable ``GENRANK_API_KEY``.

    Args:
        url: The server's address, such as ``http://127.0.0.1:8000/v1``.
        model: The name under which the server serves the model, which is also where its tokenizer is: a known name, a
            local folder or a hub name. By default the server's only model.
        adapter: Folder of a LoRA adapter; the server serves it under the folder's name. Its manifest is read here, its
            weights are not.
        tokenizer: The model's tokenizer; by default that of `model`.
        batch: Prompts in one HTTP request, 1 to 1,024. Their answers come together.
        in_flight: The most HTTP requests at once; further ones wait for their turn.
        attempts: How often a request is made at most, if it fails in a way that may pass.
        timeout: Seconds without any answer of the server after which a request is given up; after ten times as long it
            is given up in any case.
        trust_remote_code: Whether to run code in the model's folder to load the tokenizer; read it first.
        transport: Makes the requests in place of the network, for tests.

    Attributes:
        model: The model's name on the server.
        adapter: The adapter, as it was passed.
        context: The most tokens that the server takes, prompt and answer together.
        tokenizer: The model's tokenizer.
        one_pass: The shortcut that reads all places of a prompt at once.
        masked: The shortcut that lets the server's plug-in enforce an order.

    Raises:
        InputError: When an argument is wrong.
        ModelNotFoundError: When the server does not serve the model or the adapter, or there is no tokenizer here.
        ModelError: When the tokenizer here is not the server's.
        EngineError: When the server does not answer, or does not return the scores of chosen tokens.
        MissingExtraError: When httpx or transformers is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        adapter: str | None = None,
        tokenizer: Tokenizer | None = None,
        batch: int = 16,
        in_flight: int = 32,
        attempts: int = 4,
        timeout: float = 60.0,
        trust_remote_code: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not 1 <= batch <= _MOST_PROMPTS:
            raise InputError(f"must be within 1..{_MOST_PROMPTS}, got {batch}", field="batch")
        self._batch = batch
        super().__init__(Connection(url, in_flight=in_flight, attempts=attempts, timeout=timeout, transport=transport))
        try:
            models = served_models(self._http.wait(self._http.get("/models")), self._http.url)
            found = find_model(models, model, self._http.url)
            if found.context < _LEAST_CONTEXT:
                raise UnservedError(f"{self._http.url}/models gives no max_model_len for {found.name}; is it vLLM?")
            self.model: str = model or found.name
            self.adapter: str | None = adapter
            self._served = found.name if adapter is None else find_adapter(models, adapter, self._http.url).name
            self.context: int = found.context - _SPARE
            self.tokenizer: Tokenizer = tokenizer or HubTokenizer(
                load_tokenizer(resolve(model or self.model), trust_remote_code=trust_remote_code)
            )
            self.one_pass: Shortcut = Shortcut("one pass", "a request a place")
            self.masked: Shortcut = Shortcut("masked", "step by step")
            self._http.wait(self._probe())
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """``vllm-server``, and how the server is read: in one pass or a request a place, masked or step by step."""
        return f"vllm-server ({self.one_pass}, {self.masked})"

    async def _score_all(self, requests: Sequence[ScoreRequest], answers: Answers[ScoreResult]) -> None:
        places: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)  # of all requests, by their targets
        async with asyncio.TaskGroup() as group:
            for i, request in enumerate(requests):
                ends = sorted(set(request.reads))
                if len(ends) > 1 and self.one_pass.take():
                    group.create_task(self._score_in_one_pass(i, request, answers))
                else:
                    places[tuple(dict.fromkeys(request.targets))] += [(i, end) for end in ends]
            gathered = _Gathered(dict(enumerate(requests)), answers)
            for targets, wanted in places.items():
                for at in range(0, len(wanted), self._batch):
                    group.create_task(self._score_places(wanted[at : at + self._batch], targets, gathered))

    async def _score_places(
        self, wanted: Sequence[tuple[int, int]], targets: Sequence[int], gathered: _Gathered
    ) -> None:
        """Score `targets` at the places `wanted`, each of which is the end of a prompt, in one HTTP request."""
        prompts = [list(gathered.requests[i].ids[: end + 1]) for i, end in wanted]
        answer = await self._complete(prompts, **_scoring(targets))
        found = choices(answer, len(prompts))
        cached = [0] * (len(prompts) - 1) + [cached_tokens(answer)]  # the server counts only the last prompt's
        for (i, end), choice, count in zip(wanted, found, cached, strict=True):
            gathered.give(i, end, dict(zip(targets, chosen_scores(choice, targets), strict=True)), count)

    async def _score_in_one_pass(self, i: int, request: ScoreRequest, answers: Answers[ScoreResult]) -> None:
        """Score all places of a prompt in one HTTP request; in one for each place if the server fails at it."""
        ends, targets = sorted(set(request.reads)), list(dict.fromkeys(request.targets))
        try:
            rows = await self._read_places(list(request.ids[: ends[-1] + 1]), ends, targets)
        except (RefusedError, UnservedError) as error:
            self.one_pass.record(works=False, why=str(error))
            gathered = _Gathered({i: request}, answers)
            for at in range(0, len(ends), self._batch):
                await self._score_places([(i, end) for end in ends[at : at + self._batch]], targets, gathered)
            return
        self.one_pass.record(works=True)
        by_end = {end: dict(zip(targets, row, strict=True)) for end, row in zip(ends, rows, strict=True)}
        answers.give(i, _result(request, by_end, 0))

    async def _read_places(self, ids: list[int], ends: Sequence[int], targets: Sequence[int]) -> list[list[float]]:
        """Scores ``[places][t]`` at the places `ends` of a prompt, the last of which is its last token."""
        start = ends[0]
        asked = [[-1] * len(targets) for _ in range(len(ids) - start)]
        for end in ends:
            asked[end - start] = list(targets)
        sampling = {
            "temperature": 0.0,
            "max_tokens": 1,
            "prompt_logprob_token_ids": asked,
            "prompt_logprob_start": start,
        }
        # one token more, since the server gives no row for the last one
        body = {"model": self._served, "token_ids": [*ids, ids[-1]], "sampling_params": sampling}
        rows = prompt_scores(await self._http.post("../inference/v1/generate", body), len(asked), len(targets))
        return [rows[end - start] for end in ends]

    async def _permute_all(self, requests: Sequence[PermuteRequest], answers: Answers[PermuteResult]) -> None:
        await answer_each(requests, self._permute, answers)

    async def _permute(self, request: PermuteRequest) -> PermuteResult:
        mask = PermutationMask(tuple(request.identifiers), tuple(request.between))
        ids, written, cached = list(request.ids), list(mask.forced([])), 0
        if mask.allowed(written) and self.masked.take():
            written, cached = await self._write_masked(ids, mask)
            # a server that was restarted without the plug-in goes another way
            self.masked.record(works=not mask.allowed(written), why="the answer is not a permutation")
        while allowed := mask.allowed(written):
            answer = await self._complete([[*ids, *written]], **_scoring(allowed))
            (choice,) = choices(answer, 1)
            scores = dict(zip(allowed, chosen_scores(choice, allowed), strict=True))
            cached = cached if written else cached_tokens(answer)
            written.append(max(allowed, key=scores.__getitem__))
            written += mask.forced(written)
        tokens = Tokens(prompt=len(ids), cached=cached, completion=len(written))
        return PermuteResult(mask.order(written), tokens)

    async def _write_masked(self, ids: list[int], mask: PermutationMask) -> tuple[list[int], int]:
        """What the server writes under the mask, as far as it follows the mask, and the tokens from its cache."""
        answer = await self._complete(
            [ids],
            max_tokens=len(mask.identifiers) * (1 + len(mask.between)) - len(mask.between),
            return_token_ids=True,
            vllm_xargs={IDENTIFIERS: list(mask.identifiers), BETWEEN: list(mask.between)},
        )
        (choice,) = choices(answer, 1)
        followed: list[int] = []
        for token in token_ids(choice):
            if token not in mask.allowed(followed):
                break
            followed.append(token)
        return [*followed, *mask.forced(followed)], cached_tokens(answer)

    async def _write_all(self, requests: Sequence[TextRequest], answers: Answers[TextResult]) -> None:
        await answer_each(requests, self._write, answers)

    async def _write(self, request: TextRequest) -> TextResult:
        answer = await self._complete(
            [list(request.ids)],
            max_tokens=request.max_tokens,
            stop_token_ids=list(request.ends),
            return_token_ids=True,
        )
        (choice,) = choices(answer, 1)
        written = token_ids(choice)
        kept = written[:-1] if written and written[-1] in request.ends else written
        tokens = Tokens(prompt=len(request.ids), cached=cached_tokens(answer), completion=len(written))
        return TextResult(self.tokenizer.decode(kept), tokens)

    async def _complete(self, prompts: object, **fields: Any) -> Any:
        body = {"model": self._served, "prompt": prompts, **_GREEDY, "add_special_tokens": False, **fields}
        return await self._http.post("/completions", body)

    async def _probe(self) -> None:
        """Find out what the server can do, and check that its tokenizer is the one here.

        Raises:
            ModelError: When it is not.
            EngineError: When the server does not return the scores of chosen tokens.
        """
        (encoded,) = self.tokenizer.encode([_PROBE])
        ids = list(encoded.ids)
        tokens = list(dict.fromkeys(ids))
        (choice,) = choices(await self._complete(_PROBE, **_scoring(tokens[:2]), return_token_ids=True), 1)
        chosen_scores(choice, tokens[:2])
        read = token_ids(choice, "prompt_token_ids")
        if read != ids:
            raise ModelError(
                f"the server at {self._http.url} reads {_PROBE!r} as {len(read)} tokens {read[:4]}..., the tokenizer "
                f"of {self.model} here as {len(ids)} {ids[:4]}...; pass model=, the name or folder of the model that "
                "is served"
            )
        try:
            await self._read_places(ids, [0, len(ids) - 1], tokens[:2])
            self.one_pass.record(works=True)
        except EngineError as error:
            self.one_pass.record(works=False, why=str(error))
        mask = PermutationMask(tuple(tokens[3::-1]), (tokens[-1],))
        try:
            followed, _ = await self._write_masked(ids, mask)
            self.masked.record(works=not mask.allowed(followed))
        except EngineError as error:
            self.masked.record(works=False, why=str(error))


class _Gathered:
    """Scores that come place by place; a request is answered when all of its places are there."""

    def __init__(self, requests: Mapping[int, ScoreRequest], answers: Answers[ScoreResult]) -> None:
        self.requests = requests
        self._answers = answers
        self._found: dict[int, _Scores] = defaultdict(dict)

    def give(self, i: int, end: int, scores: dict[int, float], cached: int) -> None:
        request, found = self.requests[i], self._found[i]
        found[end] = scores
        if len(found) == len(set(request.reads)):
            # of several places, later ones find in the cache what the first one has just left there
            self._answers.give(i, _result(request, found, cached if len(found) == 1 else 0))


_Scores = dict[int, dict[int, float]]  # by place and token


def _result(request: ScoreRequest, found: _Scores, cached: int) -> ScoreResult:
    scores = [[found[end][target] for target in request.targets] for end in request.reads]
    return ScoreResult(scores, Tokens(prompt=len(request.ids), cached=cached))


def _scoring(targets: Sequence[int]) -> dict[str, Any]:
    """The fields that ask for the scores of `targets` at the first place of the answer."""
    return {
        "max_tokens": 1,
        "logprobs": 1,  # ignored for the count of them, but logprob_token_ids wants it
        "logprob_token_ids": list(targets),
        "return_tokens_as_token_ids": True,
    }
