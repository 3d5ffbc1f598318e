"""Serves BERT + GBDT: a trained LightGBM ranker over the features in `genrank.rankers.features`.

Its folder holds ``baseline.json`` (settings, figures on dev, how it was trained, a hash of every other file),
``statistics.json.gz`` and LightGBM's text models, ``model-0.txt`` and so on. It holds no code. Train one in a clone of
genrank: ``python -m eval.baseline train``.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydantic

from genrank.errors import ChecksumError, ConfigError, InputError, MissingExtraError, ModelError, ModelNotFoundError
from genrank.fallback import Fallback
from genrank.files import files_fingerprint, read_text, write_folder_atomically
from genrank.rankers.features import (
    FEATURES,
    NAMES,
    Featuriser,
    Floats,
    Group,
    NoEncoder,
    Statistics,
    listing_texts,
)
from genrank.search.dense import Encoder, TextEncoder
from genrank.types import Candidate, Listing, Query, Request

if TYPE_CHECKING:
    import lightgbm


FORMAT = 1
MANIFEST = "baseline.json"
_STATISTICS = "statistics.json.gz"


@dataclass(frozen=True)
class ClickCurve:
    """A curve from scores to probabilities: Platt's ``1 / (1 + exp(-(slope * s + offset)))``, or a rising step curve.

    Attributes:
        slope: Slope of Platt's curve, 0 or more.
        offset: Offset of Platt's curve.
        scores: Scores at the isotonic curve's corners, rising; empty for Platt's curve.
        chances: Probabilities at the corners, with straight lines between them.
    """

    slope: float = 1.0
    offset: float = 0.0
    scores: tuple[float, ...] = ()
    chances: tuple[float, ...] = ()

    def __call__(self, scores: Floats) -> Floats:
        """Probabilities, 0 to 1, of scores, both ``[n]``."""
        if self.scores:
            return np.interp(scores, self.scores, self.chances)
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (self.slope * scores + self.offset))), dtype=np.float64)


def columns(groups: Sequence[Group]) -> list[int]:
    """Column numbers of some groups' features, 0-based."""
    names = {name for group in groups for name in FEATURES[group]}
    return [i for i, name in enumerate(NAMES) if name in names]


def predict(boosters: Sequence[lightgbm.Booster], values: Floats, threads: int) -> Floats:
    """Mean of the models' raw scores, ``[candidates]``."""
    if not len(values):
        return np.zeros(0)
    scores = [booster.predict(values, raw_score=True, num_threads=threads) for booster in boosters]
    return np.asarray(np.mean(np.stack([np.asarray(one) for one in scores]), axis=0), dtype=np.float64)


class GbdtSettings(pydantic.BaseModel, frozen=True, extra="ignore"):
    """The part of a ranker's training configuration that serving needs.

    Attributes:
        objective: ``lambdarank`` only orders; ``binary`` also gives the probability of a click.
        groups: The groups of features that are used.
        bags: Models whose scores are averaged.
        threads: Threads of LightGBM.
    """

    objective: Literal["lambdarank", "binary"]
    groups: tuple[Group, ...]
    bags: int
    threads: int


