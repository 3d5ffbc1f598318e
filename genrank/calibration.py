"""Turns scores into probabilities, with a temperature fitted on judged queries and stored with an adapter.

A model is rarely right as often as its scores say. A calibration rescales the scores of one window so that they match
how often the model was right on the queries it was fitted on. The order never changes (temperature scaling: Guo et al.
2017, arXiv 1706.04599; with a bias: Platt 1999). What the probability means depends on the decoding:

- ``pointwise`` and ``inline``: the listing is relevant, by itself: its grade is at least the one that counts as
  relevant.
- ``first-token``: the listing should come first: its grade is the window's best. If several share that grade, any of
  them may come first, so the probabilities of a window add up to 1.

``listwise`` gives places, not probabilities. ``python -m eval.calibrate`` fits a calibration (in a clone),
`save_calibration` writes it and `load_calibration` reads it. It is stored by decoding, in the object ``calibration`` of
a JSON file: by default ``genrank.json`` in an adapter's folder (`genrank.adapters`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genrank.adapters import check_fit, load_fit, save_fit, stored_fit
from genrank.errors import ConfigError, InputError

_DECODINGS = ("pointwise", "inline", "first-token")
_KEY = "calibration"
# for every bias in this range, math.exp is finite and greater than 0
_RANGES = {"temperature": (1e-6, 1e6), "bias": (-500.0, 500.0)}
_TOP = 1 - 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """How scores become probabilities.

    Attributes:
        decoding: Whose scores: ``pointwise``, ``inline`` or ``first-token``.
        temperature: 1e-6 to 1e6; above 1 for an overconfident model, below 1 for an underconfident one.
        bias: Added to the log-odds, -500 to 500; not for ``first-token``. Above 0 for a model that says no too often.
        fitted_on: The judged queries, in words.
        model: The model whose scores were fitted, as its engine names it; empty for any model.
        prompt_hash: Hash of the prompt template used in fitting (`Provenance.prompt_hash`); empty for any template.

    Raises:
        ConfigError: When a value is wrong.
    """

    decoding: Literal["pointwise", "inline", "first-token"]
    temperature: float
    bias: float = 0.0
    fitted_on: str = ""
    model: str = ""
    prompt_hash: str = ""

    def __post_init__(self) -> None:
        if self.decoding not in _DECODINGS:
            raise ConfigError(f"calibration.decoding: must be pointwise, inline or first-token, got {self.decoding!r}")
        for name, (low, high) in _RANGES.items():
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not low <= number <= high:
                raise ConfigError(f"calibration.{name}: must be a number within {low:g}..{high:g}, got {number!r}")
        if self.bias and self.decoding == "first-token":
            raise ConfigError("calibration.bias: must be 0 for first-token, where it would change nothing")
        for name in ("fitted_on", "model", "prompt_hash"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"calibration.{name}: must be a text, got {getattr(self, name)!r}")

    def apply(self, scores: Sequence[float]) -> list[float]:
        """The probabilities of one window.

        ``pointwise`` and ``inline``: ``sigmoid(logit(score) / temperature + bias)`` of each. ``first-token``:
        ``score ** (1 / temperature)`` of each, divided by their sum. The order stays: a higher score gets a higher
        probability, if only by the smallest step of a float, and equal scores stay equal.

        Args:
            scores: ``[n]`` scores of one window, 0 to 1, from the decoding.

        Returns:
            ``[n]`` probabilities, 0 to 1.

        Raises:
            InputError: When a score is not 0 to 1.
        """
        for i, score in enumerate(scores):
            if not 0 <= score <= 1:
                raise InputError(f"must be 0 to 1, got {score}", field=f"scores[{i}]")
        if self.decoding == "first-token":
            return _in_order_of(scores, self._soften(scores))
        odds = math.exp(self.bias)
        pairs = [self._soften((score, 1 - score)) for score in scores]
        return _in_order_of(scores, [yes * odds / (yes * odds + no) for yes, no in pairs])

    def _soften(self, chances: Sequence[float]) -> list[float]:
        """Chances at the temperature; they add up to 1."""
        top = max(chances, default=0.0) or 1.0  # so that the greatest weight is 1, and never all round to 0
        weights = [(chance / top) ** (1 / self.temperature) for chance in chances]
        total = sum(weights)
        return [weight / total if total else 1 / len(weights) for weight in weights]

    def check(self, *, decoding: str, prompt_hash: str, model: str) -> None:
        """Check that the calibration is used for the decoding, the prompt and the model it was fitted on.

        Raises:
            ConfigError: When one of them differs.
        """
        check_fit(_KEY, self, decoding=decoding, prompt_hash=prompt_hash, model=model)


def load_calibration(path: str | Path, decoding: str) -> Calibration:
    """Read the calibration of a decoding.

    Args:
        path: A JSON file with an object ``calibration``, or a folder (an adapter's) whose ``genrank.json`` is one.
        decoding: ``pointwise``, ``inline`` or ``first-token``.

    Raises:
        ConfigError: When the file is missing or not JSON, holds no calibration for the decoding, or a key is missing,
            unknown or wrong.
    """
    return load_fit(_KEY, Calibration, path, decoding)


def stored_calibration(adapter: str | Path, *, decoding: str, prompt_hash: str, model: str) -> Calibration | None:
    """The calibration in an adapter's folder for exactly this use; None if there is none.

    Raises:
        ConfigError: When its ``genrank.json`` is not JSON, or a key of the calibration is wrong.
    """
    return stored_fit(_KEY, Calibration, adapter, decoding=decoding, prompt_hash=prompt_hash, model=model)


def save_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write a calibration; other decodings' calibrations and other keys of an existing file stay.

    Args:
        calibration: The calibration.
        path: A file whose name ends in ``.json``, or a folder (an adapter's) for a ``genrank.json``; created if
            needed.

    Returns:
        The file.

    Raises:
        ConfigError: When the file exists and does not hold a JSON object.
        OSError: When it cannot be written.
    """
    return save_fit(_KEY, calibration, path)


def _in_order_of(scores: Sequence[float], chances: Sequence[float]) -> list[float]:
    """Chances that rise wherever the scores rise, if only a little: rounding must not make them equal."""
    kept = list(chances)
    last, floor = -1.0, 0.0
    for i in sorted(range(len(scores)), key=scores.__getitem__):
        if scores[i] > last >= 0:
            floor = math.nextafter(floor, 1.0)
        floor = max(floor, min(chances[i], _TOP))
        kept[i], last = floor, scores[i]
    return kept
