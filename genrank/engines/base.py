"""The protocol that every engine keeps.

An engine knows nothing of queries and listings: it is given tokens, and says what the model makes of them. All of
its calls take a batch, and answer in the batch's order. They may come from several threads at once. A call is stopped
by its `Stop`: what has been computed by then is answered, the rest is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from genrank.engines.tokenizer import Tokenizer
from genrank.errors import EngineError, InputError
from genrank.types import Tokens

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
"""Number formats of a model's weights; what ``auto`` takes is the engine's to say."""

Stop = Callable[[], bool]
"""Whether to give up: asked before each forward pass at least, in the thread of the call; it answers at once."""


def never() -> bool:
    """The `Stop` of a call that runs to its end."""
    return False


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Read the model's scores of some tokens at some places; nothing is generated.

    Attributes:
        ids: ``[prompt_tokens]``.
        reads: ``[r]`` places in `ids`, 0-based: each asks for what may follow the token there.
        targets: ``[t]`` vocabulary ids whose scores are wanted.
        listing_ids: The candidates of the prompt, for logs and test doubles; engines pass over them.
        keep: Whether requests that begin with these `ids` will follow soon, so that their keys and values are worth
            keeping, as far as the engine has room.
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
        listing_ids: The candidates of the prompt, for logs and test doubles; engines pass over them.
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
    """Refuse what is none of `Dtype`.

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


class Engine(Protocol):
    """Runs a model."""

    @property
    def name(self) -> str:
        """Of the engine, such as ``transformers``."""

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
        """Read scores; None where it was stopped before.

        Raises:
            EngineError: When the model cannot be run.
        """

    def permute(self, requests: Sequence[PermuteRequest], *, stop: Stop = never) -> list[PermuteResult | None]:
        """Write orders; None where it was stopped before.

        Raises:
            EngineError: When the model cannot be run.
        """

    def write(self, requests: Sequence[TextRequest], *, stop: Stop = never) -> list[TextResult | None]:
        """Write text; None where it was stopped before.

        Raises:
            EngineError: When the model cannot be run.
        """