class GbdtRanker:
    """A trained BERT + GBDT ranker: a first stage, or `genrank.Reranker`'s fallback (`load_fallback`)."""

    def __init__(
        self,
        config: Mapping[str, Any],
        featuriser: Featuriser,
        boosters: Sequence[lightgbm.Booster],
        calibration: ClickCurve | None,
        record: dict[str, Any],
    ) -> None:
        """Assemble a ranker; `load` reads one from a folder.

        Args:
            config: How it was trained, as JSON types; must hold the fields of `GbdtSettings`.
            featuriser: Computes its features.
            boosters: Its LightGBM models.
            calibration: From scores to probabilities; None for ``lambdarank``.
            record: Facts about the training; stored in the folder.
        """
        self.config: dict[str, Any] = dict(config)
        self.settings: GbdtSettings = GbdtSettings.model_validate(self.config)
        self.record = record
        self._featuriser = featuriser
        self._boosters = list(boosters)
        self._calibration = calibration

    @property
    def objective(self) -> str:
        """``lambdarank`` or ``binary``."""
        return self.settings.objective

    def prepare(self, requests: Sequence[Request]) -> None:
        """Load the encoder and encode the listings before a query arrives, so that `score` is faster.

        Raises:
            GenrankError: Any error of the encoder.
        """
        self._featuriser.encoder.encode(listing_texts(requests))
        self._featuriser.encoder.encode([request.query.text for request in requests[:1]], queries=True)

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """Score candidates.

        Args:
            requests: ``[b]``.

        Returns:
            One finite score a candidate, in each request's order; higher is better.

        Raises:
            GenrankError: Whatever the encoder raises.
        """
        values = self._featuriser.matrix(requests)[:, columns(self.settings.groups)]
        return split_scores(requests, predict(self._boosters, values, self.settings.threads))

    def probabilities(self, requests: Sequence[Request]) -> list[list[float]]:
        """Calibrated probabilities of a click.

        Args:
            requests: ``[b]``.

        Returns:
            One probability a candidate, 0 to 1, in each request's order.

        Raises:
            InputError: When the objective is not ``binary``.
            GenrankError: Whatever the encoder raises.
        """
        if self._calibration is None:
            raise InputError(
                f"only a ranker trained with objective: binary gives probabilities; this one has {self.objective}",
                field="objective",
            )
        scores = self.score(requests)
        return [[float(chance) for chance in self._calibration(np.array(row))] for row in scores]

    def save(self, folder: str | Path) -> None:
        """Write the folder, completely or not at all.

        Raises:
            ConfigError: When the folder holds something other than a baseline.
            OSError: When it cannot be written.
        """
        target = Path(folder)
        if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} holds something other than a BERT + GBDT ranker; name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_folder_atomically(target) as staging:
            for i, booster in enumerate(self._boosters):
                (staging / f"model-{i}.txt").write_text(booster.model_to_string(), encoding="utf-8")
            statistics = json.dumps(self._featuriser.statistics.to_dict(), ensure_ascii=True).encode()
            (staging / _STATISTICS).write_bytes(gzip.compress(statistics, mtime=0))
            manifest = {
                "format": FORMAT,
                "config": self.config,
                "encoder": {"name": self._featuriser.encoder.name, "fingerprint": self._featuriser.encoder.fingerprint},
                "features": [NAMES[i] for i in columns(self.settings.groups)],
                "calibration": None if self._calibration is None else vars(self._calibration),
                "record": self.record,
                "files": {path.name: files_fingerprint(path) for path in sorted(staging.iterdir())},
            }
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, encoder: TextEncoder | None = None) -> GbdtRanker:
        """Read a folder that `save` wrote.

        Args:
            folder: The folder.
            encoder: The encoder; None takes the one named in the folder.

        Raises:
            ModelNotFoundError: When the folder does not exist or holds no baseline.
            ChecksumError: When a file is missing or was changed.
            ModelError: When it was saved by another version, or with another encoder.
            MissingExtraError: When LightGBM is not installed.
        """
        root = Path(folder).expanduser()
        manifest = _read_manifest(root)
        lgb = import_lightgbm()
        try:
            config = dict(manifest["config"])
            settings = GbdtSettings.model_validate(config)
            if manifest["features"] != [NAMES[i] for i in columns(settings.groups)]:
                raise ModelError(f"{root} was made by another version of genrank, with other features; train it again")
            names = [f"model-{i}.txt" for i in range(settings.bags)]
            if missing := {_STATISTICS, *names} - manifest["files"].keys():
                raise ModelError(f"{root / MANIFEST} is damaged: it names no {min(missing)}; train it again")
            statistics = Statistics.from_dict(json.loads(gzip.decompress((root / _STATISTICS).read_bytes())))
            curve = manifest["calibration"]
            calibration = None
            if curve is not None:
                calibration = ClickCurve(
                    curve["slope"], curve["offset"], tuple(curve["scores"]), tuple(curve["chances"])
                )
            boosters = [lgb.Booster(model_str=(root / name).read_text(encoding="utf-8")) for name in names]
            name, fingerprint = str(manifest["encoder"]["name"]), manifest["encoder"]["fingerprint"]
            record = dict(manifest["record"])
        except (
            KeyError,
            TypeError,
            ValueError,
            OSError,
            EOFError,
            pydantic.ValidationError,
            lgb.basic.LightGBMError,
        ) as e:
            why = " ".join(str(e).split())[:200]
            raise ModelError(f"{root / MANIFEST} is damaged ({type(e).__name__}: {why}); train it again") from None
        encoder = encoder or (NoEncoder() if name == NoEncoder.name else Encoder(name))
        if encoder.fingerprint != fingerprint:
            raise ModelError(
                f"{root} was trained with another version of the encoder {name} ({fingerprint}, here "
                f"{encoder.name} is {encoder.fingerprint}); train it again"
            )
        return cls(config, Featuriser(encoder, statistics), boosters, calibration, record)


def check_folder(folder: str | Path) -> None:
    """Check that `load_fallback` has its files and packages, without loading anything.

    Args:
        folder: See `GbdtRanker.load`.

    Raises:
        MissingExtraError: When LightGBM or sentence-transformers is not installed.
        ModelNotFoundError: When the folder does not exist or holds no baseline.
        ChecksumError: When a file is missing or was changed.
        ModelError: When it was saved by another version.
    """
    for package in ("lightgbm", "sentence-transformers"):
        if find_spec(package.replace("-", "_")) is None:
            raise MissingExtraError(package, "rankers")
    _read_manifest(Path(folder).expanduser())


def load_fallback(folder: str | Path, encoder: TextEncoder | None = None) -> Fallback:
    """A trained ranker as `genrank.Reranker`'s fallback; it has scored once, so that its first call is not slow.

    Args:
        folder: See `GbdtRanker.load`, as for `encoder` and the errors.
        encoder: The encoder; None takes the one named in the folder.

    Raises:
        GenrankError: Any error of `GbdtRanker.load` or of the encoder.
    """
    ranker = GbdtRanker.load(folder, encoder)
    listing = Listing("warm-up", "warm-up", reviews=("warm-up",))
    ranker.score([Request(Query("warm-up"), (Candidate(listing),))])
    return ranker.score


def split_scores(requests: Sequence[Request], scores: Floats) -> list[list[float]]:
    """Scores of all candidates, split by request."""
    ends = np.cumsum([len(request.candidates) for request in requests])[:-1]
    return [[float(score) for score in part] for part in np.split(scores, ends)] if requests else []


def import_lightgbm() -> Any:
    """The package; where it is missing, an error that says how to install it."""
    try:
        import lightgbm
    except ImportError:
        raise MissingExtraError("lightgbm", "rankers") from None
    return lightgbm


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise ModelNotFoundError(
            f"{root} holds no BERT + GBDT ranker; train one with python -m eval.baseline train in a clone of genrank"
        )
    try:
        manifest = json.loads(read_text(path))
        known, files = manifest["format"], manifest["files"].items()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({type(error).__name__}: {error}); train it again") from None
    if known != FORMAT:
        raise ModelError(f"{path} has format {known!r}, this version reads {FORMAT}; train it again")
    for name, expected in files:
        file = root / Path(str(name)).name
        if not file.is_file() or files_fingerprint(file) != expected:
            raise ChecksumError(f"{file} is missing or was changed; train the baseline again")
    return dict(manifest)
