"""Reads what vLLM's server answers to a completion of token ids; a field that it left out is told, never guessed."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

from genrank.errors import EngineError

_NEEDED = "genrank needs a vLLM server of version 0.20 or later"
_LOWEST = -9999.0  # what vLLM gives for minus infinity
_MOST_TOKENS = 1 << 31  # in any vocabulary


class UnservedError(EngineError):
    """The answer lacks what was asked for: the server ignored a field."""


def choices(answer: Any, count: int) -> list[dict[str, Any]]:
    """The choices of an answer, in the prompts' order.

    Args:
        answer: The parsed JSON.
        count: Prompts that were sent.

    Raises:
        UnservedError: When there is not one choice for each prompt.
    """
    found = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(choice, dict) for choice in found):
        raise UnservedError(f"the server's answer has no choices; {_NEEDED}")
    numbered = [(choice.get("index", at), choice) for at, choice in enumerate(found)]
    by_index = {index: choice for index, choice in numbered if type(index) is int}
    if len(found) != count or by_index.keys() != set(range(count)):
        raise UnservedError(f"the server gave {len(found)} choices where {count} prompts were sent; {_NEEDED}")
    return [by_index[at] for at in range(count)]


def chosen_scores(choice: dict[str, Any], targets: Sequence[int]) -> list[float]:
    """The log-probabilities ``[t]`` of `targets` at the first place of the answer.

    Raises:
        UnservedError: When one is missing.
    """
    logprobs = choice.get("logprobs")
    places = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    first = places[0] if isinstance(places, list) and places else None
    found = first if isinstance(first, dict) else {}
    scores = [found.get(f"token_id:{target}") for target in targets]
    missing = [target for target, score in zip(targets, scores, strict=True) if not _is_score(score)]
    if missing:
        raise UnservedError(
            f"the server gave no log-probability of token {missing[0]} (it ignores logprob_token_ids or "
            f"return_tokens_as_token_ids); {_NEEDED}"
        )
    return [max(float(score), _LOWEST) for score in scores if score is not None]


def _is_score(score: object) -> bool:
    if not isinstance(score, int | float) or isinstance(score, bool):
        return False
    try:
        return not math.isnan(score)
    except OverflowError:  # a whole number beyond what a float holds
        return False


def token_ids(choice: dict[str, Any], field: str = "token_ids") -> list[int]:
    """The tokens that were written, or of ``prompt_token_ids``, read.

    Raises:
        UnservedError: When they are missing.
    """
    found = choice.get(field)
    if not isinstance(found, list) or any(type(token) is not int or not 0 <= token < _MOST_TOKENS for token in found):
        raise UnservedError(f"the server gave no {field} (it ignores return_token_ids); {_NEEDED}")
    return found


def cached_tokens(answer: Any) -> int:
    """How many tokens of the last prompt came from the prefix cache; 0 if the server does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return cached if type(cached) is int and cached > 0 else 0


def prompt_scores(answer: Any, rows: int, width: int) -> list[list[float]]:
    """The scores ``[rows][width]`` of chosen tokens at the places of a prompt.

    Raises:
        UnservedError: When the answer does not hold them, in this shape.
    """
    import numpy as np

    encoded = answer.get("prompt_token_id_logprobs") if isinstance(answer, dict) else None
    if not isinstance(encoded, str):
        raise UnservedError("the server gave no prompt_token_id_logprobs")
    try:
        array = np.load(io.BytesIO(base64.b64decode(encoded, validate=True)), allow_pickle=False)
    except (binascii.Error, ValueError, EOFError, OSError) as error:
        raise UnservedError(f"the server's prompt_token_id_logprobs cannot be read: {error}") from None
    if array.dtype.kind not in "fiu":
        raise UnservedError(f"the server's prompt_token_id_logprobs cannot be read: {array.dtype} holds no numbers")
    if array.shape != (rows, width):
        raise UnservedError(f"the server gave prompt_token_id_logprobs {list(array.shape)}, not [{rows}, {width}]")
    found: list[list[float]] = np.maximum(array.astype(float), _LOWEST).tolist()
    return found
