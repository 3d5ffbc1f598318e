"""Settings of BERT + GBDT's training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from genrank.experiment.config import Strict
from genrank.rankers.features import GROUPS, Group

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class BaselineConfig(Strict):
    """How BERT + GBDT is trained.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        encoder: The BERT: a known name, a local folder or a hub name. It is not loaded where no group needs it.
        objective: ``lambdarank`` learns the order from the gains of the grades (Burges 2010, "From RankNet to
            LambdaRank to LambdaMART"); ``binary`` learns the probability of a click, a grade of at least `relevant`.
        groups: The groups of features that are used.
        relevant: Lowest grade that counts as a click and, for popularity, as a positive; None takes the upper half of
            the grades.
        k: Depth of the nDCG that lambdarank optimises and that stops the training.
        max_candidates: Candidates of each dev query that are ranked, the first stage's best.
        train_candidates: The same for training queries; None takes all.
        dev_share: Share of the training queries that becomes the dev split of a dataset without one.
        seed: Seed of all random choices.
        bags: Models trained on different draws, whose scores are averaged.
        rounds: Maximum number of trees of one model.
        patience: Training stops after this many rounds without an improvement on dev.
        learning_rate: Weight of one tree.
        leaves: Maximum number of leaves of one tree.
        leaf_candidates: Minimum number of candidates in one leaf.
        l2: Penalty on the leaves' values.
        features_share: Share of the features that each tree may use.
        truncation: ``lambdarank`` counts only pairs with a candidate among this many of the best.
        rows_share: Share of the queries (of the candidates with ``binary``) that each tree is trained on.
        calibration: How scores of ``binary`` become probabilities, fitted on dev: ``platt`` (a logistic curve; Platt
            1999) or ``isotonic`` (a rising step curve; Zadrozny & Elkan 2002).
        threads: Threads of LightGBM.
    """

    dataset: str
    encoder: str = "bert-minilm"
    objective: Literal["lambdarank", "binary"] = "lambdarank"
    groups: Annotated[tuple[Group, ...], Field(min_length=1)] = GROUPS
    relevant: int | None = None
    k: Count = 10
    max_candidates: Count = 20
    train_candidates: Count | None = None
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**30)] = 0
    bags: Count = 1
    rounds: Count = 1000
    patience: Count = 100
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    leaves: Annotated[int, Field(ge=2)] = 15
    leaf_candidates: Count = 20
    l2: Annotated[float, Field(ge=0)] = 1.0
    features_share: Share = 0.8
    truncation: Count = 30
    rows_share: Share = 0.8
    calibration: Literal["platt", "isotonic"] = "platt"
    threads: Count = 1

    @field_validator("groups")
    @classmethod
    def _once(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        return tuple(group for group in GROUPS if group in groups)
