"""Serves a trained BERT cross-encoder, which reads query and listing together and gives one score."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pydantic

from genrank.engines.tokenizer import load_config
from genrank.errors import (
    ChecksumError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    OutputError,
    first_problem,
)
from genrank.files import files_fingerprint, read_text
from genrank.models.weights import check_files, reading
from genrank.progress import quiet_loading
from genrank.search.bm25 import TextField, listing_text
from genrank.text.clean import clean
from genrank.types import Listing, Request

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


MANIFEST = "cross_encoder.json"
FORMAT = 1
_HEAD = r"(^|\.)(classifier|score|pooler|pre_classifier|head)\."
"""Weights that may be missing from a model that was trained for another task."""


class CrossEncoderSettings(pydantic.BaseModel, frozen=True, extra="ignore"):
    """The part of a cross-encoder's training configuration that serving needs.

    Attributes:
        fields: The listing's fields that the model reads, in this order.
        max_length: Tokens of query and listing together; the longer of the two is cut.
        batch: Pairs that are scored at once.
    """

    fields: Annotated[tuple[TextField, ...], pydantic.Field(min_length=1)]
    max_length: Annotated[int, pydantic.Field(ge=8)]
    batch: Annotated[int, pydantic.Field(ge=1)]


class CrossEncoderRanker:
    """A trained cross-encoder that scores candidates.

    Train one in a clone of genrank: ``python -m eval.cross_encoder train``.

    Args:
        model: The model.
        settings: What it reads, and how much at once.
    """

    def __init__(self, model: CrossEncoder, settings: CrossEncoderSettings) -> None:
        self.settings = settings
        self._model = model

    @classmethod
    def load(cls, folder: str | Path) -> CrossEncoderRanker:
        """Load a folder that ``train`` saved.

        Raises:
            ModelNotFoundError: When the folder holds no manifest.
            ModelError: When the manifest or the model cannot be read.
            ChecksumError: When a file is missing or was changed.
            MissingExtraError: When sentence-transformers is not installed.
        """
        root = Path(folder).expanduser()
        manifest = read_manifest(root)
        for name, recorded in manifest["files"].items():
            path = root / name
            if not path.is_file() or files_fingerprint(path) != recorded:
                trouble = "is missing" if not path.is_file() else "is not the file that was saved"
                raise ChecksumError(
                    f"{path} {trouble}; train it again with python -m eval.cross_encoder train in a clone of genrank"
                )
        settings: CrossEncoderSettings = manifest["settings"]
        return cls(load_cross_encoder(root, settings.max_length), settings)

    def score(self, requests: Sequence[Request]) -> list[list[float]]:
        """Score every candidate; this method can be the `fallback` of a `genrank.Reranker`.

        Args:
            requests: ``[b]``.

        Returns:
            ``[b][n]`` logits, in the requests' order; higher is better.

        Raises:
            OutputError: When the model gives NaN or infinity.
        """
        pairs = [
            (clean(request.query.text), document_text(candidate.listing, self.settings.fields))
            for request in requests
            for candidate in request.candidates
        ]
        if not pairs:
            return [[] for _ in requests]
        with reading("the cross-encoder"):
            scores = self._model.predict(pairs, batch_size=self.settings.batch, show_progress_bar=False).tolist()
        for score in scores:
            if not math.isfinite(score):
                raise OutputError(f"the cross-encoder gave the score {score}")
        rest = iter(scores)
        return [[next(rest) for _ in request.candidates] for request in requests]


def document_text(listing: Listing, fields: Collection[str]) -> str:
    """The text of a listing that the model reads: one clean line."""
    return clean(listing_text(listing, fields))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a trained cross-encoder, with its ``settings`` as a `CrossEncoderSettings`.

    Raises:
        ModelNotFoundError: When there is none.
        ModelError: When it is broken or has another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_text(path))
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{folder} holds no {MANIFEST}; train one with python -m eval.cross_encoder train in a clone of genrank"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise ModelError(f"{path}: expected format {FORMAT}, found {found!r}; train again")
    files = manifest.get("files")
    if not isinstance(files, dict) or "config.json" not in files:
        raise ModelError(f"{path}: expected 'files' with the SHA-256 of each file; train again")
    try:
        return manifest | {"settings": CrossEncoderSettings.model_validate(manifest.get("settings"))}
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        first["loc"] = ("settings", *first["loc"])
        place, message = first_problem([first])
        raise ModelError(f"{path}: {place}: {message}; train again") from None


def load_cross_encoder(folder: Path, max_length: int, seed: int | None = None) -> CrossEncoder:
    """The encoder in a folder, with a head that gives one score.

    Args:
        folder: The model's folder.
        max_length: Tokens of query and listing together.
        seed: Seed of a random head if the model has none; with None, a model must have one.

    Raises:
        ModelError: When the files are broken or do not fit.
        MissingExtraError: When sentence-transformers is not installed.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise MissingExtraError("sentence-transformers", "rankers") from None
    from torch import nn
    from transformers import AutoModelForSequenceClassification, set_seed

    from genrank.engines.loading import check_numbers, check_weights, load_fitting_tokenizer

    if seed is not None:
        set_seed(seed)
    check_files(folder)
    config = load_config(folder)
    with quiet_loading(), reading(folder):
        config.num_labels = 1
        empty = check_weights(
            AutoModelForSequenceClassification,
            folder,
            config,
            may_lack=_HEAD if seed is not None else "",
            may_hold_more=seed is not None,
        )
        load_fitting_tokenizer(empty, folder)
        model: CrossEncoder = CrossEncoder(
            str(folder),
            num_labels=1,
            max_length=max_length,
            trust_remote_code=False,
            local_files_only=True,
            activation_fn=nn.Identity(),  # a sigmoid would give all very good listings the same score
            model_kwargs={"use_safetensors": True},
            processor_kwargs={"split_special_tokens": True},  # a listing that says [SEP] stays text
        )
        check_numbers(model, folder)
    return model
