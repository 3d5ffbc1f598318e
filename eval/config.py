"""The configuration of `eval.run`: which systems are measured, on which queries."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from genrank.data.dataset import Dataset
from genrank.experiment.config import Name, Strict, check_names_differ
from genrank.experiment.datasets import load_dataset
from genrank.experiment.systems import BaselineSystem, CascadeSystem, CrossEncoderSystem, GenrankSystem
from genrank.search.bm25 import FIELDS, TextField

ALL = "all"
"""The split that holds the queries of all splits."""


class RandomSystem(Strict):
    """One random order of each query's candidates, by the configuration's seed.

    Attributes:
        name: Name of its run file and of its row in tables.
    """

    type: Literal["random"]
    name: Name = "random"


class FirstStageSystem(Strict):
    """The order of the dataset's candidates.trec, as it is.

    Attributes:
        name: Name of its run file and of its row in tables.
    """

    type: Literal["first-stage"]
    name: Name = "first-stage"


class Bm25System(Strict):
    """BM25 over each query's candidates.

    Attributes:
        name: Name of its run file and of its row in tables.
        idf: Whether word frequencies come from all listings of the ``dataset`` or from the query's ``candidates``.
        fields: The listing's fields that are read.
        stem: Whether English plural endings are removed.
    """

    type: Literal["bm25"]
    name: Name = "bm25"
    idf: Literal["dataset", "candidates"] = "dataset"
    fields: tuple[TextField, ...] = FIELDS
    stem: bool = False


class BertCosineSystem(Strict):
    """Cosine of a BERT encoder's vectors of query and listing, without any training.

    Attributes:
        name: Name of its run file and of its row in tables.
        model: A known name, a local folder or a hub name of an encoder.
    """

    type: Literal["bert-cosine"]
    name: Name = "bert-cosine"
    model: str = "bert-minilm"


class TrecSystem(Strict):
    """A run from elsewhere. Listings that are not candidates are dropped, missing ones come last; both are counted.

    Attributes:
        name: Name of its run file and of its row in tables.
        path: A TREC run.
    """

    type: Literal["trec"]
    name: Name
    path: str


class BlendSystem(Strict):
    """A weighted sum of the scores of two systems that come before it.

    Each system's scores are standardised within each query (mean 0, deviation 1); a probability counts as its log-odds.

    Attributes:
        name: Name of its run file and of its row in tables.
        systems: Their names.
        weight: Weight of the first, 0 to 1; None fits it on other queries, see `eval.blend.fit_weight`.
        fit: Split that these queries come from.
    """

    type: Literal["blend"]
    name: Name
    systems: tuple[Name, Name]
    weight: Annotated[float, Field(ge=0, le=1)] | None = None
    fit: str = "dev"


System = (
    RandomSystem
    | FirstStageSystem
    | Bm25System
    | BertCosineSystem
    | BaselineSystem
    | CrossEncoderSystem
    | TrecSystem
    | GenrankSystem
    | CascadeSystem
)


class ClickSettings(Strict):
    """For data whose grades are clicks on what the first stage showed, in the order of candidates.trec.

    Attributes:
        eta: How fast attention falls: the shopper looks at rank r with probability ``(1 / r) ** eta``.
        clip: The most that one click may weigh in clipped IPS.
        sessions: How often each query is put to each simulated user, who sees the system's order and the first
            stage's interleaved.
    """

    eta: Annotated[float, Field(ge=0)] = 1.0
    clip: Annotated[float, Field(ge=1)] = 10.0
    sessions: Annotated[int, Field(ge=1)] = 20


class RunConfig(Strict):
    """One measurement: some systems, on the same queries and candidates.

    Attributes:
        dataset: A dataset folder or a BEIR folder, relative to the current directory (``~`` is the home directory); a
            name of ir_datasets, such as ``ir_datasets:beir/scifact/test``; or ``sample-shop`` for the one that ships
            with genrank.
        first_stage: What gives the candidates: ``bm25``, ``scoreddocs`` (what ir_datasets has) or a TREC run. None
            takes what the dataset comes with; see `genrank.experiment.datasets.load_dataset`.
        split: Split whose queries are ranked; ``all`` takes those of all splits, for systems that were trained on other
            data.
        max_candidates: Candidates of each query, the first stage's best.
        limit: Maximum number of queries, chosen by a hash of seed and query id; None takes all.
        seed: Seed of the random order, of the choice by `limit`, and of a reranker's passes.
        k: Depth of the primary metric, nDCG@k, and of precision and recall.
        cutoffs: Depths at which nDCG is given.
        relevant: Lowest grade that is relevant for MRR, MAP, P and R; None takes the upper half of the grades.
        with_gain: Only queries one of whose candidates has a gain; the others score 0 in any order.
        reference: Name of the system that the others are compared with; None takes the first that is not random.
        clicks: Settings for data whose grades are clicks; None for other data.
        systems: The systems to measure.
    """

    dataset: str
    first_stage: str | None = None
    split: str = "test"
    max_candidates: Annotated[int, Field(ge=1)] = 20
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    cutoffs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (5, 10, 20)
    relevant: int | None = None
    with_gain: bool = False
    reference: str | None = None
    clicks: ClickSettings | None = None
    systems: Annotated[tuple[Annotated[System | BlendSystem, Field(discriminator="type")], ...], Field(min_length=1)]

    @field_validator("systems")
    @classmethod
    def _names_differ(cls, systems: tuple[System | BlendSystem, ...]) -> tuple[System | BlendSystem, ...]:
        check_names_differ(system.name for system in systems)
        return systems

    def load_dataset(self) -> Dataset:
        """The dataset, with its candidates.

        Raises:
            GenrankError: What `genrank.experiment.datasets.load_dataset` raises.
        """
        return load_dataset(self.dataset, self.seed, first_stage=self.first_stage, depth=self.max_candidates)

    @model_validator(mode="after")
    def _blends_are_of_systems_before_them(self) -> RunConfig:
        known: list[str] = []
        for system in self.systems:
            if isinstance(system, BlendSystem):
                for name in system.systems:
                    if name not in known:
                        raise ValueError(f"systems: {system.name} needs {name}, which must come before it")
                if system.weight is None and self.split in (system.fit, ALL):
                    raise ValueError(f"systems: {system.name} must not be fitted on the split that is measured")
            else:
                known.append(system.name)
        return self

    @model_validator(mode="after")
    def _reference_is_a_system(self) -> RunConfig:
        names = [system.name for system in self.systems]
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference: no system {self.reference!r}; the systems are {', '.join(names)}")
        return self
