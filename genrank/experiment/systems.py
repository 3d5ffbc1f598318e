"""Rankers that a configuration names, for the programs that measure and for those that learn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from genrank.engines.base import Dtype, Engine
from genrank.experiment.config import Name, Strict
from genrank.files import files_fingerprint
from genrank.models.store import resolve
from genrank.types import Decoding, Strategy


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


def weights_fingerprints(system: GenrankSystem) -> dict[str, str]:
    """Of the files of the model and, where the system has one that is a folder, of the adapter."""
    found = {"model": files_fingerprint(resolve(system.model))}
    if system.adapter and (folder := Path(system.adapter).expanduser()).is_dir():
        found["adapter"] = files_fingerprint(folder)
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
