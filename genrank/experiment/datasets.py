"""The dataset that a configuration names, and the queries whose score depends on the order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from genrank.data.dataset import Dataset, sample_shop
from genrank.data.trec import read_run
from genrank.errors import ConfigError
from genrank.experiment.beir import is_beir, read_beir
from genrank.experiment.documents import Documents
from genrank.experiment.ir_datasets import PREFIX, has_scored_documents, read_ir_dataset, scored_documents
from genrank.experiment.program import say
from genrank.experiment.splits import shuffled
from genrank.progress import track
from genrank.types import Request

if TYPE_CHECKING:
    from genrank.search.bm25 import Bm25, TextField

BM25 = "bm25"
SCORED = "scoreddocs"
DEPTH = 100
"""How many candidates a query gets from BM25 or ir_datasets' scoreddocs."""
COLLECTION_FIELDS: tuple[TextField, ...] = ("title", "description")
"""What BM25 reads of a collection's documents."""


def load_dataset(name: str, seed: int = 0, *, first_stage: str | None = None, depth: int = DEPTH) -> Dataset:
    """Load a dataset and its candidates.

    Args:
        name: A dataset folder or a BEIR folder, relative to the current directory (``~`` is the home directory); the
            id of a dataset of ir_datasets behind ``ir_datasets:``; or ``sample-shop``.
        seed: Seed of a random order.
        first_stage: What gives the candidates: ``bm25`` over the whole collection; ``scoreddocs``, what ir_datasets
            has; or a TREC run. With None these are the candidates of the folder, else its judged listings in a
            seeded random order; of a BEIR folder or ir_datasets, scoreddocs where there are some, else BM25.
        depth: The most candidates of a query that BM25 or scoreddocs give.

    Raises:
        ConfigError: When there is no such folder, dataset or run, or it cannot be downloaded.
        DataFormatError: When a file is broken.
        MissingExtraError: When a package is missing that the dataset or its first stage needs.
    """
    if name == "sample-shop":
        dataset = sample_shop()
    elif name.startswith(PREFIX):
        dataset = read_ir_dataset(name.removeprefix(PREFIX))
        if first_stage is None and has_scored_documents(dataset.name):
            first_stage = SCORED
    else:
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            raise ConfigError(
                f"dataset: no folder {name!r}; make it with python -m eval.convert in a clone of genrank, or name a "
                f"BEIR folder or {PREFIX}ID"
            )
        dataset = read_beir(folder) if is_beir(folder) else Dataset.load(folder)
    if first_stage is None and isinstance(dataset.listings, Documents):
        first_stage = BM25
    if first_stage is not None:
        return _with_first_stage(dataset, first_stage, depth, scored=name.startswith(PREFIX))
    if not dataset.candidates:
        # the qrels may be ordered by grade
        dataset = dataclasses.replace(dataset, candidates=shuffled(dataset.qrels, seed), first_stage="random")
    return dataset


def _with_first_stage(dataset: Dataset, first_stage: str, depth: int, *, scored: bool) -> Dataset:
    if first_stage == BM25:
        found: Mapping[str, Mapping[str, float]] = Bm25Candidates(dataset, depth)
        return dataclasses.replace(dataset, candidates=found, first_stage=BM25)
    if first_stage == SCORED:
        if not scored:
            raise ConfigError(f"first_stage: only datasets of {PREFIX} have {SCORED}; name {BM25} or a TREC run")
        return dataclasses.replace(dataset, candidates=scored_documents(dataset, depth), first_stage=SCORED)
    path = Path(first_stage).expanduser()
    if not path.is_file():
        raise ConfigError(f"first_stage: there is no file {first_stage!r}; name a TREC run, {BM25} or {SCORED}")
    known = {query.query.query_id for query in dataset.queries}
    run = read_run(path)
    kept = {query_id: scores for query_id, scores in run.items() if query_id in known}
    if not kept:
        example = next(iter(run), "none")
        raise ConfigError(
            f"first_stage: {first_stage} has no query of {dataset.name}; its queries are such as {example!r}"
        )
    if len(kept) < len(run):
        say(f"{first_stage}: {len(run) - len(kept)} queries are not among those of {dataset.name}")
    return dataclasses.replace(dataset, candidates=kept, first_stage=path.stem)


class Bm25Candidates(Mapping[str, Mapping[str, float]]):
    """BM25 over all listings (`COLLECTION_FIELDS` of a collection's); the index is built at the first look-up.

    Args:
        dataset: Gives queries and listings.
        depth: Candidates of each query.
    """

    def __init__(self, dataset: Dataset, depth: int) -> None:
        self._dataset, self._depth = dataset, depth
        self._texts = {query.query.query_id: query.query.text for query in dataset.queries}
        self._index: Bm25 | None = None
        self._found: dict[str, dict[str, float]] = {}

    def __getitem__(self, query_id: str) -> Mapping[str, float]:
        if query_id not in self._found:
            self._found[query_id] = self._search(self._texts[query_id])
        return self._found[query_id]

    def __contains__(self, query_id: object) -> bool:
        return query_id in self._texts

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def _search(self, text: str) -> dict[str, float]:
        if self._index is None:
            from genrank.search.bm25 import FIELDS, Bm25

            listings = self._dataset.listings
            fields = COLLECTION_FIELDS if isinstance(listings, Documents) else FIELDS
            say(f"{self._dataset.name}: indexing {len(listings)} listings")
            self._index = Bm25(track(listings.values(), BM25, total=len(listings)), fields)
        return self._index.search(text, self._depth)


def has_gain(request: Request, dataset: Dataset) -> bool:
    """Whether one of the candidates has a gain; without one, every order scores 0.

    Args:
        request: Of one of the dataset's queries.
        dataset: Gives judgements and gains.
    """
    judged = dataset.qrels.get(request.query.query_id, {})
    ids = (candidate.listing.listing_id for candidate in request.candidates)
    return any(key in judged and dataset.grades[judged[key]].gain > 0 for key in ids)
