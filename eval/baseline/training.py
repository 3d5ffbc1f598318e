"""Training the GBDT (LightGBM) of BERT + GBDT, which `genrank.rankers.gbdt` serves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.baseline.config import BaselineConfig
from genrank.data.dataset import Dataset, DatasetQuery
from genrank.errors import ConfigError, MissingExtraError
from genrank.experiment.fingerprints import requests_fingerprint
from genrank.experiment.metrics import ndcg, relevant_grade
from genrank.experiment.record import commit, versions
from genrank.experiment.splits import with_dev
from genrank.files import fingerprint
from genrank.rankers.features import (
    ENCODED,
    NAMES,
    Featuriser,
    Floats,
    NoEncoder,
    Own,
    fit,
    own_judgements,
)
from genrank.search.dense import Encoder, TextEncoder
from genrank.types import Request

if TYPE_CHECKING:
    import lightgbm

from genrank.rankers.gbdt import ClickCurve, GbdtRanker, columns, import_lightgbm, predict, split_scores


@dataclass(frozen=True)
class Table:
    """Candidates of some queries with their features, ready to train on or to measure.

    Attributes:
        requests: ``[b]``.
        values: ``[candidates, len(NAMES)]``.
        gains: ``[candidates]`` gains of the judged grades; 0 for unjudged candidates.
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


def tables(
    dataset: Dataset, config: BaselineConfig, encoder: TextEncoder
) -> tuple[Featuriser, dict[str, Table], dict[str, int]]:
    """Fit the statistics and make the tables of the splits train and dev, without reading test queries.

    Args:
        dataset: A dataset with a dev split (see `with_dev`).
        config: Gives relevant, max_candidates and train_candidates.
        encoder: Computes the vectors.

    Returns:
        The featuriser, the tables by split, and how many queries of each split were left out because they have no
        candidates.

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
        max_candidates: Candidates of each query, the first stage's best; None takes all.
        own: Given for queries that the statistics were fitted on.
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


def train_boosters(train: Table, dev: Table, config: BaselineConfig) -> list[lightgbm.Booster]:
    """Train the models of one configuration; repeated on the same machine, it gives the same models.

    Raises:
        ConfigError: When no query has candidates of different gain, a gain is negative, or LightGBM refuses a setting.
        MissingExtraError: When LightGBM is not installed.
    """
    lgb = import_lightgbm()
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
    # LightGBM's labels are whole numbers, each mapped to a gain
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
        # only the trees up to the best round predict, so only these are kept
        text = booster.model_to_string(num_iteration=max(booster.best_iteration, 1))
        boosters.append(lgb.Booster(model_str=text))
    return boosters


def train(dataset: Dataset, config: BaselineConfig, encoder: TextEncoder | None = None) -> GbdtRanker:
    """Train on the split train and stop by the split dev, without reading test queries.

    A dataset without a dev split gives a share of its training queries for it (`with_dev`). Training candidates are
    those that the ranker will see: the first stage's, or all judged listings where there is no first stage.

    Args:
        dataset: The training data.
        config: How to train.
        encoder: The BERT encoder; None loads the configuration's.

    Raises:
        ConfigError: When the dataset has nothing to learn from, or a setting does not fit it.
        InputError: When the dataset has no query of the split train.
        ModelError: When the encoder cannot be loaded.
        MissingExtraError: When a package is missing.
    """
    divided = with_dev(dataset, config.dev_share, config.seed)
    featuriser, made, left_out = tables(divided, config, encoder or encoder_of(config))
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
    return GbdtRanker(config.model_dump(mode="json"), featuriser, boosters, calibration, record)


def encoder_of(config: BaselineConfig) -> TextEncoder:
    """The configuration's encoder; none where its groups of features need none, so that torch is not loaded."""
    return Encoder(config.encoder) if ENCODED & set(config.groups) else NoEncoder()


def calibrate(scores: Floats, clicks: Floats, kind: str) -> ClickCurve:
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
        return ClickCurve(scores=corners[0], chances=corners[1])
    fitted = LogisticRegression(C=1e6).fit(scores[:, None], clicks)
    # a falling curve would reverse the order: the scores are worthless, and the share of clicks is the best estimate
    if fitted.coef_[0, 0] < 0:
        return ClickCurve(slope=0.0, offset=math.log(clicks.mean() / (1 - clicks.mean())))
    return ClickCurve(slope=float(fitted.coef_[0, 0]), offset=float(fitted.intercept_[0]))


def importance(boosters: Sequence[lightgbm.Booster]) -> dict[str, float]:
    """Share of each feature in the models' gain, biggest first; sums to 1, or to 0 if no tree has a split."""
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
