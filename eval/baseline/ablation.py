"""What each group of features is worth: training without it, and with nothing else."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from eval.baseline.config import BaselineConfig
from eval.baseline.training import Table, has_candidates, relevant_of, table, tables, train_boosters
from genrank.data.dataset import Dataset
from genrank.experiment.metrics import ndcg
from genrank.experiment.splits import with_dev
from genrank.progress import track
from genrank.rankers.features import Floats, Group
from genrank.rankers.gbdt import columns, predict, split_scores
from genrank.search.dense import Encoder, TextEncoder


def ablate(
    dataset: Dataset, config: BaselineConfig, *, seeds: int = 3, encoder: TextEncoder | None = None
) -> dict[str, Any]:
    """Train with all groups, without each, and with each alone; measure each on dev and test.

    A group whose features are the same for all training candidates, for example always unknown, is named in ``absent``.

    Args:
        dataset: With a split test.
        config: How to train; its groups are the ones tried.
        seeds: Number of trainings averaged for each figure; the first uses the configuration's seed.
        encoder: None takes the configuration's.

    Returns:
        ``{"dataset", "k", "seeds", "absent", "rows": [{"features", "groups", "dev", "test", "dev_deviation",
        "test_deviation"}]}``; the first row has all groups.

    Raises:
        GenrankError: What `eval.baseline.training.train` raises.
    """
    divided = with_dev(dataset, config.dev_share, config.seed)
    featuriser, made, _ = tables(divided, config, encoder or Encoder(config.encoder))
    queries = [query for query in divided.split("test") if has_candidates(divided, query)]
    made["test"] = table(divided, queries, featuriser, relevant_of(divided, config), config.max_candidates)
    present = tuple(group for group in config.groups if _varies(made["train"].values[:, columns([group])]))
    trials: list[tuple[str, tuple[Group, ...]]] = [("all", present)]
    if len(present) > 1:
        trials += [(f"without {group}", tuple(other for other in present if other != group)) for group in present]
        trials += [(f"{group} alone", (group,)) for group in present]
    rows = []
    for name, groups in track(trials, "ablate"):
        changed = config.model_copy(update={"groups": groups})
        figures = _figures(divided, made, changed, seeds)
        row: dict[str, Any] = {"features": name, "groups": list(groups)}
        for split in ("dev", "test"):
            row |= {split: statistics.fmean(figures[split]), f"{split}_deviation": statistics.pstdev(figures[split])}
        rows.append(row)
    absent = [group for group in config.groups if group not in present]
    return {"dataset": dataset.name, "k": config.k, "seeds": seeds, "absent": absent, "rows": rows}


def _varies(values: Floats) -> bool:
    return any(len(np.unique(column)) > 1 for column in values.T)  # all NaN are one value


def _figures(dataset: Dataset, made: dict[str, Table], config: BaselineConfig, seeds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"dev": [], "test": []}
    for i in range(seeds):
        # each training draws as many bags, so the seeds must not overlap
        seeded = config.model_copy(update={"seed": config.seed + i * config.bags})
        boosters = train_boosters(made["train"], made["dev"], seeded)
        for split, values in found.items():
            one = made[split]
            scores = predict(boosters, one.values[:, columns(config.groups)], config.threads)
            values.append(ndcg(dataset, one.requests, split_scores(one.requests, scores), config.k))
    return found
