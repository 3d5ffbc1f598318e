"""The dataset that a configuration names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from eval.sets.rules import shuffled
from genrank.dataset import Dataset, sample_shop
from genrank.errors import ConfigError


def load_dataset(name: str, seed: int = 0) -> Dataset:
    """Load a dataset; one without a first stage gets its judged listings in seeded random order as candidates.

    Args:
        name: A folder, relative to the current directory (``~`` is the home directory), or ``sample-shop``.
        seed: Of that order.

    Raises:
        ConfigError: When there is no such folder.
        DataFormatError: When the folder is broken.
    """
    if name == "sample-shop":
        dataset = sample_shop()
    else:
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            raise ConfigError(f"dataset: no folder {name!r}; make it with python -m eval.convert")
        dataset = Dataset.load(folder)
    if not dataset.candidates:
        # the order of the qrels may well be the order of the grades
        dataset = dataclasses.replace(dataset, candidates=shuffled(dataset.qrels, seed), first_stage="random")
    return dataset
