"""Configuration files of the programs here: YAML, checked, with every unknown key an error."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval.bm25 import FIELDS, TextField
from genrank.engines.base import Dtype
from genrank.errors import ConfigError, MissingExtraError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


C = TypeVar("C", bound=BaseModel)


class Strict(BaseModel):
    """What a configuration is made of: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RandomSystem(Strict):
    """One random order of each query's candidates, by the configuration's seed.

    Attributes:
        name: Of the run's file and table row.
    """

    type: Literal["random"]
    name: Name = "random"


class FirstStageSystem(Strict):
    """The order of the dataset's candidates.trec, as it is.

    Attributes:
        name: Of the run's file and table row.
    """

    type: Literal["first-stage"]
    name: Name = "first-stage"


class Bm25System(Strict):
    """BM25 over each query's candidates.

    Attributes:
        name: Of the run's file and table row.
        idf: Whether word frequencies come from all listings of the ``dataset`` or from the query's ``candidates``.
        fields: The listing's fields that are read.
        stem: Whether English plural endings are taken off.
    """

    type: Literal["bm25"]
    name: Name = "bm25"
    idf: Literal["dataset", "candidates"] = "dataset"
    fields: tuple[TextField, ...] = FIELDS
    stem: bool = False


class BertCosineSystem(Strict):
    """Cosine of a BERT encoder's vectors of query and listing, without any training.

    Attributes:
        name: Of the run's file and table row.
        model: A known name, a local folder or a hub name of an encoder.
    """

    type: Literal["bert-cosine"]
    name: Name = "bert-cosine"
    model: str = "bert-minilm"


class BaselineSystem(Strict):
    """BERT + GBDT, trained with ``python -m eval.baseline train``.

    Attributes:
        name: Of the run's file and table row.
        folder: What the training wrote.
    """

    type: Literal["baseline"]
    name: Name = "baseline"
    folder: str


class CrossEncoderSystem(Strict):
    """A cross-encoder, trained with ``python -m eval.cross_encoder train``.

    Attributes:
        name: Of the run's file and table row.
        folder: What the training wrote.
    """

    type: Literal["cross-encoder"]
    name: Name = "cross-encoder"
    folder: str


class TrecSystem(Strict):
    """A run from elsewhere. Listings that are no candidates are dropped, missing ones stand behind; both are counted.

    Attributes:
        name: Of the run's file and table row.
        path: A TREC run.
    """

    type: Literal["trec"]
    name: Name
    path: str


class GenrankSystem(Strict):
    """`genrank.Reranker`; what is left out takes its default there.

    Attributes:
        name: Of the run's file and table row.
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a LoRA adapter.
        engine: What runs the model.
        calibration: Makes scores probabilities: a file, or a folder that holds a genrank.json (`eval.calibrate`).
        prompt: Name of a prompt template or path of one.
        decoding: How a window becomes an order.
        strategy: How windows are laid.
        window: Candidates in a window.
        stride: Candidates by which the window moves.
        passes: Passes over differently ordered candidates.
        max_prompt_tokens: Token budget of one prompt.
        dtype: Number format of the weights.
        batch: Queries handed over at once.
        reasons: Reasons to write for the first items of each query, for the report.
        history: Whose past is shown: the shopper's own, none, or another one's (the next query's), which tells what the
            own one is worth.
    """

    type: Literal["genrank"]
    name: Name
    model: str
    adapter: str | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    calibration: str | None = None
    prompt: str | None = None
    decoding: str | None = None
    strategy: str | None = None
    window: int | None = None
    stride: int | None = None
    passes: int | None = None
    max_prompt_tokens: int | None = None
    dtype: Dtype = "auto"
    batch: Annotated[int, Field(ge=1)] = 16
    reasons: Annotated[int, Field(ge=0)] = 0
    history: Literal["own", "none", "other"] = "own"


class BlendSystem(Strict):
    """The scores of two systems that stand before it, weighed against each other.

    The scores of each are brought to mean 0 and deviation 1 within each query; a probability counts as its log-odds.

    Attributes:
        name: Of the run's file and table row.
        systems: Their names.
        weight: Of the first, 0 to 1; None fits it on other queries: of 0, 0.05 .. 1, see `eval.blend.fit_weight`.
        fit: Split of these queries.
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
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        split: Whose queries are taken.
        max_candidates: So many of each query's candidates, the first stage's best.
        limit: At most so many queries, chosen by a hash of seed and query id; None takes all.
        seed: Of the random order, of `limit`, and of the passes of a reranker.
        k: Depth of the primary metric, nDCG@k, and of precision and recall.
        cutoffs: Depths at which nDCG is given.
        relevant: Lowest grade that is relevant for MRR, MAP, P and R; None takes the upper half of the grades.
        with_gain: Only queries one of whose candidates has a gain; the others score 0 in any order.
        reference: Name of the system that the others are compared with; None takes the first that is not random.
        clicks: Given for data whose grades are clicks.
        systems: What is measured.
    """

    dataset: str
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
        names = [system.name.lower() for system in systems]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two systems have the name {name!r}; give each its own")
        return systems

    @model_validator(mode="after")
    def _blends_are_of_systems_before_them(self) -> RunConfig:
        known: list[str] = []
        for system in self.systems:
            if isinstance(system, BlendSystem):
                for name in system.systems:
                    if name not in known:
                        raise ValueError(f"systems: {system.name} needs {name}, which must stand before it")
                if system.weight is None and system.fit == self.split:
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


def load_config(path: str | Path, kind: type[C]) -> C:
    """Read a configuration file.

    Args:
        path: A YAML file.
        kind: What it describes, such as `RunConfig`.

    Raises:
        ConfigError: When the file cannot be read, is no YAML, or a key or value is wrong; the message names the
            file, the place and, for an unknown key, the known ones.
        MissingExtraError: When pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", "eval") from None
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping with the keys {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(error, kind)}") from None


def _complaint(error: pydantic.ValidationError, kind: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    place: list[str | int] = []
    known: list[str] = []
    here: Any = kind
    for part in first["loc"]:
        variants = _variants(here)
        if part in variants:  # the tag of a union, no part of the path
            here = variants[str(part)]
            continue
        place.append(part)
        if isinstance(part, str):
            model = here if _is_model(here) else next(iter(variants.values())) if len(variants) == 1 else None
            known = list(model.model_fields) if model else []
            here = model.model_fields[part].annotation if model and part in model.model_fields else None
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}: unknown key{hint} The known keys are {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _variants(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models inside a field's annotation, by the value of their ``type`` key, or by class name without one."""
    if _is_model(annotation):
        return {}
    found: dict[str, type[BaseModel]] = {}
    for inner in typing.get_args(annotation):
        if _is_model(inner):
            tag = inner.model_fields.get("type")
            found[str(typing.get_args(tag.annotation)[0]) if tag else inner.__name__] = inner
        else:
            found |= _variants(inner)
    return found


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
