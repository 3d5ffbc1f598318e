"""Adds the first stage's scores to the model's, with a weight fitted on judged queries and stored with an adapter.

A first stage and a language model err on different queries, so their weighted sum often ranks better than either. Both
are put on one scale within each query: mean 0, standard deviation 1; where all scores are equal, 0. Of the model, that
is done with

- ``pointwise`` and ``inline``: the log-odds of the score;
- ``first-token``: its logarithm, which is the model's logit up to a constant;
- ``listwise``: the score itself, which reflects the place.

A blended score keeps the mean and the spread of these: ``mean + deviation * blended`` is turned back into a score from
0 to 1. It is no longer a probability. A calibration (`genrank.calibration`) moves and stretches the log-odds, so it has
no influence on the order of a blend.

``python -m eval.calibrate --blend`` fits a weight (in a clone), `save_blend` writes it. It is stored by decoding, in
the object ``blend`` of ``genrank.json`` in an adapter's folder (`genrank.adapters`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from genrank.adapters import save_fit, stored_fit
from genrank.decoding.judgements import log_odds, sigmoid
from genrank.errors import ConfigError
from genrank.types import Decoding, Ranking, in_order

_KEY = "blend"
_LEAST = 1e-16


@dataclass(frozen=True, slots=True)
class Blend:
    """How much the model counts beside the first stage.

    Attributes:
        decoding: Whose scores.
        weight: Weight of the model, 0 to 1; the first stage has the rest.
        fitted_on: The judged queries and the first stage, in words.
        model: The model whose scores were fitted, as its engine names it; empty for any model.
        prompt_hash: Hash of the prompt template used in fitting (`Provenance.prompt_hash`); empty for any template.

    Raises:
        ConfigError: When a value is wrong.
    """

    decoding: Decoding
    weight: float
    fitted_on: str = ""
    model: str = ""
    prompt_hash: str = ""

    def __post_init__(self) -> None:
        if self.decoding not in get_args(Decoding):
            raise ConfigError(f"blend.decoding: must be one of {list(get_args(Decoding))}, got {self.decoding!r}")
        if not is_weight(self.weight):
            raise ConfigError(f"blend.weight: must be a number within 0..1, got {self.weight!r}")
        for name in ("fitted_on", "model", "prompt_hash"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"blend.{name}: must be a text, got {getattr(self, name)!r}")


def is_weight(value: object) -> bool:
    """Whether a value is a number within 0 to 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


class Blended(NamedTuple):
    """The blend of one query.

    Attributes:
        order: ``[n]`` indices of the candidates, best first; equal sums keep the order in which the scores came.
        scores: ``[n]`` blended scores of the candidates as they came, 0 to 1; they never rise along `order`.
    """

    order: list[int]
    scores: list[float]


def blended(scores: Sequence[float], first_stage: Sequence[float], weight: float, decoding: Decoding) -> Blended:
    """Blend the model's scores of one query with the first stage's.

    Args:
        scores: ``[n]`` the model's scores, 0 to 1.
        first_stage: ``[n]`` the first stage's, any finite numbers; higher is better.
        weight: Weight of the model, 0 to 1.
        decoding: Where the model's scores come from.
    """
    return blended_standard(scores, standardised(first_stage), weight, decoding)


def blended_standard(
    scores: Sequence[float], others: Sequence[float], weight: float, decoding: Decoding | Literal[""]
) -> Blended:
    """Blend the model's scores of one query with others that are on the scale of `standardised` already.

    Args:
        scores: ``[n]`` the model's scores, 0 to 1.
        others: ``[n]`` the other scores; higher is better.
        weight: Weight of the model, 0 to 1.
        decoding: Where the model's scores come from; empty where no model made them.
    """
    scale = scaled(scores, decoding)
    sums = weighted(standardised(scale), others, weight)
    mean = math.fsum(scale) / len(scale)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in scale) / len(scale))
    order = sorted(range(len(sums)), key=lambda i: -sums[i])
    return Blended(order, _unscaled([mean + deviation * value for value in sums], decoding))


def blend_ranking(ranking: Ranking, others: Sequence[float], weight: float) -> Ranking:
    """A ranking by its scores blended with others; one whose outcome is ``fallback`` stays as it is.

    Args:
        ranking: The ranking.
        others: ``[n]`` the other scores of its items, in its order, on the scale of `standardised`.
        weight: Weight of the ranking's scores, 0 to 1.
    """
    if ranking.provenance.outcome == "fallback":
        return ranking
    found = blended_standard([item.score for item in ranking], others, weight, ranking.provenance.decoding)
    items = in_order(dataclasses.replace(ranking[place], score=found.scores[place]) for place in found.order)
    return dataclasses.replace(ranking, items=items)


def weighted(scores: Sequence[float], others: Sequence[float], weight: float) -> list[float]:
    """``[n]`` weighted sums of two lists of standardised scores; `weight` is that of the first."""
    return [weight * one + (1 - weight) * other for one, other in zip(scores, others, strict=True)]


def standardised(scores: Sequence[float]) -> list[float]:
    """``[n]`` scores of one query with mean 0 and standard deviation 1; all 0 where they are equal.

    Args:
        scores: ``[n]`` any finite numbers.
    """
    top = max(map(abs, scores), default=0.0)
    if not scores or min(scores) == max(scores):
        return [0.0] * len(scores)
    within = [score / top for score in scores]  # squares of large numbers would overflow
    mean = math.fsum(within) / len(within)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in within) / len(within))
    return [(score - mean) / deviation if deviation else 0.0 for score in within]


def scaled(scores: Sequence[float], decoding: Decoding | Literal[""]) -> list[float]:
    """``[n]`` scores of a decoding, 0 to 1, on the scale on which they are blended; see the module's text."""
    match decoding:
        case "listwise" | "":
            return list(scores)
        case "first-token":
            return [math.log(max(score, _LEAST)) for score in scores]
    return [log_odds(score) for score in scores]


def _unscaled(values: Sequence[float], decoding: Decoding | Literal[""]) -> list[float]:
    """The inverse of `scaled`; of ``first-token``, scores add up to 1."""
    match decoding:
        case "listwise" | "":
            return [min(max(value, 0.0), 1.0) for value in values]
        case "first-token":
            top = max(values)
            chances = [math.exp(value - top) for value in values]
            total = math.fsum(chances)
            return [chance / total for chance in chances]
    return [sigmoid(value) for value in values]


def stored_blend(adapter: str | Path, *, decoding: str, prompt_hash: str, model: str) -> Blend | None:
    """The blend in an adapter's folder for exactly this use; None if there is none.

    Raises:
        ConfigError: When its ``genrank.json`` is not JSON, or a key of the blend is wrong.
    """
    return stored_fit(_KEY, Blend, adapter, decoding=decoding, prompt_hash=prompt_hash, model=model)


def save_blend(blend: Blend, path: str | Path) -> Path:
    """Write a blend; other decodings' blends and other keys of an existing file stay.

    Args:
        blend: The blend.
        path: A file whose name ends in ``.json``, or a folder (an adapter's) for a ``genrank.json``; created if
            needed.

    Returns:
        The file.

    Raises:
        ConfigError: When the file exists and does not hold a JSON object.
        OSError: When it cannot be written.
    """
    return save_fit(_KEY, blend, path)
