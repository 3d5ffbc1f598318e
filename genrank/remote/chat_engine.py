"""Runs a model behind a plain chat endpoint: llama.cpp, Ollama, OpenAI, or any other that speaks its language.

Such an endpoint takes messages instead of tokens, so a ranking is what the model says: pointwise by the likeliest first
tokens of its answer, where the server gives them; listwise under a grammar that lets only orders through, or as JSON
under a schema, where the server enforces one, or else as text. What is missing from an order is added and counted.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from genrank.engines.base import PermuteRequest, PermuteResult, ScoreRequest, ScoreResult, TextRequest, TextResult
from genrank.engines.loops import Answers, answer_each
from genrank.errors import EngineError, InputError, OutputError
from genrank.permutation import IDENTIFIERS
from genrank.pictures.preparing import Picture, plain_picture
from genrank.remote.answers import read_answer
from genrank.remote.calls import HTTPEngine
from genrank.remote.chat import message_text, token_usage, unfinished
from genrank.remote.completions import UnservedError, cached_tokens
from genrank.remote.grammar import OrderForm
from genrank.remote.http import Connection, FailedError, RefusedError
from genrank.remote.models import ServedModel, find_adapter, find_model, served_models
from genrank.remote.pieces import PieceTokenizer
from genrank.remote.thinking import without_thinking
from genrank.types import Decoding, Tokens

if TYPE_CHECKING:
    import httpx

Form = Literal["grammar", "json_schema", "json_object", "text"]
"""How an order is asked for: under a grammar, a JSON schema as OpenAI or llama-cpp-python takes it, or as free text."""

_FORMS: tuple[Form, ...] = ("grammar", "json_schema", "json_object", "text")  # the best first
_HELLO = ({"role": "user", "content": "Say hello."},)
_PROBED = OrderForm("ABC", "[", "] > [")
_USUAL_CONTEXT = 8192
_THINKING = 256  # tokens that an answer may have beside what was asked for
_LOWEST = -9999.0  # in place of minus infinity
_PICTURE = 1024  # tokens of a picture, where the server does not count them
_TOP = (20, 5)  # how many likeliest tokens to ask for; some servers give fewer
_AS_JSON = (
    '\nAnswer with one JSON object and nothing else, in this form: {"ranking": ["C", "A", "B"]}\n'
    "ranking holds the letters of all listings, each once, the best first."
)


@dataclass(frozen=True, slots=True)
class _Said:
    """What an endpoint answered.

    Attributes:
        text: The model's text, outside its reasoning fields.
        finish_reason: Why it stopped; None if the endpoint does not say.
        first: Log-probabilities of the likeliest first tokens, by their text.
        read: Tokens that the endpoint says it read; None if it does not say.
        written: Tokens that it says it wrote; None if it does not say.
        cached: Tokens that it says it had read before.
    """

    text: str
    finish_reason: str | None
    first: Mapping[str, float]
    read: int | None
    written: int | None
    cached: int

    def tokens(self, ids: Sequence[int]) -> Tokens:
        """The counts of a call; of a prompt that the endpoint did not count, the estimate."""
        return Tokens(len(ids) if self.read is None else self.read, self.cached, self.written or 0)


class ChatEngine(HTTPEngine):
    """A model behind a chat endpoint.

    The key, if the endpoint wants one, is in the environment variable ``GENRANK_API_KEY``.

    Args:
        url: The server's address, such as ``http://127.0.0.1:11434/v1``; ``/chat/completions`` is appended.
        model: The model's name there; by default the server's only model.
        adapter: Folder of a LoRA adapter that the server serves under the folder's name.
        context: The most tokens that the model takes; by default what the server says, or else 8,192. Tokens are
            estimated.
        options: More fields for each request. They override those made here; None removes a field, as in
            ``{"max_tokens": None, "max_completion_tokens": 1024}``.
        in_flight: The most requests at once; further ones wait for their turn.
        attempts: How often a request is made at most, if it fails in a way that may pass.
        timeout: Seconds without any answer of the server after which a request is given up; after ten times as long it
            is given up in any case.
        transport: Makes the requests in place of the network, for tests.

    Attributes:
        decodings: What the endpoint can serve, the best one first: ``listwise``, and ``pointwise`` where it gives the
            likeliest tokens.

    Raises:
        InputError: When an argument is wrong.
        ModelNotFoundError: When no model is named and the server has several, or it has no such adapter.
        EngineError: When the endpoint does not answer, or refuses the model.
        MissingExtraError: When httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        adapter: str | None = None,
        context: int | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        in_flight: int = 8,
        attempts: int = 4,
        timeout: float = 120.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if context is not None and context < 1:
            raise InputError(f"must be at least 1, got {context}", field="context")
        super().__init__(Connection(url, in_flight=in_flight, attempts=attempts, timeout=timeout, transport=transport))
        self._options = dict(options)
        self.tokenizer: PieceTokenizer = PieceTokenizer()
        try:
            found = self._find(model, adapter)
            self.model: str = model or found.parent or found.name
            self.adapter: str | None = adapter
            self._served = found.name
            self.context: int = context or found.context or _USUAL_CONTEXT
            self._form: Form = "text"
            self._finding = asyncio.Lock()
            self._top = 0
            self._http.wait(self._probe())
        except BaseException:
            self.close()
            raise
        self.decodings: tuple[Decoding, ...] = ("pointwise", "listwise") if self._top else ("listwise",)

    @property
    def name(self) -> str:
        """``chat``, and how an order is asked for."""
        scores = f", top {self._top} log-probabilities" if self._top else ""
        return f"chat ({self._form}{scores})"

    def _find(self, model: str | None, adapter: str | None) -> ServedModel:
        """What requests call the model; a server that lists none is taken at the caller's word."""
        try:
            models = served_models(self._http.wait(self._http.get("/models")), self._http.url)
        except (RefusedError, UnservedError):
            if model is None or adapter is not None:
                raise
            return ServedModel(model)
        if adapter is not None:
            return find_adapter(models, adapter, self._http.url)
        if model is None:
            return find_model(models, None, self._http.url)
        return next((one for one in models if model in (one.name, one.root)), ServedModel(model))

    async def _probe(self) -> None:
        """Find out what the endpoint does, by its answers: fields that it does not know are often ignored silently.

        Raises:
            EngineError: When it does not answer at all.
        """
        answered = await self._find_form(_FORMS)
        question = [{"role": "user", "content": "Is snow white? Answer yes or no."}]
        for top in _TOP:
            said = await self._try(question, max_tokens=1, logprobs=True, top_logprobs=top)
            answered = answered or said is not None
            if said and {token.strip().lower() for token in said.first} & {"yes", "no"}:
                self._top = top
                break
        if not answered:
            await self._chat(_HELLO, max_tokens=32)

    async def _find_form(self, forms: Sequence[Form]) -> bool:
        """Take the first of `forms` that the endpoint obeys; say whether it answered at all."""
        answered = False
        for form in forms:
            if form == "text":
                self._form = form
                break
            most = 32 if form == "grammar" else 32 + _THINKING
            said = await self._try(_HELLO, max_tokens=most, **_fields(form, _PROBED))
            answered = answered or said is not None
            if said and _obeys(form, said.text, _PROBED):
                self._form = form
                break
        return answered

    async def _try(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> _Said | None:
        """What the endpoint answers; None if it does not take these fields.

        Raises:
            EngineError: When it cannot be reached, or wants another key.
        """
        try:
            return await self._chat(messages, **fields)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
        except FailedError as error:
            if error.status != 500:  # llama-cpp-python's, asked for logprobs without having been started for them
                raise
        return None

    def picture_tokens(self, edge: int) -> int:
        """The most tokens that a picture takes whose longer edge has `edge` pixels, as the endpoint counts them.

        Found by asking with a picture and without: a server whose model sees none may ignore it without a word.

        Raises:
            InputError: When the endpoint refuses the picture, or reads no more tokens with it than without.
            EngineError: When it does not answer.
        """
        tokens: int | None = self._http.wait(self._count_picture(edge))
        return tokens or 0

    async def _count_picture(self, edge: int) -> int:
        asked = "What colour is it? Answer with one word."
        plain = await self._chat([{"role": "user", "content": asked}], max_tokens=1)
        said = await self._try(
            [_with_picture({"role": "user", "content": asked}, plain_picture(edge, edge))], max_tokens=1
        )
        more = None if said is None or said.read is None or plain.read is None else said.read - plain.read
        if said is None or (more is not None and more <= 0):
            did = "refuses pictures" if said is None else "reads no more tokens with a picture than without"
            raise InputError(
                f"the server at {self._http.url} {did}, so {self.model} sees none; serve a model that looks at "
                "pictures, or leave pictures out",
                field="pictures",
            )
        return _PICTURE if more is None else more

    async def _score_all(self, requests: Sequence[ScoreRequest], answers: Answers[ScoreResult]) -> None:
        await answer_each(requests, self._score, answers)

    async def _permute_all(self, requests: Sequence[PermuteRequest], answers: Answers[PermuteResult]) -> None:
        await answer_each(requests, self._permute, answers)

    async def _write_all(self, requests: Sequence[TextRequest], answers: Answers[TextResult]) -> None:
        await answer_each(requests, self._write, answers)

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        if tuple(request.reads) != (len(request.ids) - 1,):
            raise EngineError("a chat endpoint gives scores at the end of a prompt only; take pointwise or listwise")
        messages: list[dict[str, Any]] = [*self.tokenizer.messages(request.ids)]
        if request.picture is not None:
            messages[-1] = _with_picture(messages[-1], request.picture)
        said = await self._chat(messages, max_tokens=1, logprobs=True, top_logprobs=self._top or _TOP[0])
        if not said.first:
            raise UnservedError(f"the server at {self._http.url} gave no top_logprobs; take decoding listwise")
        # a token that is not among the likeliest has at most the score of the last of these
        floor = min(said.first.values())
        names = [self.tokenizer.decode([target]) for target in request.targets]
        repairs = []
        if not any(name in said.first for name in names):
            likeliest = max(said.first, key=said.first.__getitem__)
            which = request.listing_ids[0] if request.listing_ids else "a listing"
            repairs.append(f"no answer about {which}: the likeliest token is {likeliest!r:.40}")
        return ScoreResult([[said.first.get(name, floor) for name in names]], said.tokens(request.ids), repairs=repairs)

    async def _permute(self, request: PermuteRequest) -> PermuteResult:
        n = len(request.identifiers)
        names = "".join(self.tokenizer.decode([identifier]).strip() for identifier in request.identifiers)
        if names != IDENTIFIERS[:n]:
            raise EngineError(
                f"a chat endpoint ranks listings named by the letters {IDENTIFIERS[0]} to {IDENTIFIERS[-1]}: take a "
                f"window of at most {len(IDENTIFIERS)} and a prompt template that names listings by letters"
            )
        if n == 1:
            return PermuteResult((0,), Tokens())
        asked = OrderForm(names, self.tokenizer.begun(request.ids), self.tokenizer.decode(request.between))
        if self._form == "grammar":
            bound = await self._permute_bound(request, asked)
            if bound is not None:
                return bound
        form = self._form
        messages = self.tokenizer.messages(request.ids)
        if form != "text":
            messages[-1] = messages[-1] | {"content": messages[-1]["content"] + _AS_JSON}
        most = 8 * n + _THINKING
        said = await self._chat(messages, max_tokens=most, **_fields(form, asked))
        trouble, words = unfinished(said.finish_reason, said.written, most)
        if said.text and not trouble and not _obeys(form, said.text, asked):
            await self._still_obeyed(form)
        try:
            answer = read_answer(said.text, n, finished=bool(said.finish_reason) and not trouble)
        except OutputError as error:
            return PermuteResult((), said.tokens(request.ids), [f"{error}{f' ({words})' if words else ''}"])
        missing = [place for place in range(n) if place not in answer.order]
        repairs = []
        if missing:
            repairs.append(f"the answer named {n - len(missing)} of {n} listings; the others follow in their old order")
        if answer.repeated:
            repairs.append(f"the answer named listings again ({answer.repeated} times); the first time counted")
        return PermuteResult((*answer.order, *missing), said.tokens(request.ids), repairs)

    async def _permute_bound(self, request: PermuteRequest, asked: OrderForm) -> PermuteResult | None:
        """Ask for an order under a grammar; None if the server no longer obeys one.

        Where the answer names a listing again, the model goes on from there, so the order is the one that it writes
        when it may only choose among the listings that are left.
        """
        messages = self.tokenizer.messages(request.ids)
        n = len(asked.names)
        most = 8 * n + _THINKING
        places: list[int] = []
        first, written = None, 0
        while n - len(places) > 1 or first is None:
            said = await self._chat(messages, max_tokens=most, **_fields("grammar", asked, places))
            first, written = first or said, written + (said.written or 0)
            found = asked.read(said.text)
            if found[: len(places)] != places or len(found) == len(places):
                trouble, words = unfinished(said.finish_reason, said.written, most)
                if not trouble and not await self._still_obeyed("grammar"):
                    return None
                why = words or repr(said.text[:80])
                return PermuteResult((), said.tokens(request.ids), [f"the answer holds no order ({why})"])
            places = found
        places += set(range(n)) - set(places)
        return PermuteResult(places, replace(first.tokens(request.ids), completion=written))

    async def _still_obeyed(self, form: Form) -> bool:
        """Try a form again after an answer that is not in it; if the server no longer obeys it, take the next best."""
        async with self._finding:
            if self._form == form:
                await self._find_form(_FORMS[_FORMS.index(form) :])
            return self._form == form

    async def _write(self, request: TextRequest) -> TextResult:
        said = await self._chat(self.tokenizer.messages(request.ids), max_tokens=request.max_tokens)
        try:
            text = without_thinking(said.text).strip()
        except OutputError:
            text = ""  # it ended inside its thinking
        if request.ends:
            text = text.partition("\n")[0]
        return TextResult(text, said.tokens(request.ids))

    async def _chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> _Said:
        body = {"model": self._served, "messages": list(messages), "temperature": 0.0, **fields, **self._options}
        body = {name: value for name, value in body.items() if value is not None}
        return _read(await self._http.post("/chat/completions", body), self._http.url)


def _with_picture(message: Mapping[str, Any], picture: Picture) -> dict[str, Any]:
    """A message with a picture before its text; the picture is in the message, so the server fetches nothing."""
    parts = [
        {"type": "image_url", "image_url": {"url": picture.data_url()}},
        {"type": "text", "text": message["content"]},
    ]
    return {**message, "content": parts}


def _read(answer: Any, url: str) -> _Said:
    """Read a chat completion.

    Raises:
        UnservedError: When it is none.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        text = message_text(message.get("content"))
        usage = token_usage(answer.get("usage"))
        reason = choice.get("finish_reason")
        first = _first_tokens(choice.get("logprobs"))
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        raise UnservedError(f"the server at {url} gave no chat completion: {answer!r:.100}") from None
    read, written = usage or (None, None)
    return _Said(text or "", None if reason is None else str(reason), first, read, written, cached_tokens(answer))


def _first_tokens(logprobs: Any) -> dict[str, float]:
    """Log-probabilities of the likeliest first tokens, by their text; of tokens with one text the likeliest counts."""
    found: dict[str, float] = {}
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    for entry in content[0]["top_logprobs"] if content else ():
        score = float(entry["logprob"])
        if not math.isnan(score):
            found[entry["token"]] = max(score, found.get(entry["token"], _LOWEST))
    return found


def _fields(form: Form, asked: OrderForm, places: Sequence[int] = ()) -> dict[str, Any]:
    """The fields that ask for an order; under a grammar, for one that begins with `places`."""
    if form == "text":
        return {}
    if form == "grammar":
        # llama-cpp-python penalises by default what the prompt holds, and with it the last listings' names
        return {"grammar": asked.grammar(places), "repeat_penalty": 1.0}
    schema = {
        "type": "object",
        "properties": {
            "ranking": {
                "type": "array",
                "items": {"type": "string", "enum": [*asked.names]},
                "minItems": len(asked.names),
                "maxItems": len(asked.names),
            }
        },
        "required": ["ranking"],
        "additionalProperties": False,
    }
    if form == "json_object":
        return {"response_format": {"type": form, "schema": schema}}
    return {"response_format": {"type": form, "json_schema": {"name": "ranking", "strict": True, "schema": schema}}}


def _obeys(form: Form, text: str, asked: OrderForm) -> bool:
    """Whether a text is in the form that was asked for."""
    if form == "text":
        return True
    if form == "grammar":
        return len(asked.read(text)) == len(asked.names)
    try:
        ranking = json.loads(text)["ranking"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return isinstance(ranking, list) and bool(ranking) and all(name in [*asked.names] for name in ranking)
