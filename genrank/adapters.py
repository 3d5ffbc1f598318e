"""An adapter's manifest, ``genrank.json``: what it was trained with, so it is always served with the same.

What was fitted on judged queries is kept in the same file, by decoding: `genrank.calibration` in the object
``calibration``, `genrank.blending` in ``blend``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import pydantic

from genrank.errors import ConfigError, first_problem
from genrank.files import read_text, write_atomically
from genrank.types import Decoding

FILE = "genrank.json"
"""The manifest's file in an adapter's folder."""

FITS = ("calibration", "blend")
"""Objects of the file that hold what was fitted on judged queries, by decoding."""

_FIT = "fit one with python -m eval.calibrate in a clone of genrank"

_log = logging.getLogger(__name__)


class TrainedPrompt(pydantic.BaseModel, frozen=True, extra="ignore"):
    """A prompt template that an adapter was trained with.

    Attributes:
        name: The template's name.
        hash: Its digest (`Provenance.prompt_hash`).
        identifiers: The candidates' names in the answer, each one token; empty for ``inline``.
    """

    name: str
    hash: str
    identifiers: tuple[str, ...] = ()


class Served(pydantic.BaseModel, frozen=True, extra="ignore"):
    """How an adapter ranks best; what `Reranker` takes if the caller names no decoding.

    Attributes:
        decoding: The decoding.
        passes: Passes over differently ordered candidates, at least 1; ``pointwise`` takes only 1.
    """

    decoding: Decoding
    passes: Annotated[int, pydantic.Field(ge=1)] = 1

    @pydantic.field_validator("passes")
    @classmethod
    def _suits_the_decoding(cls, value: int, info: pydantic.ValidationInfo) -> int:
        if value > 1 and info.data.get("decoding") == "pointwise":
            raise ValueError(f"must be 1 for pointwise, got {value}")
        return value


class Manifest(pydantic.BaseModel, frozen=True, extra="ignore"):
    """What an adapter was trained with, and how well it ranked then.

    Attributes:
        format: The manifest's format. Format 1 had no `base_weights`; its ``base_revision`` changed with each
            download of the model, and is ignored.
        base_model: The model that the adapter was trained on, as training named it.
        base_weights: Fingerprint of that model's weights (`genrank.models.weights.weights_fingerprint`); empty in
            format 1.
        prompts: The templates, by decoding.
        data: The datasets, and the fingerprint of the examples made from them.
        metrics: Figures on the dev queries, such as ``ndcg@10_inline``.
        serve: How it ranks best; None when that is not known.
        versions: Versions of the packages used in training.
    """

    format: Literal[1, 2] = 2
    base_model: str
    base_weights: Annotated[str, pydantic.Field(validate_default=True)] = ""
    prompts: Mapping[str, TrainedPrompt]
    data: Mapping[str, Any] = pydantic.Field(default_factory=dict)
    metrics: Mapping[str, float] = pydantic.Field(default_factory=dict)
    serve: Served | None = None
    versions: Mapping[str, str] = pydantic.Field(default_factory=dict)

    @pydantic.field_validator("base_weights")
    @classmethod
    def _is_there(cls, value: str, info: pydantic.ValidationInfo) -> str:
        if not value and info.data.get("format") == 2:
            raise ValueError("missing; format 2 has the SHA-256 of the base model's weights")
        return value

    def check_base(self, adapter: str, model: str, weights: str, *, same_name: bool = False) -> None:
        """Check that an adapter is used with the model it was trained on.

        A warning is logged when this cannot be checked (format 1), or when the known model is the same but came from
        another source.

        Args:
            adapter: The adapter's path, for the message.
            model: The model to use it with, as the caller named it.
            weights: The fingerprint of that model's weights.
            same_name: Whether `model` is the known name used in training; its sources store the weights in different
                precisions.

        Raises:
            ConfigError: When the weights differ from those in training.
        """
        if self.base_weights == weights:
            return
        if not self.base_weights:
            _log.warning(
                "%s does not say which weights of %s it was trained on; whether those of %s are the same is unknown",
                adapter, self.base_model, model,
            )  # fmt: skip
        elif same_name:
            _log.warning(
                "%s was trained on weights of %s from another source; scores may differ a little", adapter, model
            )
        else:
            raise ConfigError(
                f"adapter: {adapter} was trained on {self.base_model}, whose weights have the fingerprint "
                f"{self.base_weights[:16]}, and those of {model} have {weights[:16]}; use the model it was trained on, "
                "or train it on this one"
            )

    def check(self, adapter: str, decoding: str, prompt: str, prompt_hash: str) -> None:
        """Check that an adapter is served with the prompt it was trained with.

        Args:
            adapter: The adapter's path, for the message.
            decoding: The decoding to serve with.
            prompt: Name of the template to serve with.
            prompt_hash: Its digest.

        Raises:
            ConfigError: When it was trained only for other decodings, or with another prompt.
        """
        override = "check_adapter=False skips this check"
        trained = self.prompts.get(decoding)
        if trained is None:
            known = ", ".join(self.prompts)
            raise ConfigError(f"adapter: {adapter} was trained for {known}, not for {decoding}; {override}")
        if trained.hash != prompt_hash:
            raise ConfigError(
                f"adapter: {adapter} was trained with the prompt {trained.name} of hash {trained.hash}, and this is "
                f"{prompt} of hash {prompt_hash}; pass that prompt, or train it with this one; {override}"
            )


def pinned(adapter: str) -> str:
    """The folder that a link such as ``adapters/current`` points to now; any other adapter as it is.

    So all that is read of an adapter is of one version, even if the link moves meanwhile.
    """
    path = Path(adapter).expanduser()
    return str(path.parent / path.readlink()) if path.is_symlink() else adapter


def demo_adapter(model: str) -> Path | None:
    """The folder of the adapter that ships with genrank for a known model; None if there is none.

    It was trained on the sample shop alone, to show what training does. For a real shop, train an adapter on its data.
    """
    folder = Path(__file__).parent / "data" / "adapters" / model
    return folder if (folder / FILE).is_file() else None


def load_manifest(adapter: str | Path) -> Manifest | None:
    """The manifest in an adapter's folder; None if there is none, or the file holds only what was fitted.

    Raises:
        ConfigError: When it is not a JSON object, or a key is missing or wrong.
    """
    file = Path(adapter).expanduser() / FILE
    if not file.exists():
        return None
    values = read_values(file)
    if set(values) <= set(FITS):
        return None
    try:
        return Manifest.model_validate(_without_nulls(values))
    except pydantic.ValidationError as error:
        field, message = first_problem(error.errors(include_url=False))
        raise ConfigError(f"{file}: {field}: {message}") from None


def _without_nulls(value: Any) -> Any:
    """The JSON value without keys that hold null: they count as left out."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return value


