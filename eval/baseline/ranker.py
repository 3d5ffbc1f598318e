"""The GBDT (LightGBM) on top of the features: training, ranking, and its folder.

The folder holds ``baseline.json`` (settings, figures on dev, where it came from, a hash of every other file),
``statistics.json.gz`` and LightGBM's text models, ``model-0.txt`` and so on. Nothing in it is code.
"""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic

from eval.baseline.config import BaselineConfig, with_dev
from eval.baseline.encoder import Encoder, TextEncoder
from eval.baseline.features import (
    FEATURES,
    NAMES,
    Featuriser,
    Floats,
    Group,
    Own,
    Statistics,
    fit,
    listing_texts,
    own_judgements,
)
from eval.cache import files_fingerprint, fingerprint, requests_fingerprint
from eval.metrics import ndcg, relevant_grade
from eval.record import commit, versions
from genrank.dataset import Dataset, DatasetQuery
from genrank.errors import ChecksumError, ConfigError, InputError, MissingExtraError, ModelError, ModelNotFoundError
from genrank.types import Request

if TYPE_CHECKING:
    import lightgbm

FORMAT = 1
MANIFEST = "baseline.json"
_STATISTICS = "statistics.json.gz"


@dataclass(frozen=True)
class Table:
    """Candidates of some queries with their features, ready to train on or to measure.

    Attributes:
        requests: ``[b]``.
        values: ``[candidates, len(NAMES)]``.
        gains: ``[candidates]``, of the judged grades; 0 where nobody judged.
        clicks: ``[candidates]``, 1.0 where the grade is relevant, else 0.0.
    """

    requests: Sequence[Request]
    values: Floats
    gains: Floats
    clicks: Floats

    @property
    def sizes(self) -> list[int]:
        """Number of candidates of each query, ``[b]``."""
        return [len(request.candidates) for request in self.requests]


@dataclass(frozen=True)
class Calibration:
    """A curve from scores to probabilities: Platt's ``1 / (1 + exp(-(slope * s + offset)))``, or a rising step curve.

    Attributes:
        slope: Of Platt's curve, 0 or more.
        offset: Of Platt's curve.
        scores: Places of the isotonic curve's corners, rising; empty for Platt's.
        chances: Its heights there; straight lines lie between.
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


def tables(
    dataset: Dataset, config: BaselineConfig, encoder: TextEncoder
) -> tuple[Featuriser, dict[str, Table], dict[str, int]]:
    """Fit the statistics and make the tables of the splits train and dev. Test queries are not looked at.

    Args:
        dataset: With a dev split (`with_dev`).
        config: Gives relevant, max_candidates and train_candidates.
        encoder: For the vectors.

    Returns:
        The featuriser, the tables by split, and how many queries were left out by split, since they have no candidate.

    Raises:
        ConfigError: When a split has no query left.
        GenrankError: Whatever the encoder raises.
    """
    relevant = relevant_of(dataset, config)
    queries = {split: [q for q in dataset.split(split) if has_candidates(dataset, q)] for split in ("train", "dev")}
    for split, found in queries.items():
        if not found:
            raise ConfigError(f"dataset: no {split} query of {dataset.name} has candidates or judgements")
    own = [own_judgements(dataset, query, relevant) for query in queries["train"]]
    featuriser = Featuriser(encoder, fit(dataset.listings.values(), zip(queries["train"], own, strict=True)))
    made = {
        "train": table(dataset, queries["train"], featuriser, relevant, config.train_candidates, own),
        "dev": table(dataset, queries["dev"], featuriser, relevant, config.max_candidates),
    }
    return featuriser, made, {split: len(dataset.split(split)) - len(queries[split]) for split in made}


def table(
    dataset: Dataset,
    queries: Sequence[DatasetQuery],
    featuriser: Featuriser,
    relevant: int,
    max_candidates: int | None,
    own: Sequence[Own] | None = None,
) -> Table:
    """The table of some queries.

    Args:
        dataset: Gives candidates and judgements.
        queries: Each with candidates.
        featuriser: Makes the features.
        relevant: Lowest grade that is a click.
        max_candidates: So many of each query, the first stage's best; None takes all.
        own: For the queries that the statistics were fitted on.
    """
    requests = [dataset.request(query, max_candidates) for query in queries]
    gains, clicks = [], []
    for request in requests:
        judged = dataset.qrels.get(request.query.query_id, {})
        for candidate in request.candidates:
            grade = judged.get(candidate.listing.listing_id)
            gains.append(0.0 if grade is None else dataset.grades[grade].gain)
            clicks.append(float(grade is not None and grade >= relevant))
    return Table(requests, featuriser.matrix(requests, own), np.array(gains), np.array(clicks))


def relevant_of(dataset: Dataset, config: BaselineConfig) -> int:
    """The configuration's lowest relevant grade, or the upper half of the dataset's grades.

    Raises:
        ConfigError: When the dataset has no such grade.
    """
    if config.relevant is None:
        return relevant_grade(dataset.grades)
    if config.relevant not in dataset.grades:
        raise ConfigError(f"relevant: no grade {config.relevant}; the grades are {sorted(dataset.grades)}")
    return config.relevant


def has_candidates(dataset: Dataset, query: DatasetQuery) -> bool:
    """Whether `Dataset.request` can make a request of a query."""
    query_id = query.query.query_id
    return bool(dataset.candidates.get(query_id) or dataset.qrels.get(query_id))


def columns(groups: Sequence[Group]) -> list[int]:
    """Places of some groups' features in a matrix."""
    names = {name for group in groups for name in FEATURES[group]}
    return [i for i, name in enumerate(NAMES) if name in names]


