"""The manifest beside an adapter, ``genrank.json``: what it was trained with, so that it is served with the same.

Its object ``calibration`` is that of `genrank.calibration`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from genrank.errors import ConfigError
from genrank.files import read_text, write_atomically

FILE = "genrank.json"
"""Where an adapter's folder holds its manifest."""


class TrainedPrompt(pydantic.BaseModel, frozen=True, extra="ignore"):
    """A prompt template with which an adapter was trained.

    Attributes:
        name: Of the template.
        hash: Its digest (`Provenance.prompt_hash`).
        identifiers: The candidates' names in the answer, each one token of the model's; empty for ``inline``.
    """

    name: str
    hash: str
    identifiers: tuple[str, ...] = ()


class Manifest(pydantic.BaseModel, frozen=True, extra="ignore"):
    """What an adapter was trained with, and how good it was then.

    Attributes:
        format: Of the manifest.
        base_model: The model that it changes, as training named it.
        base_revision: The model's commit on the hub, or else the SHA-256 of its files.
        prompts: By decoding.
        data: The datasets, and the fingerprint of the examples that were made of them.
        metrics: Such as ``ndcg@10_inline`` on the dev queries.
        versions: Of the packages.
    """

    format: Literal[1] = 1
    base_model: str
    base_revision: str
    prompts: Mapping[str, TrainedPrompt]
    data: Mapping[str, Any] = pydantic.Field(default_factory=dict)
    metrics: Mapping[str, float] = pydantic.Field(default_factory=dict)
    versions: Mapping[str, str] = pydantic.Field(default_factory=dict)

    def check(self, adapter: str, decoding: str, prompt: str, prompt_hash: str) -> None:
        """Refuse to serve an adapter with a prompt that it was not trained with.

        Args:
            adapter: Where it is, for the message.
            decoding: That shall serve.
            prompt: Name of the template that shall serve.
            prompt_hash: Its digest.

        Raises:
            ConfigError: When it was trained for other decodings, or the prompt is another one.
        """
        override = "check_adapter=False takes it as it is"
        trained = self.prompts.get(decoding)
        if trained is None:
            known = ", ".join(self.prompts)
            raise ConfigError(f"adapter: {adapter} was trained for {known}, not for {decoding}; {override}")
        if trained.hash != prompt_hash:
            raise ConfigError(
                f"adapter: {adapter} was trained with the prompt {trained.name} of hash {trained.hash}, and this is "
                f"{prompt} of hash {prompt_hash}; pass that prompt, or train it with this one; {override}"
            )


def demo_adapter(model: str) -> Path | None:
    """The folder of the adapter that ships with genrank for a known model; None where there is none.

    It was trained on the sample shop alone (``finetune/configs/demo.yaml``), to show what training does: for a
    real shop, train one on that shop.
    """
    folder = Path(__file__).parent / "data" / "adapters" / model
    return folder if (folder / FILE).is_file() else None


def load_manifest(adapter: str | Path) -> Manifest | None:
    """The manifest of an adapter's folder; None where there is none, or one that holds a calibration only.

    Raises:
        ConfigError: When it is no JSON object, or a key is missing or wrong.
    """
    file = Path(adapter).expanduser() / FILE
    if not file.is_file():
        return None
    values = read_values(file)
    if set(values) <= {"calibration"}:
        return None
    try:
        return Manifest.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{file}: {where}: {first['msg']}") from None


def save_manifest(manifest: Manifest, adapter: str | Path) -> Path:
    """Write the manifest into an adapter's folder; other keys of a file that is there already stay.

    Returns:
        The file.

    Raises:
        ConfigError: When the file is there and holds no JSON object.
        OSError: When it cannot be written.
    """
    return merge_values(Path(adapter).expanduser() / FILE, manifest.model_dump(mode="json"))


def read_values(file: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ConfigError: When it cannot be read, or holds none.
    """
    try:
        values = json.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold a JSON object, got {type(values).__name__}")
    return values


def merge_values(file: Path, values: Mapping[str, Any]) -> Path:
    """Write keys of a file's JSON object, all at once; others that it holds stay.

    Returns:
        The file, made if need be.

    Raises:
        ConfigError: When the file is there and holds no JSON object.
        OSError: When it cannot be written.
    """
    merged = {**(read_values(file) if file.exists() else {}), **values}
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        part.write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file
