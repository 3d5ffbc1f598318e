"""The protocols that engines keep.

An engine knows nothing of queries and listings: it is given tokens, and says what the model makes of them. Every call
takes a batch and answers in the batch's order. Calls may come from several threads at once. A call is ended early by
its `Stop`: what has been computed by then is answered, the rest is None.
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
from genrank.types import Tokens

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
"""Number formats of a model's weights; each engine documents what ``auto`` means."""


class Stop:
    """Tells one call of an engine when to give up, and takes what the call has finished by then.

    An engine asks it before each forward pass at least, by calling it. It may publish answers as it goes, so that the
    caller still has them when it does not wait for the call's end.

    Args:
        ends: When to give up, on the clock of ``time.monotonic()``; infinity: not before it is cancelled.

    Attributes:
        ends: See above.
    """

    def __init__(self, ends: float = math.inf) -> None:
        self.ends = ends
        self._finished: dict[int, tuple[object, Any]] = {}  # by the request's id, with the request, which keeps its id
        self._cancelled = False
        self._callbacks: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        """Whether to give up; answers at once, from any thread."""
        return self._cancelled or time.monotonic() >= self.ends

    def left(self) -> float | None:
        """Seconds left, never below 0; None without an end."""
        return None if self.ends == math.inf else max(0.0, self.ends - time.monotonic())

    def publish(self, request: object, answer: object) -> None:
        """Leave the answer to a request where `finished` finds it."""
        self._finished[id(request)] = request, answer

    def finished(self, request: object) -> Any:
        """The answer that was published for this very request; None: none so far."""
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
        """Have `callback` called, in the thread that cancels, when that happens inside this context."""
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
        """Nobody reads it: all calls that run to their end share this one."""


never: Stop = _Never()
"""The `Stop` of a call that runs to its end."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Read the model's scores of some tokens at some places; nothing is generated.

    Attributes:
        ids: ``[prompt_tokens]``.
        reads: ``[r]`` places in `ids`, 0-based: each asks for what may follow the token there.
        targets: ``[t]`` vocabulary ids whose scores are wanted.
        listing_ids: The candidates of the prompt, for logs and test doubles; engines ignore them.
        keep: Whether requests that begin with these `ids` will follow soon, so that their keys and values are worth
            caching, as far as the engine has room.
    """

    ids: Sequence[int]
    reads: Sequence[int]
    targets: Sequence[int]
    listing_ids: Sequence[str] = ()
    keep: bool = False


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The answer to a `ScoreRequest`.

    Attributes:
        scores: ``[r][t]`` log-probabilities up to a constant of each place (a logit is one).
        tokens: What it cost.
    """

    scores: Sequence[Sequence[float]]
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class PermuteRequest:
    """Let the model write an order of identifiers, each exactly once.

    Attributes:
        ids: ``[prompt_tokens]``; the first identifier follows the last of them.
        identifiers: ``[n]`` the candidates' tokens, distinct.
        between: Tokens between two identifiers.
        listing_ids: The candidates of the prompt, for logs and test doubles; engines ignore them.
        keep: See `ScoreRequest`.
    """

    ids: Sequence[int]
    identifiers: Sequence[int]
    between: Sequence[int]
    listing_ids: Sequence[str] = ()
    keep: bool = False


@dataclass(frozen=True, slots=True)
class PermuteResult:
    """The answer to a `PermuteRequest`.

    Attributes:
        order: ``[n]`` places in `identifiers`, best first.
        tokens: What it cost; forced tokens count as completion.
    """

    order: Sequence[int]
    tokens: Tokens


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Let the model write text, always taking the likeliest token.

    Attributes:
        ids: ``[prompt_tokens]``.
        max_tokens: The most tokens to write.
        ends: Tokens that end the text, beside the model's own; they are not part of it.
    """

    ids: Sequence[int]
    max_tokens: int
    ends: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class TextResult:
    """The answer to a `TextRequest`.

    Attributes:
        text: What the model wrote, special tokens left out.
        tokens: What it cost.
    """

    text: str
    tokens: Tokens


def check_dtype(dtype: str) -> None:
    """Refuse anything that is not a `Dtype`.

    Raises:
        InputError: When it is not.
    """
    if dtype not in get_args(Dtype):
        *most, last = get_args(Dtype)
        raise InputError(f"must be {', '.join(most)} or {last}, got {dtype!r}", field="dtype")


def total_tokens(request: ScoreRequest | PermuteRequest | TextRequest) -> int:
    """The tokens of a prompt and the most of its answer."""
    match request:
        case PermuteRequest():
            return len(request.ids) + len(request.identifiers) * (1 + len(request.between))
        case TextRequest():
            return len(request.ids) + request.max_tokens
    return len(request.ids)


def check_lengths(requests: Sequence[ScoreRequest | PermuteRequest | TextRequest], context: int, model: str) -> None:
    """Refuse prompts that a model cannot take with their answers.

    Raises:
        EngineError: When one has more tokens than the context.
    """
    for request in requests:
        if (length := total_tokens(request)) > context:
            raise EngineError(f"{length} tokens exceed the {context} that {model} takes")


CallKind = Literal["score", "permute", "write"]


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A call of an engine that has not been made yet.

    Attributes:
        kind: The engine's method; with an ``a`` before it, that of `AsyncEngine`.
        requests: The method's batch.
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
    """What has a `close` and may be used in ``with`` and ``async with``, which call it."""

    def close(self) -> None:
        """Free what it holds. Closing twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


class Engine(Protocol):
    """Runs a model."""

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
        """Read scores; None for what was not finished when it was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders; None for what was not finished when it was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text; None for what was not finished when it was stopped.

        Raises:
            EngineError: When the model cannot be run.
        """


class AsyncEngine(Engine, Protocol):
    """An engine that can also be awaited, from any event loop and without a thread for each call.

    `genrank.Reranker.arerank` awaits an engine that has these methods; it calls the others in a thread. When the
    awaiting task is cancelled, the engine drops the work.
    """

    async def ascore(self, requests: Sequence[ScoreRequest], *, stop: Stop = never) -> list[ScoreResult | None]:
        """See `Engine.score`."""

    async def apermute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """See `Engine.permute`."""

    async def awrite(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """See `Engine.write`."""
