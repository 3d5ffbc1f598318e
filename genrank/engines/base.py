"""The protocols that engines implement.

An engine knows nothing about queries and listings: it gets tokens and returns what the model computes from them. Every
call takes a batch and answers in the batch's order. Calls may come from several threads at once. A call's `Stop` can
end it early: it then returns the answers computed so far, and None for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args

from genrank.engines.tokenizer import Tokenizer
from genrank.errors import EngineError, InputError
from genrank.pictures.preparing import Picture
from genrank.types import Dtype, Tokens


class Stop:
    """Tells one engine call when to give up, and collects the answers that the call has finished so far.

    An engine checks it, by calling it, at least before each forward pass. It may publish answers as it goes, so the
    caller has them even if it does not wait for the end of the call.

    Args:
        ends: When to give up, on the clock of ``time.monotonic()``; infinity for no time limit.

    Attributes:
        ends: See above.
    """

    def __init__(self, ends: float = math.inf) -> None:
        self.ends = ends
        self._finished: dict[int, tuple[object, Any]] = {}  # by id(request); holds the request, so its id is not reused
        self._cancelled = False
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """Whether to give up; returns at once, in any thread."""
        return self._cancelled or time.monotonic() >= self.ends

    def left(self) -> float | None:
        """Seconds left, never below 0; None without a time limit."""
        return None if self.ends == math.inf else max(0.0, self.ends - time.monotonic())

    def publish(self, request: object, answer: object) -> None:
        """Store the answer to a request, for `finished`."""
        self._finished[id(request)] = request, answer

    def finished(self, request: object) -> Any:
        """The answer that was published for this request object; None if there is none yet."""
        return self._finished.get(id(request), (None, None))[1]

    def cancel(self) -> None:
        """Give up now."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextlib.contextmanager
    def on_cancel(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call `callback`, in the thread that cancels, if `cancel` is called within this context."""
        with self._lock:
            cancelled = self._cancelled
            if not cancelled:
                self._callbacks.append(callback)
        if cancelled:
            callback()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(callback)


class _Never(Stop):
    def publish(self, request: object, answer: object) -> None:
        """Do nothing: all calls that run to their end share this object, and nobody reads its answers."""


never: Stop = _Never()
"""The `Stop` of a call that runs to its end."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Read the model's scores of some tokens at some positions, without generating anything.

    Attributes:
        ids: ``[prompt_tokens]`` token ids.
        reads: ``[r]`` positions in `ids`, 0-based: each asks what may follow the token there.
        targets: ``[t]`` vocabulary ids to score.
        listing_ids: The prompt's candidates, for logs and test doubles; engines ignore them.
        lead: How many of the first tokens every prompt of the template begins with. An engine may keep their keys and
            values; 0 makes no promise.
        head: How many of the first tokens later requests will begin with too, `lead` included: up to the end of a
            listing that comes before the query. An engine may keep their keys and values; 0 makes no promise.
        opening: How many tokens after the head every request without a history has: what comes before the query. An
            engine that keeps the head may keep them with it.
        picture: A picture that the model sees before the token at `picture_at`; `ids` hold no place for it, so the
            engine adds the tokens that its model wants there. None without one. Only an engine with the method
            ``picture_tokens`` gets one; see `Engine`.
        picture_at: 0-based.
    """

    ids: Sequence[int]
    reads: Sequence[int]
    targets: Sequence[int]
    listing_ids: Sequence[str] = ()
    lead: int = 0
    head: int = 0
    opening: int = 0
    picture: Picture | None = None
    picture_at: int = 0


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The answer to a `ScoreRequest`.

    Attributes:
        scores: ``[r][t]`` log-probabilities, up to a constant for each position (so logits will do).
        tokens: Token counts.
        found: Whether the engine had kept the keys and values of the request's head.
        repairs: What the engine had to guess, each in words.
    """

    scores: Sequence[Sequence[float]]
    tokens: Tokens
    found: bool = False
    repairs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PermuteRequest:
    """Let the model write an order of identifiers, each exactly once.

    Attributes:
        ids: ``[prompt_tokens]`` token ids; the first identifier follows the last of them.
        identifiers: ``[n]`` the candidates' tokens, distinct.
        between: Tokens between two identifiers.
        listing_ids: The prompt's candidates, for logs and test doubles; engines ignore them.
    """

    ids: Sequence[int]
    identifiers: Sequence[int]
    between: Sequence[int]
    listing_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PermuteResult:
    """The answer to a `PermuteRequest`.

    Attributes:
        order: ``[n]`` places in `identifiers`, best first; empty where the model named none, and `repairs` says why.
        tokens: Token counts; forced tokens count as completion.
        repairs: What the engine had to change to make a complete order, each in words; empty under a mask.
    """

    order: Sequence[int]
    tokens: Tokens
    repairs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Let the model write text, always taking the likeliest token.

    Attributes:
        ids: ``[prompt_tokens]`` token ids.
        max_tokens: The most tokens to write.
        ends: Tokens that end the text, besides the model's own; they are not part of it.
        lead: See `ScoreRequest`.
    """

    ids: Sequence[int]
    max_tokens: int
    ends: Sequence[int] = ()
    lead: int = 0


@dataclass(frozen=True, slots=True)
class TextResult:
    """The answer to a `TextRequest`.

    Attributes:
        text: What the model wrote, without special tokens.
        tokens: Token counts.
    """

    text: str
    tokens: Tokens


def check_dtype(dtype: str) -> None:
    """Check that a name is a `Dtype`.

    Raises:
        InputError: When it is not.
    """
    if dtype not in get_args(Dtype):
        *most, last = get_args(Dtype)
        raise InputError(f"must be {', '.join(most)} or {last}, got {dtype!r}", field="dtype")


def total_tokens(request: ScoreRequest | PermuteRequest | TextRequest) -> int:
    """The tokens of a prompt plus the most tokens of its answer."""
    match request:
        case PermuteRequest():
            return len(request.ids) + len(request.identifiers) * (1 + len(request.between))
        case TextRequest():
            return len(request.ids) + request.max_tokens
    return len(request.ids)


def check_lengths(requests: Sequence[ScoreRequest | PermuteRequest | TextRequest], context: int, model: str) -> None:
    """Check that each prompt fits into the model's context together with its answer.

    Raises:
        EngineError: When one does not.
    """
    for request in requests:
        if (length := total_tokens(request)) > context:
            raise EngineError(f"{length} tokens exceed the {context} that {model} takes")


CallKind = Literal["score", "permute", "write"]


@dataclass(frozen=True, slots=True)
class EngineCall:
    """An engine call that is still to be made.

    Attributes:
        kind: Name of the method of `Engine`; with an ``a`` in front, of `AsyncEngine`.
        requests: The batch for that method.
    """

    kind: CallKind
    requests: Sequence[ScoreRequest] | Sequence[PermuteRequest] | Sequence[TextRequest]

    def run(self, engine: Engine, stop: Stop = never) -> list[Any]:
        """Make the call.

        Raises:
            EngineError: When the model cannot be run.
        """
        try:
            answers: list[Any] = getattr(engine, self.kind)(self.requests, stop=stop)
        except StopIteration as error:  # asyncio passes none on: whoever awaits the call would wait for ever
            raise RuntimeError("the engine raised StopIteration") from error
        return answers


class Closing:
    """A base class for objects with a `close` method, which ``with`` and ``async with`` call at their end."""

    def close(self) -> None:
        """Free its resources. Closing twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


class Engine(Protocol):
    """Runs a model.

    An engine that cannot serve every decoding says so in an attribute ``decodings``: those that it serves, the best one
    first. `genrank.Reranker` refuses the others.

    An engine whose model looks at pictures has a method ``picture_tokens(edge)``: the most tokens that a picture takes
    whose longer edge has `edge` pixels. It raises an `InputError` whose field is ``pictures`` if the model turns out to
    see none.
    """

    @property
    def name(self) -> str:
        """Name of the engine, such as ``transformers``."""

    @property
    def model(self) -> str:
        """Name of the model."""

    @property
    def adapter(self) -> str | None:
        """Name of the adapter; None without one."""

    @property
    def context(self) -> int:
        """The most tokens that the model takes, prompt and answer together."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    def score(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """Read scores; None for each request that was not finished when the call was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders; None for each request that was not finished when the call was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text; None for each request that was not finished when the call was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """


class AsyncEngine(Engine, Protocol):
    """An engine that can also be awaited, from any event loop and without a thread for each call.

    `genrank.Reranker.arerank` awaits an engine that has these methods, and calls other engines in a thread. When the
    awaiting task is cancelled, the engine drops the work.
    """

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """See `Engine.score`."""

    async def apermute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """See `Engine.permute`."""

    async def awrite(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `Engine.write`."""
