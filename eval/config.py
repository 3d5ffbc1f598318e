"""Configuration files of `eval.run`: YAML, checked, with every unknown key an error."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval.bm25 import FIELDS, TextField
from genrank.errors import ConfigError, MissingExtraError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RandomSystem(_Strict):
    """One random order of each query's candidates, by the configuration's seed.

    Attributes:
        name: Of the run's file and table row.
    """

    type: Literal["random"]
    name: Name = "random"


class FirstStageSystem(_Strict):
    """The order of the dataset's candidates.trec, as it is.

    Attributes:
        name: Of the run's file and table row.
    """

    type: Literal["first-stage"]
    name: Name = "first-stage"


class Bm25System(_Strict):
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


class GenrankSystem(_Strict):
    """`genrank.Reranker`; what is left out takes its default there.

    Attributes:
        name: Of the run's file and table row.
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a LoRA adapter.
        prompt: Name of a prompt template or path of one.
        decoding: How a window becomes an order.
        strategy: How windows are laid.
        window: Candidates in a window.
        stride: Candidates by which the window moves.
        passes: Passes over differently ordered candidates.
        max_prompt_tokens: Token budget of one prompt.
        dtype: Number format of the weights.
        batch: Queries handed over at once.
    """

    type: Literal["genrank"]
    name: Name
    model: str
    adapter: str | None = None
    prompt: str | None = None
    decoding: str | None = None
    strategy: str | None = None
    window: int | None = None
    stride: int | None = None
    passes: int | None = None
    max_prompt_tokens: int | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    batch: Annotated[int, Field(ge=1)] = 16


System = Annotated[RandomSystem | FirstStageSystem | Bm25System | GenrankSystem, Field(discriminator="type")]


class RunConfig(_Strict):
    """One measurement: some systems, on the same queries and candidates.

    Attributes:
        dataset: A dataset folder, relative to the current directory (``~`` is the home directory), or
            ``sample-shop`` for the one that ships with genrank.
        split: Whose queries are taken.
        max_candidates: So many of each query's candidates, the first stage's best.
        limit: At most so many queries, chosen by a hash of seed and query id; None takes all.
        seed: Of the random order, of `limit`, and of the passes of a reranker.
        k: Depth of nDCG.
        relevant: Lowest grade that is relevant for MRR; None takes the upper half of the grades.
        systems: What is measured.
    """

    dataset: str
    split: str = "test"
    max_candidates: Annotated[int, Field(ge=1)] = 20
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    k: Annotated[int, Field(ge=1)] = 10
    relevant: int | None = None
    systems: Annotated[tuple[System, ...], Field(min_length=1)]

    @field_validator("systems")
    @classmethod
    def _names_differ(cls, systems: tuple[System, ...]) -> tuple[System, ...]:
        names = [system.name.lower() for system in systems]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two systems have the name {name!r}; give each its own")
        return systems

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"must be a mapping with the keys {', '.join(cls.model_fields)}")
        return value


_TYPES: dict[str, type[_Strict]] = {
    "random": RandomSystem,
    "first-stage": FirstStageSystem,
    "bm25": Bm25System,
    "genrank": GenrankSystem,
}


def load_config(path: str | Path) -> RunConfig:
    """Read a configuration file.

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
    try:
        return RunConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(error)}") from None


def _complaint(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # a system's place reads ("systems", 2, "bm25", "key"): the type is no part of the path
    tag = first["loc"][2] if len(first["loc"]) > 3 else None
    place = [part for i, part in enumerate(first["loc"]) if i != 2 or tag not in _TYPES]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if first["type"] == "extra_forbidden":
        model = _TYPES[str(tag)] if tag in _TYPES else RunConfig
        known = list(model.model_fields)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{path}: unknown key{hint} The known keys are {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