def train_boosters(train: Table, dev: Table, config: BaselineConfig) -> list[lightgbm.Booster]:
    """Train the models of one configuration; on the same machine the same each time.

    Raises:
        ConfigError: When there is no order to learn, a gain is negative, or LightGBM refuses a setting.
        MissingExtraError: When LightGBM is not installed.
    """
    lgb = _lightgbm()
    used = columns(config.groups)
    if (least := min(train.gains.min(), dev.gains.min())) < 0:
        raise ConfigError(f"dataset: a gain must not be negative, got {least}")
    ranking = config.objective == "lambdarank"
    if not (_ordered(train) if ranking else 0 < train.clicks.mean() < 1):
        raise ConfigError(
            "dataset: no training query has candidates of different gain; there is no order to learn"
            if ranking
            else "dataset: the training candidates are all clicks or all none; there is nothing to learn"
        )
    # LightGBM's labels are whole numbers that name a gain
    levels = sorted({0.0, *train.gains, *dev.gains})
    shared: dict[str, Any] = {
        "objective": config.objective,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.leaf_candidates,
        "lambda_l2": config.l2,
        "feature_fraction": config.features_share,
        "bagging_fraction": config.rows_share,
        "bagging_freq": int(config.rows_share < 1),
        "num_threads": config.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if ranking:
        shared |= {"metric": "ndcg", "eval_at": [config.k], "label_gain": levels, "bagging_by_query": True}
        shared["lambdarank_truncation_level"] = config.truncation
    else:
        shared["metric"] = "binary_logloss"
    boosters = []
    for bag in range(config.bags):
        sets: list[lightgbm.Dataset] = []
        for one in (train, dev):
            label = np.searchsorted(levels, one.gains) if ranking else one.clicks
            sets.append(
                lgb.Dataset(
                    one.values[:, used],
                    label=label,
                    group=one.sizes if ranking else None,
                    feature_name=[NAMES[i] for i in used],
                    reference=sets[0] if sets else None,
                    params={"verbosity": -1, "num_threads": config.threads},
                )
            )
        try:
            booster = lgb.train(
                shared | {"seed": config.seed + bag},
                sets[0],
                num_boost_round=config.rounds,
                valid_sets=[sets[1]],
                callbacks=[lgb.early_stopping(config.patience, verbose=False)],
            )
        except lgb.basic.LightGBMError as error:
            raise ConfigError(f"LightGBM: {error}") from None
        # what is kept is what predicts: only the trees up to the best round
        text = booster.model_to_string(num_iteration=max(booster.best_iteration, 1))
        boosters.append(lgb.Booster(model_str=text))
    return boosters


def predict(boosters: Sequence[lightgbm.Booster], values: Floats, threads: int) -> Floats:
    """Mean of the models' raw scores, ``[candidates]``."""
    if not len(values):
        return np.zeros(0)
    scores = [booster.predict(values, raw_score=True, num_threads=threads) for booster in boosters]
    return np.asarray(np.mean(np.stack([np.asarray(one) for one in scores]), axis=0), dtype=np.float64)


class Baseline:
    """A trained BERT + GBDT ranker."""

    def __init__(
        self,
        config: BaselineConfig,
        featuriser: Featuriser,
        boosters: Sequence[lightgbm.Booster],
        calibration: Calibration | None,
        record: dict[str, Any],
    ) -> None:
        """Put a ranker together; `train` and `load` make one.

        Args:
            config: How it was trained.
            featuriser: Makes its features.
            boosters: Its models.
            calibration: From scores to probabilities; None for ``lambdarank``.
            record: What is known of the training, for the folder.
        """
        self.config = config
        self.record = record
        self._featuriser = featuriser
        self._boosters = list(boosters)
        self._calibration = calibration

    @property
    def objective(self) -> str:
        """``lambdarank`` or ``binary``."""
        return self.config.objective

    @classmethod
    def train(cls, dataset: Dataset, config: BaselineConfig, encoder: TextEncoder | None = None) -> Baseline:
        """Train on the split train, stop on the split dev; no test query is looked at.

        A dataset without a dev split gives a share of its training queries for it (`with_dev`). Training candidates are
        those that the ranker will see: the first stage's, or all judged listings where there is no first stage.

        Args:
            dataset: What to learn from.
            config: How.
            encoder: None takes the configuration's.

        Raises:
            ConfigError: When the dataset has nothing to learn from, or a setting does not fit it.
            InputError: When the dataset has no query of the split train.
            ModelError: When the encoder cannot be had.
            MissingExtraError: When a package is missing.
        """
        divided = with_dev(dataset, config.dev_share, config.seed)
        featuriser, made, left_out = tables(divided, config, encoder or Encoder(config.encoder))
        train, dev = made["train"], made["dev"]
        boosters = train_boosters(train, dev, config)
        scores = predict(boosters, dev.values[:, columns(config.groups)], config.threads)
        calibration = None
        figures = {f"nDCG@{config.k}": ndcg(divided, dev.requests, split_scores(dev.requests, scores), config.k)}
        if config.objective == "binary":
            calibration = calibrate(scores, dev.clicks, config.calibration)
            figures["log_loss"] = _log_loss(calibration(scores), dev.clicks)
        record = {
            "dataset": {"name": dataset.name, "source": dataset.source, "first_stage": dataset.first_stage},
            "data_fingerprint": data_fingerprint(dataset, made),
            "dev_from_train": divided is not dataset,
            "queries": {split: len(one.requests) for split, one in made.items()},
            "queries_without_candidates": left_out,
            "candidates": {split: len(one.gains) for split, one in made.items()},
            "trees": [booster.num_trees() for booster in boosters],
            "dev": figures,
            "importance": importance(boosters),
            "commit": commit(),
            "versions": versions(),
        }
        return cls(config, featuriser, boosters, calibration, record)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Encode what is known of listings before a query comes, and load the encoder, so that `score` need not.

        Raises:
            GenrankError: Whatever the encoder raises.
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
        values = self._featuriser.matrix(requests)[:, columns(self.config.groups)]
        return split_scores(requests, predict(self._boosters, values, self.config.threads))

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
                f"only a ranker trained with objective: binary knows probabilities, this one has {self.objective}",
                field="objective",
            )
        scores = self.score(requests)
        return [[float(chance) for chance in self._calibration(np.array(row))] for row in scores]

    def save(self, folder: str | Path) -> None:
        """Write the folder; what is there appears complete or not at all.

        Raises:
            ConfigError: When the folder holds something else than a baseline.
            OSError: When it cannot be written.
        """
        target = Path(folder)
        if target.exists() and not (target / MANIFEST).is_file() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} holds something else than a baseline; name another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            staging = Path(work) / "new"
            staging.mkdir()
            for i, booster in enumerate(self._boosters):
                (staging / f"model-{i}.txt").write_text(booster.model_to_string(), encoding="utf-8")
            statistics = json.dumps(self._featuriser.statistics.to_dict(), ensure_ascii=True).encode()
            (staging / _STATISTICS).write_bytes(gzip.compress(statistics, mtime=0))
            manifest = {
                "format": FORMAT,
                "config": self.config.model_dump(mode="json"),
                "encoder": {"name": self._featuriser.encoder.name, "fingerprint": self._featuriser.encoder.fingerprint},
                "features": [NAMES[i] for i in columns(self.config.groups)],
                "calibration": None if self._calibration is None else vars(self._calibration),
                "record": self.record,
                "files": {path.name: files_fingerprint(path) for path in sorted(staging.iterdir())},
            }
            (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            if target.exists():
                target.replace(Path(work) / "old")
            staging.replace(target)

    @classmethod
    def load(cls, folder: str | Path, encoder: TextEncoder | None = None) -> Baseline:
        """Read a folder that `save` wrote.

        Args:
            folder: Where.
            encoder: None takes the one that is named there.

        Raises:
            ModelNotFoundError: When the folder is not there or holds no baseline.
            ChecksumError: When a file is missing or differs from what was saved.
            ModelError: When it was made by another version, or with another encoder.
            MissingExtraError: When LightGBM is not installed.
        """
        root = Path(folder)
        manifest = _read_manifest(root)
        lgb = _lightgbm()
        try:
            config = BaselineConfig.model_validate(manifest["config"])
            if manifest["features"] != [NAMES[i] for i in columns(config.groups)]:
                raise ModelError(f"{root} was made by another version of genrank, with other features; train it again")
            names = [f"model-{i}.txt" for i in range(config.bags)]
            if missing := {_STATISTICS, *names} - manifest["files"].keys():
                raise ModelError(f"{root / MANIFEST} is damaged: it names no {min(missing)}; train it again")
            statistics = Statistics.from_dict(json.loads(gzip.decompress((root / _STATISTICS).read_bytes())))
            curve = manifest["calibration"]
            calibration = None
            if curve is not None:
                calibration = Calibration(
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
            raise ModelError(f"{root / MANIFEST} is damaged ({type(e).__name__}: {e}); train it again") from None
        encoder = encoder or Encoder(name)
        if encoder.fingerprint != fingerprint:
            raise ModelError(
                f"{root} was trained with another version of the encoder {name} ({fingerprint}, here "
                f"{encoder.name} is {encoder.fingerprint}); train it again"
            )
        return cls(config, Featuriser(encoder, statistics), boosters, calibration, record)


def split_scores(requests: Sequence[Request], scores: Floats) -> list[list[float]]:
    """Scores of all candidates, dealt out to their requests."""
    ends = np.cumsum([len(request.candidates) for request in requests])[:-1]
    return [[float(score) for score in part] for part in np.split(scores, ends)] if requests else []


def calibrate(scores: Floats, clicks: Floats, kind: str) -> Calibration:
    """Fit a curve from scores to probabilities.

    Args:
        scores: ``[n]``.
        clicks: ``[n]``, 1.0 or 0.0.
        kind: ``platt`` or ``isotonic``.

    Raises:
        ConfigError: When there are no clicks, or nothing but clicks.
        MissingExtraError: When scikit-learn is not installed.
    """
    if not 0 < clicks.mean() < 1:
        raise ConfigError("dataset: the dev candidates are all clicks or all none; probabilities cannot be calibrated")
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    if kind == "isotonic":
        curve = IsotonicRegression(out_of_bounds="clip").fit(scores, clicks)
        corners = tuple(map(float, curve.X_thresholds_)), tuple(map(float, curve.y_thresholds_))
        return Calibration(scores=corners[0], chances=corners[1])
    fitted = LogisticRegression(C=1e6).fit(scores[:, None], clicks)
    # a falling curve would turn the order over: then the scores know nothing, and the share of clicks is all there is
    if fitted.coef_[0, 0] < 0:
        return Calibration(slope=0.0, offset=math.log(clicks.mean() / (1 - clicks.mean())))
    return Calibration(slope=float(fitted.coef_[0, 0]), offset=float(fitted.intercept_[0]))


def importance(boosters: Sequence[lightgbm.Booster]) -> dict[str, float]:
    """Share of each feature in the models' gain, biggest first; sums to 1, or to 0 where no tree has a split."""
    gains = np.mean([booster.feature_importance("gain") for booster in boosters], axis=0)
    shares = gains / max(gains.sum(), 1e-12)
    found = {name: float(share) for name, share in zip(boosters[0].feature_name(), shares, strict=True)}
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def data_fingerprint(dataset: Dataset, made: dict[str, Table]) -> str:
    """First 16 hex digits of the SHA-256 of the catalogue and the queries of train and dev."""
    listings = [listing.to_dict() for listing in dataset.listings.values()]
    splits = {split: [requests_fingerprint(one.requests), one.gains.tolist()] for split, one in made.items()}
    return fingerprint([listings, splits])[:16]


def _ordered(one: Table) -> bool:
    """Whether some query has candidates of different gain."""
    parts = np.split(one.gains, np.cumsum(one.sizes)[:-1])
    return any(len(part) and part.min() < part.max() for part in parts)


def _log_loss(chances: Floats, clicks: Floats) -> float:
    """``-mean(y * ln p + (1 - y) * ln(1 - p))``, p kept within 1e-6 of 0 and 1."""
    try:
        from sklearn.metrics import log_loss
    except ImportError:
        raise MissingExtraError("scikit-learn", "eval") from None
    return float(log_loss(clicks, np.clip(chances, 1e-6, 1 - 1e-6), labels=[0, 1]))


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError:
        raise MissingExtraError("lightgbm", "baseline") from None
    return lightgbm


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise ModelNotFoundError(f"{root} holds no baseline; make one with python -m eval.baseline train")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        known, files = manifest["format"], manifest["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged ({type(error).__name__}: {error}); train it again") from None
    if known != FORMAT:
        raise ModelError(f"{path} has format {known!r}, this version reads {FORMAT}; train it again")
    for name, expected in files:
        file = root / Path(str(name)).name
        if not file.is_file() or files_fingerprint(file) != expected:
            raise ChecksumError(f"{file} is missing or was changed; train the baseline again")
    return dict(manifest)
