"""The dataset that a configuration names, and the queries whose score depends on the order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from genrank.data.dataset import Dataset, sample_shop
from genrank.errors import ConfigError
from genrank.experiment.splits import shuffled
from genrank.types import Request


def load_dataset(name: str, seed: int = 0) -> Dataset:
    """Load a dataset; without a first stage, its judged listings become the candidates, in a seeded random order.

    Args:
        name: A folder, relative to the current directory (``~`` is the home directory), or ``sample-shop``.
        seed: Seed of that order.

    Raises:
        ConfigError: When there is no such folder.
        DataFormatError: When the folder is broken.
    """
    if name == "sample-shop":
        dataset = sample_shop()
    else:
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            raise ConfigError(f"dataset: no folder {name!r}; make it with python -m eval.convert in a clone of genrank")
        dataset = Dataset.load(folder)
    if not dataset.candidates:
        # the qrels may be ordered by grade
        dataset = dataclasses.replace(dataset, candidates=shuffled(dataset.qrels, seed), first_stage="random")
    return dataset


def has_gain(request: Request, dataset: Dataset) -> bool:
    """Whether one of the candidates has a gain; without one, every order scores 0.

    Args:
        request: Of one of the dataset's queries.
        dataset: Gives judgements and gains.
    """
    judged = dataset.qrels.get(request.query.query_id, {})
    ids = (candidate.listing.listing_id for candidate in request.candidates)
    return any(key in judged and dataset.grades[judged[key]].gain > 0 for key in ids)