def save_manifest(manifest: Manifest, adapter: str | Path) -> Path:
    """Write the manifest into an adapter's folder; other keys of an existing file stay.

    Returns:
        The file.

    Raises:
        ConfigError: When the file exists and does not hold a JSON object.
        OSError: When it cannot be written.
    """
    return merge_values(Path(adapter).expanduser() / FILE, manifest.model_dump(mode="json"))


def best_served(metrics: Mapping[str, float], passes: Mapping[Decoding, int]) -> Served | None:
    """The decoding with the highest ``ndcg@10_DECODING`` on the dev queries, the first among equals.

    Args:
        metrics: A manifest's `metrics`.
        passes: Passes by decoding.

    Returns:
        None if no decoding was measured.
    """
    measured = {decoding: metrics[f"ndcg@10_{decoding}"] for decoding in passes if f"ndcg@10_{decoding}" in metrics}
    if not measured:
        return None
    best = max(measured, key=measured.__getitem__)
    return Served(decoding=best, passes=passes[best])


class Fit(Protocol):
    """A frozen dataclass of values fitted on judged queries; an empty `prompt_hash` or `model` means any."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def decoding(self) -> str:
        """The decoding whose scores were fitted."""

    @property
    def prompt_hash(self) -> str:
        """Hash of the prompt template used in fitting."""

    @property
    def model(self) -> str:
        """The model whose scores were fitted, as its engine names it."""


F = TypeVar("F", bound=Fit)


def load_fit(key: str, kind: type[F], path: str | Path, decoding: str) -> F:
    """Read what was fitted for a decoding.

    Args:
        key: One of `FITS`.
        kind: Its class.
        path: A JSON file with the object `key`, or a folder (an adapter's) whose ``genrank.json`` is one.
        decoding: A decoding.

    Raises:
        ConfigError: When the file is missing or not JSON, holds nothing for the decoding, or a key is missing, unknown
            or wrong.
    """
    file = Path(path).expanduser()
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise ConfigError(f"{key}: there is no {file}; {_FIT}")
    stored = read_values(file).get(key)
    values = stored.get(decoding) if isinstance(stored, dict) else None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: has no {key}.{decoding}; {_FIT}")
    at = f"{file}: {key}.{decoding}"
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    del known["decoding"]
    values = {name: value for name, value in values.items() if value is not None or name not in known}
    for name, required in known.items():
        if required and name not in values:
            raise ConfigError(f"{at}.{name}: is missing")
    for name in values:
        if name not in known:
            raise ConfigError(f"{at}.{name}: unknown key; the known keys are {', '.join(known)}")
    try:
        return kind(decoding, **values)  # type: ignore[call-arg]  # it has the fields of `known`
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def stored_fit(
    key: str, kind: type[F], adapter: str | Path, *, decoding: str, prompt_hash: str, model: str
) -> F | None:
    """What is stored in an adapter's folder for exactly this use; None if nothing is.

    Raises:
        ConfigError: When its ``genrank.json`` is not JSON, or a key of what was fitted is wrong.
    """
    file = Path(adapter).expanduser() / FILE
    stored = read_values(file).get(key, {}) if file.is_file() else {}
    if not isinstance(stored, dict) or decoding not in stored:
        return None
    fit = load_fit(key, kind, file, decoding)
    try:
        check_fit(key, fit, decoding=decoding, prompt_hash=prompt_hash, model=model)
    except ConfigError:
        return None
    return fit


def check_fit(key: str, fit: Fit, *, decoding: str, prompt_hash: str, model: str) -> None:
    """Check that a fit is used for the decoding, the prompt and the model it was made for.

    Raises:
        ConfigError: When one of them differs.
    """
    fix = f"fit one for these with python -m eval.calibrate in a clone of genrank, or leave the {key} out"
    if decoding != fit.decoding:
        raise ConfigError(f"{key}: fitted for the decoding {fit.decoding}, not for {decoding}; {fix}")
    for name, fitted, here in (("prompt hash", fit.prompt_hash, prompt_hash), ("model", fit.model, model)):
        if fitted and fitted != here:
            raise ConfigError(f"{key}: fitted with the {name} {fitted}, not {here}; {fix}")


def save_fit(key: str, fit: Fit, path: str | Path) -> Path:
    """Write what was fitted; other decodings' values and other keys of an existing file stay.

    Args:
        key: One of `FITS`.
        fit: The values.
        path: A file whose name ends in ``.json``, or a folder (an adapter's) for a ``genrank.json``; created if
            needed.

    Returns:
        The file.

    Raises:
        ConfigError: When the file exists and does not hold a JSON object.
        OSError: When it cannot be written.
    """
    file = Path(path).expanduser()
    file = file if file.suffix == ".json" and not file.is_dir() else file / FILE
    values = read_values(file) if file.exists() else {}
    entry = dataclasses.asdict(fit)
    kept = values.get(key)
    return merge_values(file, {key: (kept if isinstance(kept, dict) else {}) | {entry.pop("decoding"): entry}})


def read_values(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: When the file cannot be read, or does not hold a JSON object.
    """
    try:
        values = json.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold a JSON object, got {type(values).__name__}")
    return values


def merge_values(file: Path, values: Mapping[str, Any]) -> Path:
    """Write keys of a file's JSON object, all at once; its other keys stay.

    Returns:
        The file, which is created if needed.

    Raises:
        ConfigError: When the file exists and does not hold a JSON object.
        OSError: When it cannot be written.
    """
    merged = {**(read_values(file) if file.exists() else {}), **values}
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        part.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file
