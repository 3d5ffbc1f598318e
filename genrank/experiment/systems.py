"""Builds the rankers that a configuration names, for the programs that measure and train."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from genrank.calibration import load_calibration
from genrank.cascade import Cascade
from genrank.engines.base import Engine
from genrank.experiment.config import Name, Strict
from genrank.files import files_fingerprint
from genrank.models.store import resolve
from genrank.models.weights import model_fingerprint
from genrank.prompting.template import Template, load_template
from genrank.reranker import DEFAULT_PROMPTS, Reranker, default_decoding
from genrank.types import Combine, Decoding, Dtype, Strategy


class BaselineSystem(Strict):
    """BERT + GBDT, trained with ``python -m eval.baseline train`` (in a clone).

    Attributes:
        name: Name of its run file and of its row in tables.
        folder: The folder that the training wrote.
    """

    type: Literal["baseline"]
    name: Name = "baseline"
    folder: str


class CrossEncoderSystem(Strict):
    """A cross-encoder, trained with ``python -m eval.cross_encoder train`` (in a clone).

    Attributes:
        name: Name of its run file and of its row in tables.
        folder: The folder that the training wrote.
    """

    type: Literal["cross-encoder"]
    name: Name = "cross-encoder"
    folder: str


class GenrankSystem(Strict):
    """`genrank.Reranker`; options that are left out have its defaults.

    Attributes:
        name: Name of its run file and of its row in tables.
        model: A known name, a local folder or a hub name.
        adapter: Folder or hub name of a LoRA adapter.
        engine: What runs the model.
        calibration: Turns scores into probabilities: a file, or a folder with a genrank.json (see `eval.calibrate`);
            False turns off the adapter's own.
        blend: Weight of the model beside the first stage's scores; False turns off the adapter's own.
        prompt: Name of a prompt template, or path of one.
        decoding: How a window becomes an order.
        strategy: How a list is split into windows.
        window: Candidates in a window.
        stride: Candidates by which the window moves.
        passes: Passes over differently ordered candidates.
        max_prompt_tokens: Token budget of one prompt.
        dtype: Number format of the weights.
        batch: Queries ranked in one call.
        reasons: How many of each query's first items get a reason, for the report.
        history: Whose history is shown: the shopper's own, none, or another shopper's (the next query's), which shows
            what the shopper's own is worth.
    """

    type: Literal["genrank"]
    name: Name
    model: str
    adapter: str | None = None
    engine: Literal["transformers", "vllm"] = "transformers"
    calibration: str | Literal[False] | None = None
    blend: Annotated[float, Field(ge=0, le=1)] | StrictBool | None = None
    prompt: str | None = None
    decoding: Decoding | None = None
    strategy: Strategy | None = None
    window: int | None = None
    stride: int | None = None
    passes: int | None = None
    max_prompt_tokens: int | None = None
    dtype: Dtype = "auto"
    batch: Annotated[int, Field(ge=1)] = 16
    reasons: Annotated[int, Field(ge=0)] = 0
    history: Literal["own", "none", "other"] = "own"

    @field_validator("blend")
    @classmethod
    def _is_a_weight(cls, value: float | bool | None) -> float | bool | None:
        if value is True:
            raise ValueError("must be a number within 0..1, or false")
        return value


class CascadeSystem(Strict):
    """`genrank.Cascade`: two rerankers, one after the other.

    Attributes:
        name: Name of its run file and of its row in tables.
        first: Ranks all candidates.
        second: Ranks the first few, and writes the reasons. With the model, adapter, engine and dtype of `first` it
            shares its engine.
        top: How many, at least 2.
        scores: What becomes of the two scores; see `genrank.Cascade`.
    """

    type: Literal["cascade"]
    name: Name
    first: GenrankSystem
    second: GenrankSystem
    top: Annotated[int, Field(ge=2)] = 10
    scores: Combine = "replace"

    @model_validator(mode="after")
    def _fits(self) -> CascadeSystem:
        if self.first.reasons:
            raise ValueError("first.reasons: must be 0, the second reranker writes them")
        if self.second.reasons > self.top:
            raise ValueError(f"second.reasons: must be at most top, {self.top}, got {self.second.reasons}")
        if self.second.history != self.first.history:
            raise ValueError(f"second.history: must be that of first, {self.first.history}, got {self.second.history}")
        return self

    @property
    def batch(self) -> int:
        """Queries ranked in one call."""
        return self.first.batch

    @property
    def reasons(self) -> int:
        """How many of each query's first items get a reason."""
        return self.second.reasons

    @property
    def history(self) -> Literal["own", "none", "other"]:
        """Whose history is shown."""
        return self.first.history


_RERANKER_OPTIONS = (
    "calibration", "blend", "prompt", "decoding", "strategy", "window", "stride", "passes", "max_prompt_tokens",
)  # fmt: skip
_ENGINE_OPTIONS = ("model", "adapter", "engine", "dtype")


def decoding_of(system: GenrankSystem) -> Decoding:
    """The system's decoding, or what `genrank.Reranker` takes.

    Raises:
        ConfigError: When the adapter's manifest or the prompt template is wrong.
    """
    return system.decoding or default_decoding(system.adapter, system.prompt)


def template_of(system: GenrankSystem) -> Template:
    """The system's prompt template, or its decoding's own.

    Raises:
        ConfigError: When there is no such template, or it is wrong.
    """
    return load_template(system.prompt or DEFAULT_PROMPTS[decoding_of(system)])


def weights_fingerprints(system: GenrankSystem) -> dict[str, str]:
    """Fingerprints of the files of the model and, if the system has one that is a folder, of the adapter."""
    found = {"model": model_fingerprint(resolve(system.model))}
    if system.adapter and (folder := Path(system.adapter).expanduser()).is_dir():
        found["adapter"] = files_fingerprint(folder)
    return found


def dependencies(system: GenrankSystem) -> dict[str, Any]:
    """What a system's rankings depend on beside its settings: weights, prompt template and calibration.

    Raises:
        GenrankError: When one of them cannot be found or read.
    """
    found: dict[str, Any] = {**weights_fingerprints(system), "prompt": template_of(system).digest}
    if system.calibration:
        found["calibration"] = asdict(load_calibration(system.calibration, decoding_of(system)))
    return found


def make_engine(system: GenrankSystem) -> Engine:
    """The engine that runs a system's model.

    Raises:
        GenrankError: When the model cannot be had or read, or the engine's packages are missing.
    """
    if system.engine == "vllm":
        from genrank.engines.vllm import VLLMEngine

        return VLLMEngine(system.model, adapter=system.adapter, dtype=system.dtype)
    from genrank.engines.transformers import TransformersEngine

    return TransformersEngine(system.model, adapter=system.adapter, dtype=system.dtype)


def make_reranker(system: GenrankSystem, seed: int, *, engine: Engine | None = None, **overrides: Any) -> Reranker:
    """The reranker that a configuration describes.

    Args:
        system: The configuration.
        seed: Seed of the shuffles between passes.
        engine: Runs the model; None loads the system's own.
        overrides: Options of `Reranker` that take precedence over the system's.

    Raises:
        GenrankError: When the model cannot be had or read, or an option is wrong.
    """
    own = {name: value for name in _RERANKER_OPTIONS if (value := getattr(system, name)) is not None}
    return Reranker(engine=engine or make_engine(system), seed=seed, **(own | overrides))


def make_cascade(system: CascadeSystem, seed: int) -> Cascade:
    """The cascade that a configuration describes.

    Args:
        system: The configuration.
        seed: Seed of the shuffles between passes.

    Raises:
        GenrankError: When a model cannot be had or read, or an option is wrong.
    """
    first = make_reranker(system.first, seed)
    shared = all(getattr(system.first, name) == getattr(system.second, name) for name in _ENGINE_OPTIONS)
    second = make_reranker(system.second, seed, engine=first.engine if shared else None)
    return Cascade(first, second, top=system.top, scores=system.scores)
