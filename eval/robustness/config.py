"""The configuration of a robustness measurement."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from genrank.experiment.config import Strict, check_names_differ
from genrank.experiment.systems import GenrankSystem


def _own_history(system: GenrankSystem) -> GenrankSystem:
    if system.history != "own":
        raise ValueError(f"history: must be own here, got {system.history}; eval.run measures the others")
    return system


Systems = Annotated[tuple[Annotated[GenrankSystem, AfterValidator(_own_history)], ...], Field(min_length=1)]
Field_ = Literal[
    "title", "description", "brand", "category", "price", "attributes", "rating", "rating_count", "reviews"
]


class InjectionSettings(Strict):
    """What is attacked.

    Attributes:
        limit: Maximum number of queries, chosen by a hash of seed and query id; None takes all.
        placements: Number of candidate orders in which each text is tried: as they come, then shuffled by the seed.
        systems: Each is measured with and without its defence.
    """

    limit: Annotated[int, Field(ge=1)] | None = None
    placements: Annotated[int, Field(ge=1)] = 1
    systems: Systems


class OrderSettings(Strict):
    """Which systems rank shuffled candidates, and how often.

    Attributes:
        limit: Maximum number of queries, chosen by a hash of seed and query id; None takes all.
        shuffles: Random orders in which the candidates of each query are shown.
        passes: The values of `Reranker`'s ``passes`` to measure; costs are relative to the first.
        systems: The systems; their own ``passes`` is not used.
    """

    limit: Annotated[int, Field(ge=1)] | None = None
    shuffles: Annotated[int, Field(ge=2)] = 10
    passes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 4)
    systems: Systems

    @field_validator("passes")
    @classmethod
    def _passes_differ(cls, passes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(passes)) < len(passes):
            raise ValueError(f"each once, got {list(passes)}")
        return passes


class RobustnessConfig(Strict):
    """One measurement.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        split: Split whose queries are ranked.
        max_candidates: Candidates of each query, the first stage's best.
        seed: Seed of the choice of queries, the shuffles and the statistics.
        k: Depth of nDCG.
        fields: The listings' fields that are shown; None shows all.
        injection: The attacks; None measures none.
        order: The order sensitivity; None does not measure it.
    """

    dataset: str = "sample-shop"
    split: str = "test"
    max_candidates: Annotated[int, Field(ge=2)] = 20
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    fields: tuple[Field_, ...] | None = None
    injection: InjectionSettings | None = None
    order: OrderSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> RobustnessConfig:
        if self.fields is not None and "title" not in self.fields:
            raise ValueError("fields: must hold title, which is never left out")
        for part in (self.injection, self.order):
            check_names_differ(system.name for system in (part.systems if part else ()))
        if self.injection is None and self.order is None:
            raise ValueError("give injection, order or both")
        return self
